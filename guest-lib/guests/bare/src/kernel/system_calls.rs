//! System calls: the kernel's side of [`crate::syscall`].

use core::mem;

use postern_guest_bare::status;
use x86_64::instructions::{interrupts, tlb};

use super::exceptions::raise;
use super::paging::Rights;
use super::state::{Fixup, with_state};
use super::trap_frame::TrapFrame;
use crate::arch::apic;
use crate::console::{exit, println};
use crate::exception::catch_exception;
use crate::syscall;

/// Serves the system call in a frame's registers. Result: the value for RAX.
pub fn system_call(frame: &mut TrapFrame) -> u64 {
    match frame.rax {
        syscall::WAIT => {
            interrupts::enable_and_hlt();
            interrupts::disable();
            apic::ticks()
        }
        syscall::SET_FIXUP => {
            let fixup = Fixup {
                rip: frame.rdi,
                rsp: frame.rsi,
            };
            let level = frame.level();
            with_state(|state| state.fixups[level] = (fixup.rip != 0).then_some(fixup));
            0
        }
        syscall::PRIVILEGED => {
            // SAFETY: the program asks for one of this image's functions of that type, which has
            // the same address in the kernel's copy.
            let work = unsafe {
                mem::transmute::<usize, extern "sysv64" fn(u64) -> u64>(frame.rdi as usize)
            };
            let argument = frame.rsi;
            match catch_exception(|| work(argument)) {
                Ok(result) => result,
                Err(exception) => {
                    raise(frame, exception);
                    frame.rax
                }
            }
        }
        syscall::MAP => {
            let range = frame.rdi..frame.rdi + frame.rdx;
            let (rights, kernel_too) = match frame.r10 {
                syscall::MAP_READ => (Some(Rights::USER_READ), false),
                syscall::MAP_WRITE => (Some(Rights::USER_WRITE), false),
                syscall::MAP_EXECUTE => (Some(Rights::USER_CODE), false),
                syscall::MAP_KERNEL_WRITE => (Some(Rights::WRITE), true),
                syscall::MAP_KERNEL_EXECUTE => (Some(Rights::CODE), true),
                _ => (None, true),
            };
            with_state(|state| {
                state.kernel.unmap(range.clone());
                state.program.unmap(range.clone());
                if let Some(rights) = rights {
                    let spaces = [
                        Some(&mut state.program),
                        kernel_too.then_some(&mut state.kernel),
                    ];
                    for space in spaces.into_iter().flatten() {
                        space.map(&mut state.frames, range.clone(), frame.rsi, rights);
                    }
                }
            });
            // The program's translations go when it resumes.
            tlb::flush_all();
            0
        }
        syscall::SET_ROOT => {
            let own = with_state(|state| state.program.root().start_address().as_u64());
            let root = if frame.rdi == 0 { own } else { frame.rdi };
            mem::replace(&mut frame.root, root)
        }
        number => {
            println!("error: there is no system call {number}");
            exit(status::CRASHED);
        }
    }
}
