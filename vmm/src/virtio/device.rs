//! A virtio device, as its device model sees it: what is the same on every transport (Virtual I/O
//! Device (VIRTIO) 1.2, "Basic Facilities of a Virtio Device").
#![deny(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// A device of one type. Calls are made by vCPU threads, one at a time; the work on its queues is
/// done by threads of the device's own (or the host's kernel), from [`VirtioDevice::activate`] to
/// [`VirtioDevice::reset`].
pub trait VirtioDevice: Send {
    /// Device type ("Device Types").
    fn device_type(&self) -> u16;

    /// Features that it offers, the transport's own (`VIRTIO_F_VERSION_1` and others) not included.
    fn features(&self) -> u64;

    /// The largest size of each of its queues: powers of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Fills `data` with what a read of its configuration space at `offset` gives; beyond its end,
    /// zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes a write to its configuration space.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver has set DRIVER_OK: begin to work. What fails sets DEVICE_NEEDS_RESET and is told to
    /// people.
    ///
    /// # Errors
    ///
    /// A sentence that names what failed.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// The driver resets the device: when this returns, nothing touches its queues any more.
    fn reset(&mut self);
}

/// Why a device could not begin to work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct ActivateError {
    /// The operation that failed.
    pub what: String,
    /// The system's error.
    pub source: io::Error,
}

/// What a device works with.
#[expect(missing_debug_implementations, reason = "taken apart at once")]
pub struct Activation {
    /// RAM of the guest.
    pub memory: GuestMemoryMmap,
    /// Features that the driver accepted, the transport's own included.
    pub features: u64,
    /// The queues that the driver enabled, by index; `None` for the others.
    pub queues: Vec<Option<ActiveQueue>>,
    /// Tells the driver that the configuration space has changed.
    pub config_changed: Arc<dyn Notifier>,
    /// Where the device's threads say that it cannot go on.
    pub status: Arc<dyn DeviceStatus>,
}

/// Reads a device's configuration space, whose fields are `space`, at `offset`: zeros behind its end.
pub(super) fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|at| space.get(at..));
    let rest = rest.unwrap_or_default();
    let count = rest.len().min(data.len());
    data.fill(0);
    data[..count].copy_from_slice(&rest[..count]);
}

/// The status of a device, for its own threads.
pub trait DeviceStatus: Send + Sync {
    /// The device cannot go on until the driver resets it, since the driver broke a queue, or what
    /// the device needs of the host is gone: sets DEVICE_NEEDS_RESET, tells the driver so by a
    /// configuration change notification, and tells people `why`, a sentence without a full stop.
    /// People are told at most once from one activation to the next.
    fn needs_reset(&self, why: &str);

    /// Tells people `what`, a sentence without a full stop; the device goes on. The device's threads
    /// bound how often they do, since a guest may cause it.
    fn tell(&self, what: &str);
}

/// A queue that the driver has enabled.
#[expect(missing_debug_implementations, reason = "taken apart at once")]
pub struct ActiveQueue {
    /// Its rings; checked by the transport to lie in RAM.
    pub queue: Queue,
    /// Readable when the driver has notified the device (an ioeventfd).
    pub kick: EventFd,
    /// Tells the driver of used buffers.
    pub call: Arc<dyn Notifier>,
}

/// An interrupt of a virtio device: an MSI-X vector, or INTx with its ISR status.
pub trait Notifier: Send + Sync {
    /// Interrupts the driver.
    ///
    /// # Errors
    ///
    /// The event descriptor cannot be written.
    fn notify(&self) -> io::Result<()>;

    /// A descriptor that does the same when it is written, for vhost; none where the transport has to
    /// act itself (INTx).
    fn event(&self) -> Option<BorrowedFd<'_>>;
}
