//! The thread that serves a queue of a disk.
//!
//! It sleeps in read(2) on the queue's event descriptor and works with preadv(2) and pwritev(2) in
//! the order of the available ring. While it runs it needs no notification, and with
//! `VIRTIO_F_EVENT_IDX` gets none. System calls: read, write, preadv, pwritev, pwritev2, fdatasync,
//! fallocate, and those of a thread's end.
#![deny(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::image::Image;
use super::request::Server;
use crate::virtio::buffers::Buffers;
use crate::virtio::chain::{BrokenQueue, take_chain};
use crate::virtio::kick::Kick;
use crate::virtio::{DeviceStatus, Notifier};

/// Requests after which the driver is told of used buffers, though there are more: so many a driver
/// can have waiting for nothing.
const BATCH: u32 = 32;

/// Why a worker cannot go on until the driver resets the device.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Queue(#[from] BrokenQueue),
    /// No byte to write the status to.
    #[error("descriptor chain {0} has no device-writable byte for the status")]
    NoStatus(u16),
    #[error("the host's disk is gone ({0})")]
    Gone(io::Error),
    #[error("cannot use an event descriptor ({0})")]
    Event(io::Error),
}

impl From<virtio_queue::Error> for Stopped {
    fn from(error: virtio_queue::Error) -> Stopped {
        Stopped::Queue(error.into())
    }
}

/// What the threads of a disk share.
pub(super) struct Common {
    pub(super) image: Arc<Image>,
    pub(super) serial: [u8; 20],
    pub(super) write_through: bool,
    pub(super) memory: GuestMemoryMmap,
    pub(super) status: Arc<dyn DeviceStatus>,
    pub(super) stop: AtomicBool,
    /// Whether people have been told of an error of the host's.
    pub(super) told: AtomicBool,
}

/// A queue and who serves it.
pub(super) struct Worker {
    pub(super) common: Arc<Common>,
    pub(super) queue: Queue,
    pub(super) call: Arc<dyn Notifier>,
}

impl Worker {
    /// Serves the queue until it is told to stop, or cannot go on.
    pub(super) fn run(mut self, kick: &Kick) {
        let mut buffers = Pair::new(&self.common.memory);
        let mut serve = || -> Result<(), Stopped> {
            while !self.common.stop.load(Ordering::Acquire) {
                self.drain(&mut buffers)?;
                kick.wait().map_err(Stopped::Event)?;
            }
            Ok(())
        };
        let end = serve();
        self.say(end);
    }

    /// Serves what is in the queue.
    pub(super) fn run_once(mut self) {
        let mut buffers = Pair::new(&self.common.memory);
        let end = self.drain(&mut buffers);
        self.say(end);
    }

    /// Tells the driver and people why it has stopped, if it has not been told to.
    fn say(&self, end: Result<(), Stopped>) {
        if let Err(stopped) = end {
            let path = self.common.image.path().display();
            let why = format!("the disk {path} has stopped: {stopped}");
            self.common.status.needs_reset(&why);
        }
    }

    /// Serves all requests that there are.
    fn drain(&mut self, buffers: &mut Pair) -> Result<(), Stopped> {
        let common = Arc::clone(&self.common);
        let server = Server {
            image: &common.image,
            serial: common.serial,
            write_through: common.write_through,
        };
        let memory = &common.memory;
        loop {
            self.queue.disable_notification(memory)?;
            let mut untold = 0;
            while !common.stop.load(Ordering::Relaxed) {
                let Pair { readable, writable } = buffers;
                let Some(head) = take_chain(&mut self.queue, memory, readable, writable)? else {
                    break;
                };
                if !writable.split_last() {
                    return Err(Stopped::NoStatus(head));
                }
                let done = server.serve(readable, writable);
                self.queue.add_used(memory, head, done.written)?;
                untold += 1;
                if untold == BATCH {
                    self.tell_driver()?;
                    untold = 0;
                }
                if let Some(error) = done.error {
                    common.host_error(error)?;
                }
            }
            if untold > 0 {
                self.tell_driver()?;
            }
            let stop = common.stop.load(Ordering::Relaxed);
            if stop || !self.queue.enable_notification(memory)? {
                return Ok(());
            }
        }
    }

    fn tell_driver(&mut self) -> Result<(), Stopped> {
        match self.queue.needs_notification(&self.common.memory)? {
            true => self.call.notify().map_err(Stopped::Event),
            false => Ok(()),
        }
    }
}

/// The bytes of a request.
struct Pair {
    readable: Buffers,
    writable: Buffers,
}

impl Pair {
    fn new(memory: &GuestMemoryMmap) -> Pair {
        Pair {
            readable: Buffers::new(memory.clone()),
            writable: Buffers::new(memory.clone()),
        }
    }
}

impl Common {
    /// The driver has the status; people are told of the first error, and of a disk that is gone.
    fn host_error(&self, error: io::Error) -> Result<(), Stopped> {
        if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) {
            return Err(Stopped::Gone(error));
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            let path = self.image.path().display();
            let what = match error.kind() {
                io::ErrorKind::UnexpectedEof => "it has become smaller".to_owned(),
                _ => error.to_string(),
            };
            self.status.tell(&format!(
                "the disk {path} has an error ({what}); its guest sees it, and this is not said again"
            ));
        }
        Ok(())
    }
}
