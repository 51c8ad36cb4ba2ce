//! The pump: one thread that moves frames between a device and a port, in batches.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;

use super::counters::{Counters, add};
use super::error::{UplinkError, failed};
use super::{BATCH, Device, MIN_FRAME, Port};

/// How often a pump looks whether its interface is still there and up.
const CHECK: Duration = Duration::from_millis(100);
/// First wait of [`Drive::Events`].
const SHORT: Duration = Duration::from_micros(50);
/// EtherTypes of VLAN tags (IEEE 802.1Q, 802.1ad).
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];

/// How a pump waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// Not at all: one CPU looks all the time.
    Busy,
    /// Until the interface has a frame, or for a time, since nothing says when the port has one: 50
    /// microseconds after the last frame, twice as long with each wait, up to this (at most
    /// [`Drive::LONGEST`]).
    Events(Duration),
}

impl Drive {
    /// Longest wait.
    pub const LONGEST: Duration = CHECK;
}

impl Default for Drive {
    /// Waits of up to 1 millisecond.
    fn default() -> Drive {
        Drive::Events(Duration::from_millis(1))
    }
}

/// Ends a pump from another thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<StopState>);

#[derive(Debug)]
struct StopState {
    wanted: AtomicBool,
    event: OwnedFd,
}

impl Stop {
    /// A new one, not yet used.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> Result<Stop, UplinkError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("make the stop event of", "the uplink", "", errno.into()))?;
        Ok(Stop(Arc::new(StopState {
            wanted: AtomicBool::new(false),
            event,
        })))
    }

    /// Ends every pump that has this.
    pub fn stop(&self) {
        self.0.wanted.store(true, Relaxed);
        // It fails only when the event is already there 2^64 - 2 times.
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// Whether it was used.
    pub fn is_stopped(&self) -> bool {
        self.0.wanted.load(Relaxed)
    }
}

/// A device and a port, joined.
#[derive(Debug)]
pub struct Pump<D, P> {
    device: D,
    port: P,
    drive: Drive,
    counters: Arc<Counters>,
}

impl<D: Device, P: Port> Pump<D, P> {
    /// Joins `device` and `port`.
    pub fn new(device: D, port: P, drive: Drive) -> Pump<D, P> {
        Pump {
            device,
            port,
            drive,
            counters: Arc::default(),
        }
    }

    /// The counters, for other threads to read.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The device and the port.
    pub fn into_parts(self) -> (D, P) {
        (self.device, self.port)
    }

    /// Moves frames until stopped.
    ///
    /// # Errors
    /// When the interface is gone or down, or the kernel refuses.
    pub fn run(&mut self, stop: &Stop) -> Result<(), UplinkError> {
        let mut looked = Instant::now();
        let mut idle = SHORT;
        while !stop.is_stopped() {
            let moved = self.step()?;
            let now = Instant::now();
            if now.duration_since(looked) >= CHECK {
                looked = now;
                self.look()?;
            }
            if moved {
                idle = SHORT;
            } else if let Drive::Events(most) = self.drive {
                let most = most.min(Drive::LONGEST);
                self.wait(stop, idle.min(most))?;
                idle = idle.saturating_mul(2).min(most);
            }
        }
        self.look()
    }

    /// Moves at most one batch each way; whether there was any.
    ///
    /// # Errors
    /// As [`Pump::run`].
    pub fn step(&mut self) -> Result<bool, UplinkError> {
        let inward = self.carry_in()?;
        let outward = self.carry_out()?;
        Ok(inward || outward)
    }

    fn carry_in(&mut self) -> Result<bool, UplinkError> {
        let counters = &self.counters.to_port;
        let port = &mut self.port;
        let found = self.device.receive(&mut |frames| {
            let taken = port.send(frames).min(frames.len());
            let bytes = frames.iter().take(taken).map(|frame| frame.len() as u64);
            add(&counters.frames, taken as u64);
            add(&counters.bytes, bytes.sum());
            add(&counters.refused, (frames.len() - taken) as u64);
            add(&counters.batches, 1);
        })?;
        add(&counters.too_long, found.too_long);
        add(&counters.too_short, found.too_short);
        add(&counters.offload, found.offload);
        Ok(found.frames + found.too_long + found.too_short + found.offload != 0)
    }

    fn carry_out(&mut self) -> Result<bool, UplinkError> {
        let counters = &self.counters.to_interface;
        let room = self.device.room().min(BATCH);
        let mut fetched = 0;
        if room > 0 {
            let device = &mut self.device;
            let longest = device.longest();
            let plain = device.link().longest(false).min(longest);
            let tagged = device.link().longest(true).min(longest);
            self.port.receive(room, &mut |frame| {
                fetched += 1;
                let has_tag = frame
                    .get(12..14)
                    .is_some_and(|kind| TAGS.iter().any(|tag| tag == kind));
                if fetched > room {
                    add(&counters.refused, 1);
                } else if frame.len() < MIN_FRAME {
                    add(&counters.too_short, 1);
                } else if frame.len() > if has_tag { tagged } else { plain } {
                    add(&counters.too_long, 1);
                } else {
                    device.stage(frame);
                }
            });
        }
        let done = self.device.flush()?;
        add(&counters.frames, done.frames);
        add(&counters.bytes, done.bytes);
        add(&counters.too_long, done.too_long);
        add(&counters.refused, done.refused);
        add(&counters.batches, u64::from(done.frames != 0));
        Ok(fetched != 0 || done != super::Flushed::default())
    }

    /// Whether the interface still works, and what the kernel lost.
    fn look(&mut self) -> Result<(), UplinkError> {
        add(&self.counters.to_port.missed, self.device.missed());
        self.device.link().check()
    }

    fn wait(&mut self, stop: &Stop, time: Duration) -> Result<(), UplinkError> {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: time.as_nanos() as i64,
        };
        let mut interest = PollFlags::IN;
        if self.device.waits_to_send() {
            interest |= PollFlags::OUT;
        }
        let broken = {
            let mut list = [
                PollFd::from_borrowed_fd(self.device.descriptor(), interest),
                PollFd::from_borrowed_fd(stop.0.event.as_fd(), PollFlags::IN),
            ];
            match poll(&mut list, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(self.device.link().broken("wait for", errno.into()));
                }
            }
            let wrong = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
            list[0].revents().intersects(wrong)
        };
        if broken {
            // A socket reports an error once, for example that the interface was down for a moment.
            let _ = socket_error(self.device.descriptor());
            self.device.link().check()?;
            // It is there and up. If poll still says so, this must not become a busy loop.
            thread::sleep(time);
        }
        Ok(())
    }
}

/// A pump in its own thread. Dropping it stops the pump.
pub struct Bridge {
    stop: Stop,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<Result<(), UplinkError>>>,
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("counters", &self.counters)
            .field("ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

impl Bridge {
    /// Starts a thread that pumps between `device` and `port`.
    ///
    /// # Errors
    /// When the system has no descriptor or thread left.
    pub fn start<D, P>(mut device: D, port: P, drive: Drive) -> Result<Bridge, UplinkError>
    where
        D: Device + Send + 'static,
        P: Port + Send + 'static,
    {
        let stop = Stop::new()?;
        let interface = device.link().name().to_owned();
        let mut pump = Pump::new(device, port, drive);
        let counters = pump.counters();
        let wanted = stop.clone();
        let thread = thread::Builder::new()
            .name("uplink".into())
            .spawn(move || pump.run(&wanted))
            .map_err(|source| failed("start a thread for", &interface, "", source))?;
        Ok(Bridge {
            stop,
            counters,
            thread: Some(thread),
        })
    }

    /// The counters, which are final once the pump has stopped.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Whether the pump has ended by itself; [`Bridge::stop`] says why.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the pump and waits for its end.
    ///
    /// # Errors
    /// Why it had ended before, if it had.
    pub fn stop(mut self) -> Result<(), UplinkError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), UplinkError> {
        self.stop.stop();
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
