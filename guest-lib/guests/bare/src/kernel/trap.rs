//! The handler of all vectors: interrupts, exceptions and system calls.
#![deny(unsafe_code)]

use x86_64::registers::control::Cr2;

use super::exceptions::raise;
use super::system_calls::system_call;
use super::trap_frame::TrapFrame;
use crate::arch::apic;
use crate::exception::Exception;
use crate::syscall;

/// Serves a vector. All stubs call it, on a trap stack and in the kernel's address space.
pub extern "sysv64" fn handle(frame: &mut TrapFrame) {
    match frame.vector as u8 {
        apic::TIMER => {
            apic::count_tick();
            apic::end_of_interrupt();
        }
        apic::SPURIOUS => {}
        syscall::VECTOR => frame.rax = system_call(frame),
        vector => {
            let exception = Exception {
                vector: vector.into(),
                error: frame.error,
                rip: frame.rip,
                cr2: Cr2::read_raw(),
            };
            raise(frame, exception);
        }
    }
}
