//! What a thread does while there is nothing to do.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use postern_guest::linux::{PathService, Sleeper};
use postern_guest::nic::Nic;
use postern_tap::Tap;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What a thread does while there is nothing to do.
#[derive(Debug)]
pub enum Idle {
    /// It sleeps until the device's doorbell rings.
    Doorbell(Doorbell),
    /// It looks again after this time.
    Interval(Duration),
}

/// Sleeps until there is something at the NIC, the interface, or the event that ends the thread.
#[derive(Debug)]
pub struct Doorbell {
    sleeper: Sleeper,
    epoll: OwnedFd,
}

/// What a thread was woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The end.
    Stop,
    /// Frames of the interface, and perhaps of the NIC.
    Interface,
    /// Frames of the NIC, or nothing.
    Nic,
    /// An interrupt without frames: something may have become of the port.
    Port,
}

impl Woken {
    fn by(stop: bool, interface: bool, port: bool) -> Woken {
        match (stop, interface, port) {
            (true, ..) => Woken::Stop,
            (_, _, true) => Woken::Port,
            (_, true, _) => Woken::Interface,
            _ => Woken::Nic,
        }
    }
}

/// The descriptors of a [`Doorbell`], as its epoll names them.
const STOP: u64 = 0;
const INTERFACE: u64 = 1;
const NIC: u64 = 2;

impl Doorbell {
    /// Prepares to sleep by the interrupt of `sleeper`.
    ///
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub fn new(sleeper: Sleeper, tap: &Tap, stop: &OwnedFd) -> Result<Doorbell> {
        let failed = "preparing to sleep";
        let epoll = epoll::create(CreateFlags::CLOEXEC).context(failed)?;
        for (fd, number, flags) in [
            (stop.as_fd(), STOP, EventFlags::IN),
            (tap.as_fd(), INTERFACE, EventFlags::IN),
            // So the count of interrupts need not be read to be told of the next one.
            (sleeper.as_fd(), NIC, EventFlags::IN | EventFlags::ET),
        ] {
            epoll::add(&epoll, fd, EventData::new_u64(number), flags).context(failed)?;
        }
        Ok(Doorbell { sleeper, epoll })
    }

    /// The sleeper, for its counters.
    pub fn sleeper(&self) -> &Sleeper {
        &self.sleeper
    }

    /// Sleeps, unless there are frames of the NIC.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or the device has lost its interrupt.
    pub fn sleep(&mut self, nic: &mut Nic<PathService>) -> Result<Woken> {
        if self.sleeper.look(nic) || !self.sleeper.prepare(nic) {
            return Ok(Woken::Nic);
        }
        let mut room = [const { MaybeUninit::uninit() }; 3];
        let waited = epoll::wait(&self.epoll, &mut room, None);
        let events: &[epoll::Event] = match &waited {
            Ok((events, _)) => events,
            Err(_) => &[],
        };
        let has = |number| events.iter().any(|event| event.data.u64() == number);
        let spurious = self.sleeper.finish_edge(nic, has(NIC));
        let ends = EventFlags::ERR | EventFlags::HUP;
        let ended =
            |event: &epoll::Event| event.data.u64() == NIC && { event.flags }.intersects(ends);
        if events.iter().any(ended) {
            self.sleeper.check().context(crate::LostPort)?;
        }
        match waited {
            Err(errno) if errno != Errno::INTR => Err(errno).context("sleeping"),
            _ => Ok(Woken::by(has(STOP), has(INTERFACE), spurious)),
        }
    }
}

/// Waits until the thread is to end or there is something at the interface, or for that time.
///
/// # Errors
///
/// The kernel refuses.
pub fn wait_for(stop: &OwnedFd, tap: &Tap, time: Duration) -> Result<Woken> {
    let [stop, interface] = wait([stop.as_fd(), tap.as_fd()], time)?;
    Ok(Woken::by(stop, interface, false))
}

/// Whether the thread is to end, now or in that time.
///
/// # Errors
///
/// The kernel refuses.
pub fn is_to_end(stop: &OwnedFd, time: Duration) -> Result<bool> {
    let [stop] = wait([stop.as_fd()], time)?;
    Ok(stop)
}

/// Waits until one of these is readable, or for that long; which are.
fn wait<const N: usize>(on: [BorrowedFd<'_>; N], time: Duration) -> Result<[bool; N]> {
    let timeout = Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    };
    let mut list = on.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut list, Some(&timeout)) {
        Ok(_) => Ok(list.map(|fd| !fd.revents().is_empty())),
        Err(Errno::INTR) => Ok([false; N]),
        Err(errno) => Err(errno).context("waiting for frames"),
    }
}
