//! Role `calls`: the cost of a call by itself.
//!
//! Two loops of the same structure run between snapshots of the counters. Both load the three
//! arguments of an empty request; one calls the service with them. Their difference is the cost of
//! the calls.

use core::arch::asm;

use postern_abi::platform::label;
use postern_abi::service::OP_NOP;
use postern_guest::nic::Nic;
use postern_guest::service::Service;

use super::error::RoleError;
use super::port::{self, PortRole};
use super::resources::Resources;
use crate::console::{println, snapshot_counters};

/// Number of calls before the first snapshot, so that page tables and caches are warm.
const WARM_UP: u64 = 100;

/// The role `calls`.
struct Calls;

/// Plays the role.
pub fn run(resources: Resources) -> Result<(), RoleError> {
    port::with_port(resources, Calls)
}

impl PortRole for Calls {
    fn run<S: Service>(self, resources: &mut Resources, mut nic: Nic<S>) -> Result<(), RoleError> {
        let service = nic.service();
        let calls = resources.options.calls;
        for _ in 0..WARM_UP {
            if let Some(answer @ 1..) = service.call(OP_NOP, 0, 0) {
                return Err(RoleError::Answer(answer));
            }
        }
        snapshot_counters(label::NOTHING_BEGIN);
        snapshot_counters(label::NOTHING_END);

        snapshot_counters(label::LOOP_BEGIN);
        repeat(calls, || NoCall.call(OP_NOP, 0, 0));
        snapshot_counters(label::LOOP_END);

        snapshot_counters(label::CALLS_BEGIN);
        repeat(calls, || service.call(OP_NOP, 0, 0));
        snapshot_counters(label::CALLS_END);
        println!("result role=calls calls={calls}");
        Ok(())
    }
}

/// Runs `work` `count` times, not zero.
#[inline(always)]
fn repeat(count: u64, mut work: impl FnMut() -> Option<u64>) {
    let mut left = count;
    while left != 0 {
        work();
        // The compiler cannot tell the two loops apart by their counting.
        // SAFETY: the instruction counts down the register of `left`, and touches no memory.
        unsafe { asm!("dec {0}", inout(reg) left, options(nomem, nostack)) };
    }
}

/// A service that is not called: the arguments are loaded, the registers of a call are taken for
/// overwritten, and nothing else happens.
struct NoCall;

impl Service for NoCall {
    #[inline(always)]
    fn call(&mut self, op: u64, a: u64, b: u64) -> Option<u64> {
        // SAFETY: the block has no instruction; its operands only tell the compiler what a call
        // overwrites.
        unsafe {
            asm!(
                "",
                inlateout("rdi") op => _,
                inlateout("rsi") a => _,
                inlateout("rdx") b => _,
                lateout("rax") _,
                lateout("rcx") _,
                lateout("r8") _,
                lateout("r9") _,
                lateout("r10") _,
                lateout("r11") _,
                options(nomem, nostack, preserves_flags),
            );
        }
        None
    }
}
