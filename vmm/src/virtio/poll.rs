//! Waiting for several descriptors at once.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Descriptors, each with a number, of which the next change is waited for. Edge-triggered: who is
/// told of a descriptor goes on until it would wait, and event descriptors need not be read.
pub(super) struct Poll(Epoll);

/// What has happened to a descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// The number that it was added with.
    pub(super) number: u64,
    /// It can be read.
    pub(super) readable: bool,
    /// It can be written.
    pub(super) writable: bool,
}

/// Changes that one call tells of.
const AT_ONCE: usize = 16;

impl Poll {
    /// Nothing to wait for.
    pub(super) fn new() -> io::Result<Poll> {
        Epoll::new().map(Poll)
    }

    /// Waits also until `descriptor` can be read and, if `writable`, written.
    pub(super) fn add(
        &self,
        descriptor: &impl AsRawFd,
        number: u64,
        writable: bool,
    ) -> io::Result<()> {
        let mut events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        if writable {
            events |= EventSet::OUT;
        }
        let event = EpollEvent::new(events, number);
        self.0
            .ctl(ControlOperation::Add, descriptor.as_raw_fd(), event)
    }

    /// Waits for changes, if `wait`, and tells them.
    pub(super) fn changes(&self, wait: bool, each: &mut dyn FnMut(Change)) -> io::Result<()> {
        let mut events = [EpollEvent::default(); AT_ONCE];
        let count = match self.0.wait(if wait { -1 } else { 0 }, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for event in events.iter().take(count) {
            let set = event.event_set();
            // Errors and hang-ups are seen by who tries.
            let failed = set.intersects(EventSet::ERROR | EventSet::HANG_UP);
            each(Change {
                number: event.data(),
                readable: failed || set.contains(EventSet::IN),
                writable: failed || set.contains(EventSet::OUT),
            });
        }
        Ok(())
    }
}
