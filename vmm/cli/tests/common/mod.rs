//! What the tests share: running the program, and tiny guests.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::PathBuf;
use std::process::{Command, Output};

#[path = "../../../tests/elf/mod.rs"]
pub mod elf;

/// Assembles a guest. It is linked nowhere: its code must not depend on its address.
#[allow(unused_macros, reason = "each test file uses its own part")]
macro_rules! guest {
    ($name:ident, $start:literal, $end:literal, $($line:literal),* $(,)?) => {
        std::arch::global_asm!(
            concat!(".globl ", $start),
            concat!(".globl ", $end),
            concat!($start, ":"),
            $($line,)*
            concat!($end, ":"),
        );

        fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = $start]
                static START: u8;
                #[link_name = $end]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: both symbols are in the block above, the second after the first.
            unsafe {
                let length = end.offset_from(start) as usize;
                std::slice::from_raw_parts(start, length)
            }
        }
    };
}

#[allow(unused_imports, reason = "each test file uses its own part")]
pub(crate) use guest;

/// Runs `postern` with these arguments.
pub fn postern<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    Command::new(program()).args(args).output().unwrap()
}

/// The program under test; `POSTERN` names another than the build's own.
pub fn program() -> PathBuf {
    std::env::var_os("POSTERN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_postern").into())
        .into()
}

/// The error output as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a test that runs guests has to be skipped; says why.
pub fn skip_without_vmx() -> bool {
    if let Err(error) = kvm_ioctls::Kvm::new() {
        println!("SKIP: /dev/kvm cannot be opened: {error}");
        return true;
    }
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let skip = !cpuinfo.contains("vmx flags");
    if skip {
        println!("SKIP: this CPU has no VMX; its KVM does not run guest kernel code faithfully");
    }
    skip
}
