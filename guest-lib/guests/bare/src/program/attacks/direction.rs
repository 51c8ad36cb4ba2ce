//! A call with the direction flag set, which turns string instructions around: a copy would write
//! below its target, which is other ports' memory, and never reach it.
#![deny(unsafe_code)]

use super::attacker::Attacker;
use super::state::{State, exchange};
use super::verdict::{Verdict, repelled, succeeded};

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    for direction in [false, true] {
        let mut state = State {
            direction,
            ..State::default()
        };
        match exchange(attacker, &mut state) {
            Ok(true) => {}
            Ok(false) => return succeeded!("with DF {direction}, the frame does not come back"),
            Err(exception) => {
                return succeeded!("with DF {direction}, the copy ran wild: {exception}");
            }
        }
    }
    repelled!("frames arrive as they were sent, whatever the direction flag")
}
