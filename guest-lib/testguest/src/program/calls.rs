//! Role `calls`: what a call costs by itself.

use core::hint::black_box;

use postern_abi::machine::mark;
use postern_abi::service::OP_NOP;
use postern_guest::nic::Nic;
use postern_guest::service::Service;

use super::Machine;
use super::failure::Failure;
use super::nic::{self, Work};
use crate::console::{mark, println};

/// Calls before the first mark, so that page tables and caches are as they will be.
const WARM_UP: u64 = 100;

struct Calls;

/// Plays the role.
pub fn play(machine: Machine) -> Result<(), Failure> {
    nic::with_port(machine, Calls)
}

impl Work for Calls {
    fn run<S: Service>(self, machine: &mut Machine, mut nic: Nic<S>) -> Result<(), Failure> {
        let service = nic.service();
        let calls = machine.options.calls;
        for _ in 0..WARM_UP {
            if let Some(answer @ 1..) = service.call(OP_NOP, 0, 0) {
                return Err(Failure::Answer(answer));
            }
        }
        mark(mark::NOTHING_BEGIN);
        mark(mark::NOTHING_END);

        mark(mark::LOOP_BEGIN);
        repeat(calls, || {});
        mark(mark::LOOP_END);

        mark(mark::CALLS_BEGIN);
        repeat(calls, || {
            service.call(OP_NOP, 0, 0);
        });
        mark(mark::CALLS_END);
        println!("result role=calls calls={calls}");
        Ok(())
    }
}

/// Does something `count` times, not zero.
#[inline(always)]
fn repeat(count: u64, mut work: impl FnMut()) {
    let mut left = count;
    while left != 0 {
        work();
        left = black_box(left - 1);
    }
}
