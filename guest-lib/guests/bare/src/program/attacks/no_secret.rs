//! Requests by a process that does not map the window, and so does not know the secret of the
//! tenancy: to turn off the offloads that the guest's driver agreed on, and to have frames taken
//! that the driver keeps back.
#![deny(unsafe_code)]

use postern_abi::service::{OP_FEATURES, OP_TX, tx_flags};
use postern_abi::window::FEATURES;
use postern_guest::ring::TxQueue;
use postern_guest::service::Refused;

use super::attacker::Attacker;
use super::verdict::{Verdict, repelled, succeeded};

/// Number of words that are guessed besides the numbers of requests.
const GUESSES: u64 = 1000;

/// Length in bytes of the driver's frames.
const LENGTH: usize = 60;

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    // The driver: it has the secret from the window, agrees on offloads, and writes a frame that it
    // does not give to the NIC yet, but for the producer position.
    let window = attacker.window();
    let agreed = attacker.request(window.request(OP_FEATURES), FEATURES.into(), 0);
    if agreed.is_some_and(|agreed| agreed != u64::from(FEATURES)) {
        return succeeded!("the driver's own request is refused: {agreed:x?}");
    }
    let mut tx = TxQueue::new(window, 0);
    // A frame to the port's own station, which goes to no other port: who waits there for the first
    // frame is not to take this one for it.
    let mut frame = [0; LENGTH];
    frame[..6].copy_from_slice(&window.mac());
    frame[6..12].copy_from_slice(&window.mac());
    if tx.write(&frame).is_err() {
        return succeeded!("the driver's ring is full");
    }
    tx.commit();

    // The process: it makes the same calls, with what it can know or guess.
    let mut guess = u64::from_le_bytes([0x5e, 0xc2, 0xe7, 0x01, 0x23, 0x45, 0x67, 0x89]);
    let mut refused = 0;
    for number in 0..GUESSES {
        let (word, count) = match number {
            0 => (OP_FEATURES, 0),
            1 => (OP_TX, u64::MAX),
            _ => {
                guess ^= guess << 13;
                guess ^= guess >> 7;
                guess ^= guess << 17;
                (guess, u64::MAX)
            }
        };
        match attacker.request(word, count, tx_flags(0, false)) {
            Some(result) if Refused::check(result).is_ok() => {
                return succeeded!("request {word:#x} is served without the secret: {result:#x}");
            }
            _ if tx.is_empty() => return succeeded!("the driver's frame was taken"),
            _ => refused += 1,
        }
    }

    // The driver goes on: its frame was not taken, and is now.
    attacker.request(window.request(OP_TX), 1, tx_flags(0, false));
    if !tx.is_empty() {
        return succeeded!("the driver's own frame is not taken any more");
    }
    repelled!("{refused} requests without the secret were refused, and the driver goes on")
}
