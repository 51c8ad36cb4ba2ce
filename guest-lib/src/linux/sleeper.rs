//! Waiting for frames without polling.
#![deny(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::error::Error;
use super::interrupt::Interrupt;
use crate::nic::Nic;
use crate::service::Service;

/// Looks for frames between two looks at the clock, in hybrid polling.
const LOOKS: u32 = 32;

/// Why [`Sleeper::wait`] has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// There are frames to receive. (Before the first look at an RX queue, and where somebody else has
    /// written to it, it is only that there may be.)
    Frames,
    /// The time is over.
    Timeout,
    /// The thread has handled a signal.
    Signal,
}

/// Counters of a [`Sleeper`], from 0 when it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SleepStats {
    /// Number of times that an RX queue was armed and had no frame.
    pub sleeps: u64,
    /// Number of times that an interrupt was seen.
    pub interrupts: u64,
    /// Number of interrupts with which no frame had come: they were for another queue of the port, or
    /// for nobody.
    pub spurious: u64,
    /// Number of waits that hybrid polling has saved.
    pub polled: u64,
}

/// Waits for frames of one [`Nic`] without polling, by the device's interrupt; see [the
/// module](super#sleeping). Made by [`Port::sleeper`](super::Port::sleeper).
///
/// A program that waits for the NIC alone calls [`Sleeper::wait`]. One that waits for more has the
/// descriptor ([`AsFd`]) in its poll or epoll:
///
/// ```no_run
/// # use postern_guest::linux::{Error, Port};
/// # fn poll(_: &impl std::os::fd::AsFd) -> bool { true }
/// # let port = Port::open()?;
/// # let mut nic = port.queue(0)?;
/// let mut sleeper = port.sleeper()?;
/// loop {
///     if nic.rx_burst(32, |frame| { /* ... */ }) != 0 {
///         continue;
///     }
///     if sleeper.prepare(&mut nic) {
///         let readable = poll(&sleeper); // and what else the program waits for
///         sleeper.finish(&mut nic, readable)?;
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Sleeper {
    interrupt: Interrupt,
    polling: Duration,
    stats: SleepStats,
}

impl Sleeper {
    pub(super) fn new(interrupt: Interrupt) -> Sleeper {
        Sleeper {
            interrupt,
            polling: Duration::ZERO,
            stats: SleepStats::default(),
        }
    }

    /// Has [`Sleeper::wait`] and [`Sleeper::look`] look for frames all the time for that long before
    /// the thread sleeps: hybrid polling. At first it is zero.
    ///
    /// A sleep costs the two VMs a handful of VM exits (the doorbell, the interrupt, its acknowledgement,
    /// an idle vCPU) and two schedules of the guest, which a frame that comes in that time saves. The price is
    /// the vCPU, which is busy for that time with each wait that is in vain; where a host has fewer CPUs
    /// than VMs have vCPUs, it is taken from those that may be about to send.
    pub fn set_polling(&mut self, time: Duration) {
        self.polling = time;
    }

    /// The counters so far.
    pub fn stats(&self) -> SleepStats {
        self.stats
    }

    /// Looks for frames for as long as [`Sleeper::set_polling`] says; whether there are any.
    pub fn look<S: Service>(&mut self, nic: &Nic<S>) -> bool {
        if nic.rx_ready() {
            return true;
        }
        if self.polling.is_zero() {
            return false;
        }
        let begin = Instant::now();
        while begin.elapsed() < self.polling {
            for _ in 0..LOOKS {
                if nic.rx_ready() {
                    self.stats.polled += 1;
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }

    /// Prepares to sleep: arms the RX queues. Gives false if there may be frames to receive: nothing is
    /// armed then. If it gives true, the descriptor becomes readable when frames come; call
    /// [`Sleeper::finish`] behind the sleep.
    pub fn prepare<S: Service>(&mut self, nic: &mut Nic<S>) -> bool {
        let armed = nic.arm();
        self.stats.sleeps += u64::from(armed);
        armed
    }

    /// Ends what [`Sleeper::prepare`] began. `readable` says whether the descriptor is, as poll or
    /// epoll has told; who does not know says true.
    ///
    /// # Errors
    ///
    /// The device is gone, or has no interrupt.
    pub fn finish<S: Service>(&mut self, nic: &mut Nic<S>, readable: bool) -> Result<(), Error> {
        let interrupted = readable && self.interrupt.take()?;
        self.finish_edge(nic, interrupted);
        Ok(())
    }

    /// The same for who has the descriptor in an edge-triggered epoll (`EPOLLET`), which tells of the next
    /// interrupt although the count was not read: it saves a system call. `interrupted` says whether the
    /// epoll has told of one. Gives whether no frame has come with it. So comes the interrupt by which the
    /// NIC's owner has a driver look whether the port is still its own ([`Nic::check`]).
    ///
    /// An epoll that tells of an error of the descriptor, or of its end, tells of no interrupt: see
    /// [`Sleeper::check`].
    pub fn finish_edge<S: Service>(&mut self, nic: &mut Nic<S>, interrupted: bool) -> bool {
        let rung = !nic.is_armed();
        nic.disarm();
        let spurious = interrupted && !rung;
        self.stats.interrupts += u64::from(interrupted);
        self.stats.spurious += u64::from(spurious);
        spurious
    }

    /// Looks whether the device has its interrupt still, for who was told of an error of the descriptor
    /// (`EPOLLERR`, `EPOLLHUP`).
    ///
    /// # Errors
    ///
    /// The device is gone, or has no interrupt: somebody has unbound its driver, say.
    pub fn check(&self) -> Result<(), Error> {
        self.interrupt.take().map(drop)
    }

    /// Sleeps until there are frames to receive, for `timeout` at most (without one, for as long as it
    /// takes), or until a signal was handled.
    ///
    /// # Errors
    ///
    /// The device is gone, or has no interrupt.
    pub fn wait<S: Service>(
        &mut self,
        nic: &mut Nic<S>,
        timeout: Option<Duration>,
    ) -> Result<Wake, Error> {
        // A time that cannot be told is for ever.
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if self.look(nic) {
            return Ok(Wake::Frames);
        }
        loop {
            if !self.prepare(nic) {
                return Ok(Wake::Frames);
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let polled = self.sleep(left);
            self.finish(nic, matches!(polled, Ok(true)))?;
            if nic.rx_ready() {
                return Ok(Wake::Frames);
            }
            match polled {
                Ok(true) => {}
                Ok(false) => return Ok(Wake::Timeout),
                Err(Errno::INTR) => return Ok(Wake::Signal),
                Err(errno) => {
                    let operation = "wait for the interrupt";
                    return Err(Error::of(operation, "/dev/uio", errno.into()));
                }
            }
        }
    }

    /// Waits until the descriptor is readable; whether it is.
    fn sleep(&self, timeout: Option<Duration>) -> Result<bool, Errno> {
        let timeout = timeout.map(|time| Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let mut list = [PollFd::new(&self.interrupt, PollFlags::IN)];
        Ok(poll(&mut list, timeout.as_ref())? != 0)
    }
}

impl AsFd for Sleeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.interrupt.as_fd()
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "the NIC's memory is mapped here")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use postern_abi::window::{Geometry, PortId};
    use postern_nic_client::memory::{Memory, draw_secret};

    use super::super::interrupt::tests::Bus;
    use super::*;
    use crate::direct::Direct;

    /// A broadcast of port 0.
    const FRAME: [u8; 60] = {
        let mut frame = [0; 60];
        let mut at = 0;
        while at < 6 {
            frame[at] = 0xff;
            at += 1;
        }
        frame[6] = 2;
        frame
    };

    /// A NIC of two ports.
    struct Pair {
        _memory: Memory,
        sender: Nic<Direct>,
        receiver: Nic<Direct>,
        bus: Bus,
        sleeper: Sleeper,
    }

    impl Pair {
        fn new() -> Pair {
            let memory = Memory::create(Geometry::new(2, 1, 64 << 10, 64 << 10).unwrap()).unwrap();
            let [sender, receiver] = [0, 1].map(|number| {
                let port = PortId::new(number).unwrap();
                let mac = [2, 0, 0, 0, 0, number as u8];
                memory.switch().admit(port, 1, draw_secret().unwrap(), mac);
                // SAFETY: the memory is mapped for as long as the pair lives.
                let direct = unsafe { Direct::new(memory.base(), memory.size(), port) };
                let (direct, window) = direct.unwrap();
                Nic::new(direct, window)
            });
            let mut bus = Bus::new().bound();
            let sleeper = Sleeper::new(bus.open().unwrap());
            let mut pair = Pair {
                _memory: memory,
                sender,
                receiver,
                bus,
                sleeper,
            };
            // Nobody knows before that there is nothing.
            assert_eq!(pair.wait(LONG), Wake::Frames);
            assert_eq!(pair.receive(), 0);
            pair
        }

        fn wait(&mut self, timeout: Duration) -> Wake {
            self.sleeper
                .wait(&mut self.receiver, Some(timeout))
                .unwrap()
        }

        fn receive(&mut self) -> usize {
            self.receiver.rx_burst(32, |_| ())
        }
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn who_has_frames_does_not_sleep() {
        let mut pair = Pair::new();
        assert_eq!(pair.wait(Duration::ZERO), Wake::Timeout);
        assert_eq!(pair.sleeper.stats().sleeps, 1);
        pair.sender.tx_burst(&[FRAME]);
        assert_eq!(pair.wait(LONG), Wake::Frames);
        assert_eq!(pair.receive(), 1);
        assert_eq!(pair.sleeper.stats().sleeps, 1, "it was seen before");
    }

    #[test]
    fn an_interrupt_wakes_and_one_for_others_does_not() {
        let mut pair = Pair::new();
        let (bus, sender) = (&pair.bus, &mut pair.sender);
        let (sleeper, receiver) = (&mut pair.sleeper, &mut pair.receiver);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                bus.interrupt();
                std::thread::sleep(Duration::from_millis(20));
                sender.tx_burst(&[FRAME]);
                bus.interrupt();
            });
            assert_eq!(sleeper.wait(receiver, Some(LONG)).unwrap(), Wake::Frames);
        });
        let stats = pair.sleeper.stats();
        assert!(
            stats.spurious <= 1 && stats.interrupts >= stats.spurious,
            "{stats:?}"
        );
        assert_eq!(pair.receive(), 1);
        assert!(!pair.receiver.is_armed());
    }

    #[test]
    fn an_interrupt_for_others_is_counted_and_slept_on() {
        let mut pair = Pair::new();
        pair.bus.interrupt();
        assert_eq!(pair.wait(Duration::from_millis(1)), Wake::Timeout);
        let stats = pair.sleeper.stats();
        assert_eq!((stats.sleeps, stats.interrupts, stats.spurious), (2, 1, 1));
    }

    #[test]
    fn a_frame_that_comes_before_the_queue_is_armed_is_seen() {
        let mut pair = Pair::new();
        assert!(pair.sleeper.prepare(&mut pair.receiver));
        pair.sender.tx_burst(&[FRAME]);
        assert!(!pair.receiver.is_armed());
        pair.sleeper.finish(&mut pair.receiver, false).unwrap();
        assert!(!pair.sleeper.prepare(&mut pair.receiver));
        assert_eq!(pair.receive(), 1);
        assert!(pair.sleeper.prepare(&mut pair.receiver));
    }

    #[test]
    fn hybrid_polling_sees_frames_without_a_sleep() {
        let mut pair = Pair::new();
        pair.sleeper.set_polling(LONG);
        let (sleeper, receiver, sender) = (&mut pair.sleeper, &mut pair.receiver, &mut pair.sender);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Time in which the receiver would arm its queue: nobody interrupts then.
                std::thread::sleep(Duration::from_millis(50));
                sender.tx_burst(&[FRAME])
            });
            assert_eq!(sleeper.wait(receiver, Some(LONG)).unwrap(), Wake::Frames);
        });
        assert_eq!(pair.sleeper.stats().sleeps, 0);
    }

    #[test]
    fn a_signal_ends_the_wait() {
        extern "C" fn handle(_: i32) {}
        let woken = AtomicBool::new(false);
        let mut pair = Pair::new();
        // SAFETY: the handler does nothing; nobody else uses this signal.
        unsafe { libc::signal(libc::SIGUSR2, handle as extern "C" fn(i32) as usize) };
        // SAFETY: it says who the calling thread is.
        let this = unsafe { libc::pthread_self() };
        let waited = std::thread::scope(|scope| {
            scope.spawn(|| {
                // One may come before it sleeps.
                while !woken.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                    // SAFETY: the thread waits for this one.
                    unsafe { libc::pthread_kill(this, libc::SIGUSR2) };
                }
            });
            let waited = pair.wait(LONG);
            woken.store(true, Ordering::Relaxed);
            waited
        });
        assert_eq!(waited, Wake::Signal);
    }
}
