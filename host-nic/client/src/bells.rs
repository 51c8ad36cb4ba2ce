//! Bells of a NIC: an eventfd for each RX queue, by which whoever sends wakes the queue's guest
//! ([`postern_abi::window`], "Sleeping").
//!
//! The owner makes them with the NIC and gives all of them to each tenant: a tenant waits for those
//! of its own port, and signals those of others. Whoever has a bell can ring it, and can take a ring
//! away from whom it was meant for, who then sleeps until the owner looks after it.
#![forbid(unsafe_code)]

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use postern_abi::window::{BELL_WORDS, Geometry, PortId};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::signal::Signaller;

/// The bells of a NIC, by the number of the RX queue in the whole NIC.
#[derive(Debug)]
pub struct Bells {
    geometry: Geometry,
    fds: Vec<OwnedFd>,
    /// Rings without waiting, whatever others do to a bell; where the kernel has no such way, a ring
    /// asks before whether it would wait.
    signaller: Option<Signaller>,
}

impl Bells {
    /// The number of bells of a NIC: one for each of its RX queues.
    pub const fn count(geometry: Geometry) -> usize {
        geometry.senders() as usize
    }

    /// Makes the bells of a new NIC.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn create(geometry: Geometry) -> Result<Bells, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let one = |_| eventfd(0, flags);
        let fds = (0..Bells::count(geometry))
            .map(one)
            .collect::<Result<_, _>>()?;
        Ok(Bells::new(geometry, fds))
    }

    /// Bells that another process has made; `None` if they are not as many as the NIC's RX queues.
    pub fn from_fds(geometry: Geometry, fds: Vec<OwnedFd>) -> Option<Bells> {
        (fds.len() == Bells::count(geometry)).then(|| Bells::new(geometry, fds))
    }

    fn new(geometry: Geometry, fds: Vec<OwnedFd>) -> Bells {
        let signaller = Signaller::new().ok();
        Bells {
            geometry,
            fds,
            signaller,
        }
    }

    /// Ports and queues of the NIC whose bells they are.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The bells, in the order of their queues' numbers.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd)
    }

    /// The bell of an RX queue, by its number in the whole NIC.
    pub fn get(&self, queue: u32) -> Option<BorrowedFd<'_>> {
        self.fds.get(queue as usize).map(AsFd::as_fd)
    }

    /// The bells of a port's RX queues, in the order of the queues.
    pub fn of_port(&self, port: PortId) -> impl Iterator<Item = BorrowedFd<'_>> {
        let geometry = self.geometry;
        (0..geometry.queues()).filter_map(move |queue| self.get(geometry.rx_queue(port, queue)))
    }

    /// Rings the bell of an RX queue. What names no queue is harmless, and so is a bell that was
    /// rung so often that its count is full: who waits for it has been told.
    pub fn ring(&self, queue: u32) {
        let Some(bell) = self.get(queue) else {
            return;
        };
        let signaller = self.signaller.as_ref();
        if signaller.is_none_or(|signaller| signaller.signal(bell).is_err()) {
            ring(bell);
        }
    }

    /// Rings the bells of all queues whose bits are set, as a TX queue's `bells` has them; gives
    /// their number.
    pub fn ring_all(&self, bits: [u64; BELL_WORDS]) -> u32 {
        let queues = queues_of(bits).inspect(|&queue| self.ring(queue));
        queues.count() as u32
    }

    /// Rings all bells of a port.
    pub fn ring_port(&self, port: PortId) {
        let queues = 0..self.geometry.queues();
        queues.for_each(|queue| self.ring(self.geometry.rx_queue(port, queue)));
    }
}

/// Rings a bell. Others have the same file and may have cleared its `O_NONBLOCK`, so it is not
/// written while its count is full. Who fills it in between can still make the caller wait:
/// [`Bells::ring`] does not.
pub fn ring(bell: BorrowedFd<'_>) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(bell, PollFlags::OUT)];
    // Of a count that the kernel's own signals have filled it says an error.
    let asked = poll(&mut fds, Some(&now));
    if asked.is_ok() && fds[0].revents().contains(PollFlags::OUT) {
        let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
    }
}

/// Takes the rings of a bell: how often it was rung since the last time, 0 for never. It does not
/// wait, whatever others have done to the bell.
pub fn take(bell: BorrowedFd<'_>) -> u64 {
    // The position of a file that has none.
    const NONE: u64 = u64::MAX;
    let mut count = [0; 8];
    let mut parts = [IoSliceMut::new(&mut count)];
    match preadv2(bell, &mut parts, NONE, ReadWriteFlags::NOWAIT) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

/// The numbers of the RX queues whose bits are set.
pub fn queues_of(bits: [u64; BELL_WORDS]) -> impl Iterator<Item = u32> {
    let words = (0u32..).zip(bits);
    words.flat_map(|(number, word)| {
        let set = (0..u64::BITS).filter(move |bit| word >> bit & 1 != 0);
        set.map(move |bit| number * u64::BITS + bit)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    fn geometry() -> Geometry {
        Geometry::new(64, 4, 1 << 12, 1 << 12).unwrap()
    }

    #[test]
    fn bells_are_those_of_their_queues() {
        let bells = Bells::create(geometry()).unwrap();
        assert_eq!(bells.fds().count(), 256);
        let counts = |bells: &Bells| -> Vec<u64> { bells.fds().map(take).collect() };
        let mut expected = vec![0; 256];
        let rung = bells.ring_all([1 | 1 << 63, 0, 1 << 5, 1 << 63]);
        assert_eq!(rung, 4);
        for queue in [0, 63, 133, 255] {
            expected[queue] = 1;
        }
        assert_eq!(counts(&bells), expected);
        expected.fill(0);
        bells.ring_port(geometry().port(2).unwrap());
        bells.ring(9);
        expected[8..12].copy_from_slice(&[1, 2, 1, 1]);
        assert_eq!(counts(&bells), expected);
        bells.ring(256);
        bells.ring(u32::MAX);
        assert_eq!(counts(&bells), [0; 256]);
    }

    #[test]
    fn a_bell_that_is_full_or_blocks_keeps_nobody() {
        let bells = Bells::create(geometry()).unwrap();
        let bell = bells.get(7).unwrap();
        // What a tenant that wants to stop others can do to a bell.
        rustix::io::ioctl_fionbio(bell, false).unwrap();
        rustix::io::write(bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bells.ring(7);
        ring(bell);
        assert!(take(bell) >= u64::MAX - 1);
        assert_eq!(take(bell), 0);
        bells.ring(7);
        assert_eq!(take(bell), 1);
    }

    #[test]
    fn another_number_of_descriptors_is_refused() {
        let fds = |bells: &Bells| -> Vec<OwnedFd> {
            let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
            bells.fds().map(own).collect()
        };
        let bells = Bells::create(geometry()).unwrap();
        let mut some = fds(&bells);
        let again = Bells::from_fds(geometry(), fds(&bells)).unwrap();
        bells.ring(3);
        assert_eq!(take(again.get(3).unwrap()), 1, "it is the same bell");
        some.pop();
        assert!(Bells::from_fds(geometry(), some).is_none());
    }
}
