//! Virtio devices as PCI functions (VIRTIO 1.2, "Virtio Over PCI Bus"): the modern interface alone.
//!
//! | BAR 0 | what |
//! | --- | --- |
//! | 0 | common configuration |
//! | 0x1000 | ISR status |
//! | 0x2000 | configuration of the device |
//! | 0x3000 | notifications: 4 bytes a queue, each a doorbell that KVM answers |
//!
//! There is a vector of MSI-X for each queue and one for changes of the configuration. Queues are
//! not reset one by one (`VIRTIO_F_RING_RESET` is not offered), and rings are split ones.
#![deny(unsafe_code)]

mod common;
#[expect(unsafe_code, reason = "a descriptor is borrowed by its number")]
mod signals;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use self::common::{CommonConfig, QueueConfig, Request, VERSION_1};
use self::signals::{ConfigNotifier, QueueNotifier, Signals};
use super::{Activation, ActiveQueue, DeviceStatus, VirtioDevice};
use crate::devices::Effect;
use crate::pci::{Bar, BarKind, Doorbell, Identity, Interrupts, Intx, PciFunction};

pub use self::signals::Tell;

/// PCI vendor ID of virtio devices.
const VENDOR_ID: u16 = 0x1af4;
/// PCI device ID of a virtio device of type 0.
const FIRST_DEVICE_ID: u16 = 0x1040;
/// The bit of `VIRTIO_F_EVENT_IDX`.
const EVENT_IDX: u64 = 1 << 29;

const BAR: usize = 0;
const REGION: u64 = 0x1000;
const COMMON: u64 = 0;
const ISR: u64 = REGION;
const DEVICE: u64 = 2 * REGION;
const NOTIFY: u64 = 3 * REGION;
const BAR_SIZE: u64 = 4 * REGION;
/// Bytes of a queue's notification register.
const NOTIFY_MULTIPLIER: u32 = 4;
/// The most queues that the registers have room for.
const MAX_QUEUES: usize = (REGION / NOTIFY_MULTIPLIER as u64) as usize;

/// Index of the capability through which a driver without access to BARs reaches them, and the
/// offsets in it ("PCI configuration access capability").
const CFG_ACCESS: usize = 4;
const CFG_BAR: usize = 4;
const CFG_OFFSET: usize = 8;
const CFG_LENGTH: usize = 12;
const CFG_DATA: usize = 16;
const CFG_END: usize = 20;

/// A device that cannot be a PCI function.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number or size of queues that cannot be.
    #[error(
        "a {name} with {queues} queues cannot be a PCI function: at most {MAX_QUEUES}, each of a power of two descriptors"
    )]
    Queues {
        /// Name of the device.
        name: &'static str,
        /// Number of its queues.
        queues: usize,
    },
    /// No event descriptor is left.
    #[error("cannot make event descriptors for a {name}")]
    Events {
        /// Name of the device.
        name: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemoryMmap,
    common: CommonConfig,
    kicks: Vec<Arc<EventFd>>,
    signals: Arc<Signals>,
    active: bool,
    /// The capability [`CFG_ACCESS`] as the driver has set it.
    window: [u8; CFG_END],
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci")
            .field("device_type", &self.device.device_type())
            .field("common", &self.common)
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

impl VirtioPci {
    /// A PCI function of a device in a VM with that RAM. `tell` tells people what has become of it.
    ///
    /// # Errors
    ///
    /// The device has too many queues, or no event descriptor is left.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemoryMmap,
        tell: Tell,
    ) -> Result<VirtioPci, Error> {
        let name = name(device.device_type());
        let sizes = device.queue_sizes();
        let queues = sizes.len();
        if queues > MAX_QUEUES || sizes.iter().any(|&size| Queue::new(size).is_err()) {
            return Err(Error::Queues { name, queues });
        }
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Arc::new);
        let kicks: io::Result<_> = sizes.iter().map(|_| event()).collect();
        Ok(VirtioPci {
            common: CommonConfig::new(device.features() | VERSION_1, &sizes),
            device,
            memory,
            kicks: kicks.map_err(|source| Error::Events { name, source })?,
            signals: Arc::new(Signals::new(name, queues, tell)),
            active: false,
            window: [0; CFG_END],
        })
    }

    fn act(&mut self, request: Request) {
        match request {
            Request::None => {}
            Request::Reset => self.reset(),
            Request::Activate => {
                let begun = self.activation().and_then(|activation| {
                    // Also if it fails: a part of it may work by then.
                    self.active = true;
                    self.device
                        .activate(activation)
                        .map_err(|error| format!("{error}: {}", error.source))
                });
                match begun {
                    Ok(()) => {}
                    Err(why) => self.signals.needs_reset(&why),
                }
            }
        }
    }

    /// What the device works with, if the driver has set up its queues well.
    fn activation(&self) -> Result<Activation, String> {
        let features = self.common.accepted();
        let queues = self.common.queues().iter().zip(&self.kicks).enumerate();
        let queues = queues.map(|(index, (config, kick))| {
            if !config.enabled {
                return Ok(None);
            }
            let queue = queue(config, features, &self.memory).ok_or_else(|| {
                format!("the driver has put queue {index} where no memory is, or not aligned")
            })?;
            let kick = kick
                .try_clone()
                .map_err(|error| format!("cannot keep an event descriptor: {error}"))?;
            let signals = Arc::clone(&self.signals);
            Ok(Some(ActiveQueue {
                queue,
                kick,
                call: Arc::new(QueueNotifier {
                    signals,
                    queue: index,
                }),
            }))
        });
        Ok(Activation {
            memory: self.memory.clone(),
            features,
            queues: queues.collect::<Result<_, String>>()?,
            config_changed: Arc::new(ConfigNotifier(Arc::clone(&self.signals))),
            status: Arc::clone(&self.signals) as Arc<dyn DeviceStatus>,
        })
    }

    fn notify(&self, offset: u64) {
        let queue = (offset / u64::from(NOTIFY_MULTIPLIER)) as usize;
        if let Some(kick) = self.kicks.get(queue) {
            // It fails when the count is full: the device has been told.
            let _ = kick.write(1);
        }
    }

    /// BAR, offset and length of what the capability [`CFG_ACCESS`] selects, if that is a register.
    fn selected(&self) -> Option<(usize, u64, usize)> {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| self.window[at + i]));
        let (offset, length) = (word(CFG_OFFSET), word(CFG_LENGTH));
        let good = usize::from(self.window[CFG_BAR]) == BAR
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && u64::from(offset) + u64::from(length) <= BAR_SIZE;
        good.then_some((BAR, u64::from(offset), length as usize))
    }
}

/// A queue as the driver has set it up, if its rings are aligned and lie in RAM.
fn queue(config: &QueueConfig, features: u64, memory: &GuestMemoryMmap) -> Option<Queue> {
    let mut queue = Queue::new(config.max).ok()?;
    let [desc, driver, device] = config.areas.map(GuestAddress);
    queue.try_set_size(config.size).ok()?;
    queue.try_set_desc_table_address(desc).ok()?;
    queue.try_set_avail_ring_address(driver).ok()?;
    queue.try_set_used_ring_address(device).ok()?;
    queue.set_event_idx(features & EVENT_IDX != 0);
    queue.set_ready(true);
    queue.is_valid(memory).then_some(queue)
}

/// What people call a device of that type ("Device Types").
fn name(device_type: u16) -> &'static str {
    match device_type {
        1 => "virtio-net",
        2 => "virtio-blk",
        4 => "virtio-rng",
        19 => "virtio-vsock",
        _ => "virtio device",
    }
}

/// PCI class code of a device of that type.
fn class(device_type: u16) -> [u8; 3] {
    match device_type {
        // Ethernet controller.
        1 => [0x02, 0x00, 0x00],
        // Mass storage controller, other.
        2 => [0x01, 0x80, 0x00],
        // Simple communication controller, other.
        19 => [0x07, 0x80, 0x00],
        // In no class.
        _ => [0xff, 0x00, 0x00],
    }
}

/// A capability that says where registers are, without ID and pointer ("Virtio Structure PCI
/// Capabilities").
fn capability(kind: u8, offset: u64, length: u64, more: &[u8]) -> Vec<u8> {
    let mut body = vec![0; CFG_DATA - 2];
    body[0] = (CFG_DATA + more.len()) as u8;
    body[1] = kind;
    body[CFG_BAR - 2] = BAR as u8;
    body[CFG_OFFSET - 2..][..4].copy_from_slice(&(offset as u32).to_le_bytes());
    body[CFG_LENGTH - 2..][..4].copy_from_slice(&(length as u32).to_le_bytes());
    body.extend_from_slice(more);
    body
}

impl PciFunction for VirtioPci {
    fn identity(&self) -> Identity {
        let kind = self.device.device_type();
        let id = FIRST_DEVICE_ID.wrapping_add(kind);
        let bar = Bar {
            size: BAR_SIZE,
            kind: BarKind::Registers,
        };
        let notify = self.kicks.len() as u64 * u64::from(NOTIFY_MULTIPLIER);
        Identity {
            id: (VENDOR_ID, id),
            subsystem: (VENDOR_ID, id),
            class: class(kind),
            // Not a transitional device.
            revision: 1,
            bars: vec![(BAR, bar)],
            vendor_capabilities: vec![
                capability(1, COMMON, common::SIZE as u64, &[]),
                capability(2, NOTIFY, notify, &NOTIFY_MULTIPLIER.to_le_bytes()),
                capability(3, ISR, 1, &[]),
                capability(4, DEVICE, REGION, &[]),
                capability(5, 0, 0, &[0; CFG_END - CFG_DATA]),
            ],
            msix_vectors: self.kicks.len() as u16 + 1,
            intx: Some(Intx::Shared),
        }
    }

    fn doorbells(&self) -> Vec<Doorbell> {
        let offsets = (NOTIFY..).step_by(NOTIFY_MULTIPLIER as usize);
        let doorbells = offsets.zip(&self.kicks).map(|(offset, kick)| Doorbell {
            bar: BAR,
            offset,
            event: Arc::clone(kick),
        });
        doorbells.collect()
    }

    fn connect(&mut self, interrupts: Arc<dyn Interrupts>) {
        self.signals.connect(interrupts);
    }

    fn read_capability(&mut self, index: usize, offset: usize, data: &mut [u8]) {
        if index != CFG_ACCESS {
            return;
        }
        let reads_data = (offset..offset + data.len()).any(|at| at >= CFG_DATA);
        if let (true, Some((bar, at, length))) = (reads_data, self.selected()) {
            let mut value = [0; CFG_END - CFG_DATA];
            self.read(bar, at, &mut value[..length]);
            self.window[CFG_DATA..].copy_from_slice(&value);
        }
        for (at, byte) in (offset..).zip(data) {
            if (CFG_BAR..CFG_BAR + 1).contains(&at) || (CFG_OFFSET..CFG_END).contains(&at) {
                *byte = self.window[at];
            }
        }
    }

    fn write_capability(&mut self, index: usize, offset: usize, data: &[u8]) -> Effect {
        if index != CFG_ACCESS {
            return Effect::Continue;
        }
        for (at, &byte) in (offset..).zip(data) {
            if at == CFG_BAR || (CFG_OFFSET..CFG_END).contains(&at) {
                self.window[at] = byte;
            }
        }
        let writes_data = (offset..offset + data.len()).any(|at| at >= CFG_DATA);
        match self.selected().filter(|_| writes_data) {
            Some((bar, at, length)) => {
                let value: [u8; CFG_END - CFG_DATA] =
                    std::array::from_fn(|index| self.window[CFG_DATA + index]);
                self.write(bar, at, &value[..length])
            }
            None => Effect::Continue,
        }
    }

    fn read(&mut self, _: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let inner = offset % REGION;
        match offset - inner {
            COMMON => self.common.read(inner as usize, data, &self.signals),
            ISR if inner == 0 => data[0] = self.signals.take_isr(),
            DEVICE => self.device.read_config(inner, data),
            _ => {}
        }
    }

    fn write(&mut self, _: usize, offset: u64, data: &[u8]) -> Effect {
        let inner = offset % REGION;
        match offset - inner {
            COMMON => {
                let request = self.common.write(inner as usize, data, &self.signals);
                self.act(request);
            }
            DEVICE => self.device.write_config(inner, data),
            NOTIFY => self.notify(inner),
            _ => {}
        }
        Effect::Continue
    }

    fn reset(&mut self) {
        if std::mem::take(&mut self.active) {
            self.device.reset();
        }
        self.common.reset();
        self.signals.reset();
        for kick in &self.kicks {
            // Takes back what was told to a device that is no more. A device may have made the
            // descriptor one that blocks, so something has to be there to read.
            let _ = kick.write(1).and_then(|()| kick.read());
        }
        self.window = [0; CFG_END];
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.reset();
    }
}
