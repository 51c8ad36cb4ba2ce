//! From a TAP to the guest.
#![deny(unsafe_code)]

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::AsFd;

use super::fault::Fault;
use super::header::{HEADER, NUM_BUFFERS};
use super::ring::{Chain, Direction, Ring};
use crate::virtio::buffers::{Buffers, MAX_VECTORS};

/// Frames that are moved before others get their turn.
pub const BURST: usize = 64;

/// The longest frame that a TAP gives, with its header, in bytes: a large segment with its Ethernet
/// header and a VLAN tag.
pub const LONGEST: usize = HEADER + 65535 + 18;

/// Why a burst has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// The TAP has no frame.
    NoFrame,
    /// The driver has made no buffers available; it will tell of the next ones.
    NoBuffers,
    /// Others are to have their turn.
    Burst,
}

/// A receive queue.
///
/// Frames are read into buffers of the guest's, as many as the longest frame may need. Where there
/// are fewer, the rest of a long frame goes to memory of our own, and waits for more buffers.
pub struct Receive {
    ring: Ring,
    /// What `chains` consist of.
    buffers: Buffers,
    chains: VecDeque<Chain>,
    /// Whether a frame may take several chains (`VIRTIO_NET_F_MRG_RXBUF`).
    mergeable: bool,
    overflow: Box<[u8]>,
    waiting: Option<Waiting>,
    /// Frames that no buffers could have taken.
    pub dropped: u64,
}

/// A frame whose rest is in `overflow`.
#[derive(Clone, Copy)]
struct Waiting {
    size: usize,
    /// Bytes of it that are in buffers.
    done: usize,
}

impl Receive {
    /// A receive queue whose `buffers` are empty.
    pub fn new(ring: Ring, buffers: Buffers, mergeable: bool) -> Receive {
        Receive {
            ring,
            buffers,
            chains: VecDeque::new(),
            mergeable,
            overflow: vec![0; LONGEST].into(),
            waiting: None,
            dropped: 0,
        }
    }

    /// Moves frames from `tap`, until one of three things ends it.
    pub fn burst(&mut self, tap: impl AsFd) -> Result<Received, Fault> {
        let result = self.frames(tap);
        self.ring.publish()?;
        result
    }

    fn frames(&mut self, tap: impl AsFd) -> Result<Received, Fault> {
        self.ring.disable_kicks()?;
        for _ in 0..BURST {
            while !self.ready()? {
                if !self.ring.enable_kicks()? {
                    return Ok(Received::NoBuffers);
                }
                self.ring.disable_kicks()?;
            }
            if let Some(Waiting { size, .. }) = self.waiting.take() {
                self.give(size)?;
                continue;
            }
            let room = self.room();
            let size = match self.buffers.receive_from(tap.as_fd(), &mut self.overflow) {
                Ok(size) => size,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(Received::NoFrame),
                    ErrorKind::Interrupted => continue,
                    _ => return Err(Fault::Tap(error)),
                },
            };
            if size < HEADER {
                // No TAP does that.
                self.dropped += 1;
            } else if size <= room {
                self.give(size)?;
            } else if self.mergeable {
                self.waiting = Some(Waiting { size, done: room });
            } else {
                self.dropped += 1;
            }
        }
        Ok(Received::Burst)
    }

    /// Bytes that there are buffers for.
    fn room(&self) -> usize {
        self.buffers.len() as usize
    }

    /// Whether there are buffers enough to go on, after all that the driver has made available were
    /// taken, as far as they are needed.
    fn ready(&mut self) -> Result<bool, Fault> {
        let (wanted, most) = match self.mergeable {
            true => (LONGEST, usize::from(self.ring.size())),
            false => (1, 1),
        };
        // One more chain has at most as many vectors as there are descriptors, or a few more.
        let most_vectors = MAX_VECTORS.saturating_sub(2 * usize::from(self.ring.size()));
        while self.room() < wanted
            && self.chains.len() < most
            && self.buffers.vectors() <= most_vectors
        {
            match self.ring.gather(Direction::Receive, &mut self.buffers)? {
                Some(chain) => self.chains.push_back(chain),
                None => break,
            }
        }
        let Some(Waiting { size, done }) = self.waiting else {
            return Ok(!self.chains.is_empty());
        };
        if self.room() >= size {
            let rest = self.overflow.get(..size - done).unwrap_or_default();
            self.buffers.copy_in(done, rest);
            return Ok(true);
        }
        if self.chains.len() >= most || self.buffers.vectors() > most_vectors {
            // The driver has made available all that it can.
            self.waiting = None;
            self.dropped += 1;
            return Ok(true);
        }
        Ok(false)
    }

    /// Gives the frame of `size` bytes that is in the first buffers to the driver.
    fn give(&mut self, size: usize) -> Result<(), Fault> {
        let (mut count, mut room) = (0u16, 0);
        for chain in &self.chains {
            count += 1;
            room += chain.size;
            if room >= size {
                break;
            }
        }
        self.buffers.copy_in(NUM_BUFFERS, &count.to_le_bytes());
        let mut rest = size;
        for _ in 0..count {
            let Some(chain) = self.chains.pop_front() else {
                break;
            };
            let part = rest.min(chain.size);
            rest -= part;
            self.buffers.skip_vectors(chain.vectors);
            self.ring.push_used(chain.head, part as u32)?;
        }
        Ok(())
    }
}
