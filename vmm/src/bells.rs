//! The thread by which the bells of a VM's NIC port interrupt its guest.
//!
//! Whoever sends to a sleeping RX queue rings its bell ([`postern_nic_client::bells`]), an event
//! descriptor that all VMs of the NIC have. The thread waits for the bells, and sends the queue's
//! message where the guest uses MSI-X, or asserts INTx.
//!
//! Another VM can ring as often as it likes. However often that is, the thread rings its guest
//! [`BURST`] times at once and one time an [`INTERVAL`]; what comes meanwhile is one ring with the
//! next, and counted.
//!
//! A driver that has the pin as a pulse ([`PULSE`](postern_abi::nic_device::register::PULSE)) has its
//! bells wired to it: KVM turns them into interrupts with no thread in between, and each is counted when
//! the driver reads the status. Once they are more than the thread would let through, the thread takes
//! over until there were none for a while.

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postern_confine::Kind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::event;
use crate::pci::Bell;

/// Time in which one more ring is let through to the guest.
pub const INTERVAL: Duration = Duration::from_micros(50);
/// Rings that are let through at once after a time without any.
pub const BURST: u32 = 64;

/// What the thread has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BellCounts {
    /// Times that it has interrupted the guest.
    pub rings: u64,
    /// Rings of others that came while another one of the same queue waited to be seen, and were one
    /// with it.
    pub joined: u64,
    /// Times that it has let bells wait, because there were more than it lets through.
    pub held: u64,
}

/// The counters of a thread that runs.
#[derive(Debug, Default)]
pub(crate) struct BellCounters {
    rings: AtomicU64,
    joined: AtomicU64,
    held: AtomicU64,
}

impl BellCounters {
    /// Counts an interrupt of the guest; whether others have to wait now.
    pub(crate) fn count(&self, allowance: &mut Allowance, now: Instant) -> bool {
        allowance.take(now);
        self.rings.fetch_add(1, Ordering::Relaxed);
        let held = allowance.wait(now).is_some();
        if held {
            self.held.fetch_add(1, Ordering::Relaxed);
        }
        held
    }

    /// What was counted until now.
    pub(crate) fn read(&self) -> BellCounts {
        BellCounts {
            rings: self.rings.load(Ordering::Relaxed),
            joined: self.joined.load(Ordering::Relaxed),
            held: self.held.load(Ordering::Relaxed),
        }
    }
}

/// The thread. It ends when the value is dropped.
#[derive(Debug)]
pub struct BellThread {
    bell: Arc<Bell>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl BellThread {
    /// Starts the thread of a port's function.
    ///
    /// # Errors
    ///
    /// No descriptor or no thread is left.
    pub fn start(bell: Arc<Bell>) -> io::Result<BellThread> {
        // Closing one side is what the other one waits for.
        let (stopped, stop) = io::pipe()?;
        let rung = Arc::clone(&bell);
        let run = move || run(&rung, &stopped);
        Ok(BellThread {
            bell,
            stop: Some(stop),
            thread: Some(postern_confine::spawn(Kind::Bells, "nic-bells", run)?),
        })
    }

    /// What it has counted until now.
    pub fn counts(&self) -> BellCounts {
        self.bell.counters().read()
    }
}

impl Drop for BellThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How often the thread may ring now: a token bucket of [`BURST`], filled by one an [`INTERVAL`].
#[derive(Debug)]
pub(crate) struct Allowance {
    /// The time at which the bucket is full.
    full: Instant,
}

impl Allowance {
    pub(crate) fn new(now: Instant) -> Allowance {
        Allowance { full: now }
    }

    /// The time until there may be a ring; none if there may be one at once.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let left = self.full.saturating_duration_since(now);
        let wait = left.checked_sub(INTERVAL * (BURST - 1))?;
        (!wait.is_zero()).then_some(wait)
    }

    /// The time until the bucket is full; none if it is.
    fn fill(&self, now: Instant) -> Option<Duration> {
        let left = self.full.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Takes one ring.
    fn take(&mut self, now: Instant) {
        self.full = self.full.max(now) + INTERVAL;
    }
}

fn run(bell: &Bell, stopped: &PipeReader) {
    loop {
        let now = Instant::now();
        let (wait, fill) = {
            let allowance = bell.allowance();
            (allowance.wait(now), allowance.fill(now))
        };
        let relieved = bell.is_unwired_pulse();
        if relieved && fill.is_none() {
            // The storm is over, or there was none.
            bell.wire(true);
        }
        let listens = !bell.is_wired();
        let mut fds = vec![
            PollFd::new(stopped, PollFlags::IN),
            PollFd::from_borrowed_fd(event::fd(bell.switched()), PollFlags::IN),
        ];
        if listens && wait.is_none() {
            let events = bell.events().iter();
            fds.extend(events.map(|one| PollFd::from_borrowed_fd(event::fd(one), PollFlags::IN)));
        }
        let until = wait.or(fill.filter(|_| relieved)).filter(|_| listens);
        let timeout = until.map(|until| Timespec {
            tv_sec: until.as_secs() as i64,
            tv_nsec: until.subsec_nanos().into(),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // None that these descriptors have: the guest has the owner's tick.
            Err(_) => return,
        }
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if ready(&fds[0]) {
            return;
        }
        if ready(&fds[1]) {
            event::take(bell.switched());
        }
        let rung = ring(bell, fds[2..].iter().map(ready));
        if rung {
            bell.counters().count(&mut bell.allowance(), Instant::now());
        }
    }
}

/// Passes on what has been rung of the bells; whether anything was.
fn ring(bell: &Bell, ready: impl Iterator<Item = bool>) -> bool {
    let joined = &bell.counters().joined;
    let mut rung = false;
    for (vector, (one, ready)) in (0..).zip(bell.events().iter().zip(ready)) {
        let count = if ready { event::take(one) } else { 0 };
        if count != 0 {
            // A message, or an interrupt of the pin.
            bell.ring(vector);
            rung = true;
            joined.fetch_add(count - 1, Ordering::Relaxed);
        }
    }
    rung
}

#[cfg(test)]
mod tests {
    use std::thread;

    use postern_abi::nic_device::{BAR_REGISTERS, NicDevice, register};
    use postern_abi::platform::CallPath;
    use postern_abi::window::PortId;
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::devices::MmioDevice;
    use crate::pci::{BarMemory, Detached, Ivshmem, Segment};

    /// A port with two queues whose interrupts are not masked, and its bells.
    struct Port {
        segment: Arc<Segment>,
        bell: Arc<Bell>,
    }

    const DEVICE: usize = 1;

    impl Port {
        fn new() -> Port {
            let segment = Segment::new(Arc::new(Detached::default())).unwrap();
            let device = NicDevice {
                path: CallPath::Elisa,
                port: PortId::from_number(1),
                size: 4096,
                vectors: 2,
            };
            let memory = BarMemory {
                name: "window",
                host: 0,
                size: 4096,
                owner: Arc::new(()),
            };
            let event = || Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
            let peers = [(1, vec![event(), event()])].into();
            let function = Ivshmem::new(device, memory, peers).unwrap();
            let bell = function.bell();
            assert_eq!(segment.plug(Box::new(function)).unwrap(), DEVICE);
            let mut segment = Arc::new(segment);
            let mask = segment.bar(DEVICE, BAR_REGISTERS).unwrap() + register::INTERRUPT_MASK;
            assert!(segment.write(mask, &1u32.to_le_bytes()).is_some());
            Port { segment, bell }
        }

        fn config(&self, offset: usize) -> u8 {
            let mut data = [0];
            self.segment.read_config(DEVICE * 8, offset, &mut data);
            data[0]
        }

        fn set_config(&self, offset: usize, data: &[u8]) {
            self.segment.write_config(DEVICE * 8, offset, data);
        }

        fn is_asserted(&self) -> bool {
            self.config(6) & 8 != 0
        }

        /// What Linux' `uio_pci_generic` and its user do.
        fn acknowledge(&self) {
            self.set_config(4, &[2, 4]);
            self.set_config(4, &[2, 0]);
        }

        fn wait(&self) {
            while !self.is_asserted() {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_bell_interrupts_the_guest_of_its_port() {
        let port = Port::new();
        let thread = BellThread::start(Arc::clone(&port.bell)).unwrap();
        for event in port.bell.events() {
            event.write(1).unwrap();
            port.wait();
            port.acknowledge();
            assert!(!port.is_asserted());
        }
        port.bell.events()[0].write(7).unwrap();
        port.wait();
        while thread.counts().rings < 3 {
            thread::yield_now();
        }
        let counts = thread.counts();
        assert_eq!((counts.rings, counts.joined), (3, 6));
        drop(thread);
    }

    #[test]
    fn bells_are_messages_while_msix_is_on_and_are_counted() {
        let port = Port::new();
        let thread = BellThread::start(Arc::clone(&port.bell)).unwrap();
        let [first, second] = port.bell.events() else {
            panic!("a bell a queue");
        };
        // All vectors are masked: what is rung pends.
        port.set_config(4, &[6, 0]);
        port.set_config(0x42, &[0, 0xc0]);
        let pending = port.segment.bar(DEVICE, 1).unwrap() + 0x800;
        let bits = |expected| {
            let mut bits = [0];
            while bits != [expected] {
                assert!(Arc::clone(&port.segment).read(pending, &mut bits));
            }
        };
        second.write(1).unwrap();
        bits(2);
        first.write(5).unwrap();
        bits(3);
        while thread.counts().rings < 2 {
            thread::yield_now();
        }
        let counts = thread.counts();
        assert_eq!((counts.rings, counts.joined), (2, 4));
        assert!(!port.is_asserted() && !port.bell.is_wired());
        // With MSI-X off again they are INTx.
        port.set_config(0x42, &[0, 0]);
        second.write(1).unwrap();
        port.wait();
        drop(thread);
    }

    #[test]
    fn a_storm_is_let_through_at_its_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        for _ in 0..BURST {
            assert_eq!(allowance.wait(start), None);
            allowance.take(start);
        }
        assert_eq!(allowance.wait(start), Some(INTERVAL));
        let half = start + INTERVAL / 2;
        assert_eq!(allowance.wait(half), Some(INTERVAL / 2));
        // One an interval from then on, however long the storm.
        let mut now = start;
        for _ in 0..1000 {
            now += INTERVAL;
            assert_eq!(allowance.wait(now), None);
            allowance.take(now);
            assert_eq!(allowance.wait(now), Some(INTERVAL));
        }
        // A second without is worth a burst, and no more.
        now += Duration::from_secs(1);
        for _ in 0..BURST {
            assert_eq!(allowance.wait(now), None);
            allowance.take(now);
        }
        assert!(allowance.wait(now).is_some());
    }
}
