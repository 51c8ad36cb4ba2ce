//! What the kernel cannot tell a driver by itself: interrupts that a transport has to make (INTx), and
//! that a queue is broken.
#![deny(unsafe_code)]

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::poll::Poll;
use super::vhost::{Vhost, Vring};
use super::{ActiveQueue, Notifier};
use crate::event;

/// Why a device of the kernel's stops until its driver resets it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayFault {
    /// The kernel has found a mistake of the driver's.
    #[error("the driver broke queue {0} (the host's kernel found it)")]
    Broken(usize),
    /// The driver cannot be interrupted.
    #[error("the driver cannot be interrupted ({0})")]
    Call(io::Error),
}

/// Event descriptors of vhost devices that a thread of the VMM looks after.
#[derive(Default)]
pub(super) struct Relay {
    calls: Vec<(EventFd, Arc<dyn Notifier>)>,
    errors: Vec<(EventFd, usize)>,
}

impl Relay {
    /// Gives queue `index` of a vhost device to it; `number` is what the driver calls the queue.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn add(
        &mut self,
        device: &Vhost,
        memory: &GuestMemoryMmap,
        (index, number): (usize, usize),
        active: &ActiveQueue,
    ) -> io::Result<()> {
        let error = event()?;
        let direct = active.call.event();
        let call = match direct {
            Some(call) => event::duplicate(call)?,
            None => event()?,
        };
        let queue: &Queue = &active.queue;
        let vring = Vring {
            queue,
            kick: &active.kick,
            call: &call,
            error: &error,
        };
        device.set_vring(memory, index, &vring)?;
        if direct.is_none() {
            self.calls.push((call, Arc::clone(&active.call)));
        }
        self.errors.push((error, number));
        Ok(())
    }

    /// Waits for all of them, by numbers from `first` on.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn watch(&self, poll: &Poll, first: u64) -> io::Result<()> {
        let calls = self.calls.iter().map(|(event, _)| event);
        let errors = self.errors.iter().map(|(event, _)| event);
        for (event, number) in calls.chain(errors).zip(first..) {
            poll.add(event, number, false)?;
        }
        Ok(())
    }

    /// Passes on what has happened to the descriptor of that number, counted from 0.
    ///
    /// # Errors
    ///
    /// The device cannot go on.
    pub(super) fn pass_on(&self, number: u64) -> Result<(), RelayFault> {
        let number = number as usize;
        if let Some((_, call)) = self.calls.get(number) {
            return call.notify().map_err(RelayFault::Call);
        }
        match self.errors.get(number - self.calls.len()) {
            Some((_, queue)) => Err(RelayFault::Broken(*queue)),
            None => Ok(()),
        }
    }
}

/// A new event descriptor, on which nothing waits.
///
/// # Errors
///
/// The process has no descriptor left.
pub(super) fn event() -> io::Result<EventFd> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
}
