//! From the guest to a TAP.
#![deny(unsafe_code)]

use std::io::ErrorKind;
use std::os::fd::AsFd;

use super::fault::Fault;
use super::header::HEADER;
use super::receive::{BURST, LONGEST};
use super::ring::{Direction, Ring};
use crate::virtio::buffers::Buffers;

/// Why a burst has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The driver has no more frames; it will tell of the next ones.
    NoFrame,
    /// The TAP takes no more now.
    Full,
    /// Others are to have their turn.
    Burst,
}

/// A transmit queue.
pub struct Transmit {
    ring: Ring,
    /// Those of the frame that is being sent.
    buffers: Buffers,
    /// Frames that were not sent: longer than any that a TAP gives, or refused by the TAP for their
    /// header, their length, or since it is down.
    pub refused: u64,
}

impl Transmit {
    /// A transmit queue whose `buffers` are empty.
    pub fn new(ring: Ring, buffers: Buffers) -> Transmit {
        Transmit {
            ring,
            buffers,
            refused: 0,
        }
    }

    /// Moves frames to `tap`, until one of three things ends it.
    pub fn burst(&mut self, tap: impl AsFd) -> Result<Sent, Fault> {
        let result = self.frames(tap);
        self.ring.publish()?;
        result
    }

    fn frames(&mut self, tap: impl AsFd) -> Result<Sent, Fault> {
        self.ring.disable_kicks()?;
        let mut left = BURST;
        while left > 0 {
            self.buffers.clear();
            let Some(chain) = self.ring.gather(Direction::Transmit, &mut self.buffers)? else {
                // What is done is seen before the driver is asked for more.
                self.ring.publish()?;
                if !self.ring.enable_kicks()? {
                    return Ok(Sent::NoFrame);
                }
                self.ring.disable_kicks()?;
                // It counts as a frame: no driver can keep us here.
                left -= 1;
                continue;
            };
            if chain.size < HEADER {
                return Err(Fault::NoHeader);
            }
            if chain.size > LONGEST {
                // A chain may name the same memory again and again, up to 4 GiB, and the kernel would
                // try to have all of it in one piece.
                self.refused += 1;
                self.ring.push_used(chain.head, 0)?;
                left -= 1;
                continue;
            }
            match self.buffers.send_to(tap.as_fd()) {
                Ok(_) => {}
                Err(error) => match (error.kind(), error.raw_os_error()) {
                    (ErrorKind::WouldBlock, _) => {
                        self.ring.undo_pop();
                        return Ok(Sent::Full);
                    }
                    (ErrorKind::Interrupted, _) => {
                        self.ring.undo_pop();
                        left -= 1;
                        continue;
                    }
                    (_, Some(libc::EBADFD | libc::EBADF)) => return Err(Fault::Tap(error)),
                    // A header that cannot be, a TAP that is down: the frame is lost.
                    _ => self.refused += 1,
                },
            }
            self.ring.push_used(chain.head, 0)?;
            left -= 1;
        }
        Ok(Sent::Burst)
    }
}
