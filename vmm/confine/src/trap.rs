//! What becomes of a process whose thread makes a call that its filter refuses: one line that names
//! the thread and the call, and an end with a status of its own. No call after this is trusted, so
//! nothing else is done, but what a program asks for by [`before_the_end`].

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_int, c_void, siginfo_t};

use crate::error::Error;
use crate::kind::Kind;

thread_local! {
    /// The kind of this thread. No destructor, and no initialisation at its first use: the handler
    /// reads it.
    static KIND: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// The status that the process ends with.
static STATUS: AtomicI32 = AtomicI32::new(0);

/// What is done before the end.
static LAST_ACT: OnceLock<fn()> = OnceLock::new();

/// Has `act` done before a refused call ends the process, on the thread that made it: it makes only
/// calls that are async-signal-safe and that all threads may make, takes no lock that it would have
/// to wait for, and allocates nothing. The first one counts.
pub fn before_the_end(act: fn()) {
    let _ = LAST_ACT.set(act);
}

/// Notes the kind of the calling thread.
pub(crate) fn note(kind: Kind) {
    KIND.set(Some(kind));
}

/// Installs the handler; threads that have no rt_sigaction in their filter cannot change it.
pub(crate) fn install(status: u8) -> Result<(), Error> {
    STATUS.store(status.into(), Ordering::Relaxed);
    // SAFETY: all zeros are an action: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = refused as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
    // SAFETY: the action is whole, and its handler makes async-signal-safe calls only.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(Error::Handler(io::Error::last_os_error())),
    }
}

/// Start of a `siginfo_t` for SIGSYS (`_sigsys` in include/uapi/asm-generic/siginfo.h of Linux).
#[repr(C)]
struct RefusedCall {
    signal: c_int,
    error: c_int,
    code: c_int,
    address: *mut c_void,
    number: c_int,
    architecture: u32,
}

extern "C" fn refused(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives each handler with SA_SIGINFO a siginfo_t, which is larger than this
    // and aligned as pointers are; for SIGSYS it has these members.
    let info = unsafe { &*info.cast::<RefusedCall>() };
    // SAFETY: and a ucontext_t, in which the registers are as they were at the call.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let kind = KIND.get().map_or("unnamed", Kind::name);
    if let Some(act) = LAST_ACT.get() {
        act();
    }
    let mut line = Line::default();
    line.text("postern: a thread (");
    line.text(kind);
    line.text(") made system call ");
    line.number(info.number.unsigned_abs());
    line.text(" (");
    for (index, register) in [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX]
        .into_iter()
        .enumerate()
    {
        line.text(if index == 0 { "0x" } else { ", 0x" });
        line.hexadecimal(registers[register as usize] as u64);
    }
    line.text(", ...), which it may not: the process ends here\n");
    // SAFETY: the bytes are there; both calls are async-signal-safe.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.used);
        libc::_exit(STATUS.load(Ordering::Relaxed));
    }
}

/// A line of text that needs no allocation.
struct Line {
    bytes: [u8; 200],
    used: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line {
            bytes: [0; 200],
            used: 0,
        }
    }
}

impl Line {
    fn text(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            if let Some(to) = self.bytes.get_mut(self.used) {
                *to = byte;
                self.used += 1;
            }
        }
    }

    fn number(&mut self, number: u32) {
        if number >= 10 {
            self.number(number / 10);
        }
        self.digit(number % 10);
    }

    fn hexadecimal(&mut self, number: u64) {
        if number >= 16 {
            self.hexadecimal(number / 16);
        }
        self.digit((number % 16) as u32);
    }

    fn digit(&mut self, digit: u32) {
        let digit = char::from_digit(digit, 16).unwrap_or('?');
        self.text(digit.encode_utf8(&mut [0; 4]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_numbers_and_an_end() {
        let mut line = Line::default();
        line.text("call ");
        line.number(0);
        line.text(" ");
        line.number(4_096);
        line.text(" 0x");
        line.hexadecimal(u64::MAX - 1);
        line.text(" 0x");
        line.hexadecimal(0);
        let text = b"call 0 4096 0xfffffffffffffffe 0x0";
        assert_eq!(&line.bytes[..line.used], text);
        for _ in 0..100 {
            line.text("longer than there is room for");
        }
        assert_eq!(line.used, line.bytes.len());
    }
}
