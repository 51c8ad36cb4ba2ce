//! What the tests share: running the program, and tiny guests.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../../../tests/elf/mod.rs"]
pub mod elf;

/// How long a test waits for what has to come.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Assembles a guest. It is linked nowhere: its code must not depend on its address.
#[allow(unused_macros, reason = "each test file uses its own part")]
macro_rules! guest {
    ($visibility:vis $name:ident, $start:literal, $end:literal, $($line:literal),* $(,)?) => {
        std::arch::global_asm!(
            concat!(".globl ", $start),
            concat!(".globl ", $end),
            concat!($start, ":"),
            $($line,)*
            concat!($end, ":"),
        );

        $visibility fn $name() -> &'static [u8] {
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

// Raises RTS, sends back what it receives, and ends with 42 after a 'q'.
guest!(
    pub echo,
    "postern_test_echo",
    "postern_test_echo_end",
    "mov dx, 0x3fc",
    "mov al, 3",
    "out dx, al",
    "2: mov dx, 0x3fd",
    "in al, dx",
    "test al, 1",
    "jz 2b",
    "mov dx, 0x3f8",
    "in al, dx",
    "out dx, al",
    "cmp al, 'q'",
    "jne 2b",
    "mov dx, 0xce0",
    "mov eax, 42",
    "out dx, eax",
    "4: hlt",
    "jmp 4b",
);

// Sleeps for ever.
guest!(
    pub sleeper,
    "postern_test_sleeper",
    "postern_test_sleeper_end",
    "4: hlt",
    "jmp 4b",
);

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

/// Starts `postern nic` on a socket, with these arguments; with the line that it says of itself.
pub fn start_nic(socket: &Path, more: &[&str]) -> (Child, String) {
    start_nic_by(Command::new(program()), socket, more)
}

/// The same by a command that runs the program.
pub fn start_nic_by(mut program: Command, socket: &Path, more: &[&str]) -> (Child, String) {
    let mut child = program
        .arg("nic")
        .arg("--socket")
        .arg(socket)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    (child, line)
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

/// Sends a signal to a child that has not been waited for.
pub fn signal(child: &Child, signal: i32) {
    // SAFETY: our own child, whose number nobody else can have yet.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// Waits for something; a test fails if it does not come.
#[track_caller]
pub fn wait_for<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = there() {
            return value;
        }
        assert!(start.elapsed() < TIMEOUT, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until something is so; a test fails if it never is.
#[track_caller]
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    wait_for(what, || so().then_some(()));
}
