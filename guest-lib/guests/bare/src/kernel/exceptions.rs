//! Exceptions of the kernel's and the program's code.
#![deny(unsafe_code)]

use postern_abi::guest_words::{SUCCEEDED, attack};
use postern_guest_bare::status;
use x86_64::registers::rflags::RFlags;

use super::state::with_state;
use super::trap_frame::TrapFrame;
use crate::console::{exit, println};
use crate::exception::Exception;

/// Resumes the interrupted code at its fixup, or ends the VM if it has set none.
pub fn raise(frame: &mut TrapFrame, exception: Exception) {
    let level = frame.level();
    let Some(fixup) = with_state(|state| state.fixups[level].take()) else {
        if exception.is_abort() && level == 0 {
            // The kernel has made no call: CPL 0 came about in a view, as the attack `idt` wants.
            println!(
                "attack {}: {SUCCEEDED}: a call ended at CPL 0: an event was delivered in a view",
                attack::IDT
            );
            exit(status::FAILED);
        }
        let cpl = frame.cs & 3;
        println!("error: unexpected at CPL {cpl}: {exception}");
        exit(status::CRASHED);
    };
    *frame = TrapFrame {
        rip: fixup.rip,
        rsp: fixup.rsp,
        rdi: exception.vector,
        rsi: exception.error,
        rdx: exception.rip,
        rcx: exception.cr2,
        root: frame.root,
        cs: frame.cs,
        ss: frame.ss,
        rflags: frame.rflags & !(RFlags::TRAP_FLAG | RFlags::DIRECTION_FLAG).bits(),
        ..TrapFrame::default()
    };
}
