//! The entropy device (VIRTIO 1.2, "Entropy Device"): a guest's buffers get random bytes of the
//! host's kernel.
//!
//! A thread serves the queue. A request gets at most [`MOST`] bytes, however long its buffers are,
//! and the thread rests after each, so that a guest that asks for ever takes a known, small part of
//! a processor: about [`MOST`] bytes each [`REST`].
#![deny(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postern_confine::Kind;
use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::buffers::Buffers;
use super::chain::{BrokenQueue, take_chain};
use super::kick::Kick;
use super::{ActivateError, Activation, DeviceStatus, Notifier, VirtioDevice};

/// Device type "entropy source".
const DEVICE_TYPE: u16 = 4;
/// Descriptors of the queue: a driver asks for one buffer after the other.
const QUEUE_SIZE: u16 = 16;

/// The most bytes that a request gets.
pub const MOST: usize = 4096;
/// How long the device rests after a request.
pub const REST: Duration = Duration::from_millis(1);

/// The entropy device of a VM.
#[derive(Default)]
pub struct Rng {
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    waker: EventFd,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rng")
            .field("running", &self.running.is_some())
            .finish()
    }
}

impl Rng {
    /// A device that no driver uses yet.
    pub fn new() -> Rng {
        Rng::default()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let Some(active) = activation.queues.into_iter().next().flatten() else {
            // A driver that wants no bytes.
            return Ok(());
        };
        let failed = |what: &str| {
            let what = format!("{what} for random bytes");
            move |source| ActivateError { what, source }
        };
        let kick = Kick::new(active.kick).map_err(failed("use a queue's event"))?;
        let waker = kick.waker().map_err(failed("duplicate a queue's event"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            stop: Arc::clone(&stop),
            queue: active.queue,
            call: active.call,
            status: activation.status,
            memory: activation.memory,
        };
        let thread = postern_confine::spawn(Kind::Rng, "rng", move || worker.run(&kick))
            .map_err(failed("start a thread"))?;
        self.running = Some(Running {
            stop,
            waker,
            thread,
        });
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.store(true, Ordering::Release);
            // A counter that is full wakes, too; a thread that panicked has ended.
            let _ = running.waker.write(1);
            let _ = running.thread.join();
        }
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Why the thread cannot go on until the driver resets the device.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Queue(#[from] BrokenQueue),
    #[error("the host has no random bytes ({0})")]
    NoBytes(io::Error),
    #[error("cannot use an event descriptor ({0})")]
    Event(io::Error),
}

impl From<virtio_queue::Error> for Stopped {
    fn from(error: virtio_queue::Error) -> Stopped {
        Stopped::Queue(error.into())
    }
}

struct Worker {
    stop: Arc<AtomicBool>,
    queue: Queue,
    call: Arc<dyn Notifier>,
    status: Arc<dyn DeviceStatus>,
    memory: GuestMemoryMmap,
}

impl Worker {
    fn run(mut self, kick: &Kick) {
        if let Err(stopped) = self.serve(kick) {
            self.status
                .needs_reset(&format!("the entropy device has stopped: {stopped}"));
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn serve(&mut self, kick: &Kick) -> Result<(), Stopped> {
        let mut buffers = [(); 2].map(|()| Buffers::new(self.memory.clone()));
        while !self.stopped() {
            self.queue.disable_notification(&self.memory)?;
            while !self.stopped() && self.serve_one(&mut buffers)? {
                thread::sleep(REST);
            }
            if !self.stopped() && !self.queue.enable_notification(&self.memory)? {
                kick.wait().map_err(Stopped::Event)?;
            }
        }
        Ok(())
    }

    /// Serves a request, if there is one.
    fn serve_one(&mut self, buffers: &mut [Buffers; 2]) -> Result<bool, Stopped> {
        let [readable, writable] = buffers;
        let Some(head) = take_chain(&mut self.queue, &self.memory, readable, writable)? else {
            return Ok(false);
        };
        let mut bytes = [0; MOST];
        let wanted = usize::try_from(writable.len()).map_or(MOST, |len| len.min(MOST));
        fill(&mut bytes[..wanted]).map_err(Stopped::NoBytes)?;
        let written = writable.write(&bytes[..wanted]);
        self.queue.add_used(&self.memory, head, written as u32)?;
        if self.queue.needs_notification(&self.memory)? {
            self.call.notify().map_err(Stopped::Event)?;
        }
        Ok(true)
    }
}

/// Fills `bytes` with random ones of the kernel's.
fn fill(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(count) => bytes = &mut bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::sync::mpsc;

    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Address, Bytes, GuestAddress};

    use super::*;
    use crate::memory::reserve_ram;
    use crate::virtio::ActiveQueue;

    const RAM: u64 = 4 << 20;
    const BUFFER: u64 = 0x20_0000;
    const WRITE: u16 = 2;

    struct Told(mpsc::Sender<String>);

    impl Notifier for Told {
        fn notify(&self) -> io::Result<()> {
            self.0.send(String::new()).map_err(io::Error::other)
        }

        fn event(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    impl DeviceStatus for Told {
        fn needs_reset(&self, why: &str) {
            self.0.send(why.to_owned()).unwrap();
        }

        fn tell(&self, _: &str) {}
    }

    /// Starts a device on a queue with this chain, and waits until it tells something.
    fn serve(memory: &GuestMemoryMmap, chain: &[Descriptor]) -> (u32, String) {
        let queue = MockSplitQueue::create(memory, GuestAddress(0x10_0000), QUEUE_SIZE);
        let raw: Vec<_> = chain.iter().copied().map(RawDescriptor::from).collect();
        queue.build_desc_chain(&raw).unwrap();
        let (sender, told) = mpsc::channel();
        let told_by = || Arc::new(Told(sender.clone()));
        let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        kick.write(1).unwrap();
        let mut device = Rng::new();
        let activation = Activation {
            memory: memory.clone(),
            features: 0,
            queues: vec![Some(ActiveQueue {
                queue: queue.create_queue().unwrap(),
                kick,
                call: told_by(),
            })],
            config_changed: told_by(),
            status: told_by(),
        };
        device.activate(activation).unwrap();
        let said = told.recv().unwrap();
        device.reset();
        let used = memory.read_obj(queue.used_addr().unchecked_add(8)).unwrap();
        (used, said)
    }

    #[test]
    fn buffers_are_filled() {
        let memory = reserve_ram(RAM).unwrap();
        let chain = [
            Descriptor::new(BUFFER, 64, WRITE, 0),
            Descriptor::new(BUFFER + 0x1000, 32, WRITE, 0),
        ];
        assert_eq!(serve(&memory, &chain), (96, String::new()));
        let mut bytes = [0; 64];
        memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
        assert_ne!(bytes, [0; 64], "one in 2^512 runs fails");
        memory
            .read_slice(&mut bytes, GuestAddress(BUFFER + 0x1000))
            .unwrap();
        assert_eq!(bytes[32..], [0; 32], "nothing behind the buffer");
        assert_ne!(bytes[..32], [0; 32]);
    }

    #[test]
    fn a_request_gets_a_bounded_number_of_bytes() {
        let memory = reserve_ram(RAM).unwrap();
        let chain = [Descriptor::new(BUFFER, 0x10_0000, WRITE, 0)];
        assert_eq!(serve(&memory, &chain).0, MOST as u32);
        let chain = [Descriptor::new(BUFFER, 64, 0, 0)];
        assert_eq!(serve(&memory, &chain), (0, String::new()), "none to write");
    }

    #[test]
    fn a_broken_queue_stops_the_device_alone() {
        let memory = reserve_ram(RAM).unwrap();
        let chain = [Descriptor::new(RAM, 64, WRITE, 0)];
        let (_, said) = serve(&memory, &chain);
        assert!(said.contains("entropy device has stopped"), "{said}");
    }
}
