//! The user-space backend: a thread for each queue pair.
#![deny(unsafe_code)]

use std::os::fd::AsFd;

use vmm_sys_util::eventfd::EventFd;

use super::fault::Fault;
use super::receive::{Receive, Received};
use super::transmit::{Sent, Transmit};
use crate::virtio::poll::Poll;

/// A queue pair, and what its thread waits for.
pub struct QueuePair<T> {
    /// The TAP's queue.
    pub tap: T,
    /// The receive queue, and the driver's notifications of it.
    pub receive: (Receive, EventFd),
    /// The transmit queue, and the driver's notifications of it.
    pub transmit: (Transmit, EventFd),
}

const STOP: u64 = 0;
const TAP: u64 = 1;
const RECEIVE: u64 = 2;
const TRANSMIT: u64 = 3;

impl<T: AsFd> QueuePair<T> {
    /// Moves packets both ways until `stop` is readable. Neither way can keep the other waiting, and
    /// nothing but `stop` and packets makes it run.
    pub fn run(&mut self, stop: &EventFd) -> Result<(), Fault> {
        let host = |error| Fault::Host("wait for packets", error);
        let poll = Poll::new().map_err(host)?;
        poll.add(stop, STOP, false).map_err(host)?;
        poll.add(&self.tap.as_fd(), TAP, true).map_err(host)?;
        poll.add(&self.receive.1, RECEIVE, false).map_err(host)?;
        poll.add(&self.transmit.1, TRANSMIT, false).map_err(host)?;
        // What may be there, until it was looked for in vain.
        let (mut frames, mut buffers) = (true, true);
        let (mut room, mut requests) = (true, true);
        let mut stopped = false;
        while !stopped {
            if requests && room {
                match self.transmit.0.burst(self.tap.as_fd())? {
                    Sent::NoFrame => requests = false,
                    Sent::Full => room = false,
                    Sent::Burst => {}
                }
            }
            if frames && buffers {
                match self.receive.0.burst(self.tap.as_fd())? {
                    Received::NoFrame => frames = false,
                    Received::NoBuffers => buffers = false,
                    Received::Burst => {}
                }
            }
            let wait = !(requests && room || frames && buffers);
            poll.changes(wait, &mut |change| match change.number {
                STOP => stopped = true,
                TAP => {
                    frames |= change.readable;
                    room |= change.writable;
                }
                RECEIVE => buffers = true,
                _ => requests = true,
            })
            .map_err(host)?;
        }
        Ok(())
    }
}
