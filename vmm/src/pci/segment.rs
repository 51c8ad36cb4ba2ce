//! A PCI segment with one bus: the host bridge and up to 31 devices of one function each.
#![deny(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bars::Places;
use super::error::Error;
use super::function::{Identity, Interrupts, PciFunction};
use super::machine::Machine;
use super::slot::{self, Slot, Target};
use crate::devices::{Effect, MmioDevice};
use crate::layout;

/// A PCI segment. vCPUs share it; what they do in configuration space is done one at a time, and so
/// is what they do with one function.
pub struct Segment {
    machine: Arc<dyn Machine>,
    bus: Mutex<Bus>,
}

struct Bus {
    slots: Vec<Slot>,
    places: Places,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").finish_non_exhaustive()
    }
}

impl Segment {
    /// A segment of that VM, with nothing but the host bridge.
    ///
    /// # Errors
    ///
    /// None but for want of memory: a host bridge needs nothing of the VM.
    pub fn new(machine: Arc<dyn Machine>) -> Result<Segment, Error> {
        let mut places = Places::new();
        let bridge = Slot::new(Box::new(HostBridge), 0, &mut places, Arc::clone(&machine))?;
        Ok(Segment {
            machine,
            bus: Mutex::new(Bus {
                slots: vec![bridge],
                places,
            }),
        })
    }

    fn bus(&self) -> MutexGuard<'_, Bus> {
        // What a panic could leave half done concerns one function's configuration alone.
        self.bus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a function on the bus, before the guest runs: its BARs get addresses and decoding is on.
    /// Returns the number of its device.
    ///
    /// # Errors
    ///
    /// The bus is full, the function has an identity that cannot be, or KVM refuses what it needs.
    pub fn plug(&self, function: Box<dyn PciFunction>) -> Result<usize, Error> {
        let mut bus = self.bus();
        let device = bus.slots.len();
        if device >= layout::PCI_DEVICES {
            return Err(Error::Full);
        }
        let machine = Arc::clone(&self.machine);
        let slot = Slot::new(function, device, &mut bus.places, machine)?;
        bus.slots.push(slot);
        Ok(device)
    }

    /// Number of devices, the host bridge included: 0 to one less are there.
    pub fn devices(&self) -> usize {
        self.bus().slots.len()
    }

    /// Number of the device whose function has the bus's I/O APIC for its pin ([`Intx::Own`]).
    ///
    /// [`Intx::Own`]: super::Intx::Own
    pub fn own_pin(&self) -> Option<usize> {
        self.bus().slots.iter().position(Slot::has_io_apic)
    }

    /// What the bus needs of its VM.
    pub(super) fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    /// Where a BAR of a device is now.
    pub fn bar(&self, device: usize, bar: usize) -> Option<u64> {
        self.bus().slots.get(device)?.bar(bar)
    }

    /// A reset of the machine: all functions are as they were when the guest started.
    pub fn reset(&self) {
        for slot in &mut self.bus().slots {
            slot.reset();
        }
    }

    /// Fills `data` with configuration space of a function (device number times 8 and function
    /// number) from `offset` on. What is not there reads as all ones.
    pub fn read_config(&self, function: usize, offset: usize, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, Some(slot)) = (function % 8, self.bus().slots.get(function / 8)) {
            slot.read_config(offset, data);
        }
    }

    /// Writes `data` to configuration space of a function.
    pub fn write_config(&self, function: usize, offset: usize, data: &[u8]) -> Effect {
        match (function % 8, self.bus().slots.get_mut(function / 8)) {
            (0, Some(slot)) => slot.write_config(offset, data),
            _ => Effect::Continue,
        }
    }

    fn target(&self, address: u64, length: usize) -> Option<(Target, u64)> {
        let bus = self.bus();
        bus.slots
            .iter()
            .find_map(|slot| slot.target(address, length))
    }
}

/// Function and offset of an address in the memory of configuration space.
fn ecam(address: u64) -> Option<(usize, usize)> {
    let offset = address.checked_sub(layout::PCI_ECAM.0)?;
    (offset < layout::PCI_ECAM_SIZE).then_some((offset as usize >> 12, offset as usize & 0xfff))
}

impl MmioDevice for Arc<Segment> {
    fn read(&mut self, address: u64, data: &mut [u8]) -> bool {
        if let Some((function, offset)) = ecam(address) {
            self.read_config(function, offset, data);
            return true;
        }
        match self.target(address, data.len()) {
            Some((Target::Function(function, bar), offset)) => {
                data.fill(0xff);
                if is_register(data.len()) {
                    slot::lock(&function).read(bar, offset, data);
                }
                true
            }
            Some((Target::Msix(interrupts), offset)) => {
                interrupts.read_table(offset, data);
                true
            }
            Some((Target::IoApic(io_apic), offset)) => {
                io_apic.read(offset, data);
                true
            }
            None => false,
        }
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Option<Effect> {
        if let Some((function, offset)) = ecam(address) {
            return Some(self.write_config(function, offset, data));
        }
        match self.target(address, data.len())? {
            (Target::Function(function, bar), offset) if is_register(data.len()) => {
                Some(slot::lock(&function).write(bar, offset, data))
            }
            (Target::Function(..), _) => Some(Effect::Continue),
            (Target::Msix(interrupts), offset) => {
                interrupts.write_table(offset, data);
                Some(Effect::Continue)
            }
            (Target::IoApic(io_apic), offset) => {
                io_apic.write(offset, data);
                Some(Effect::Continue)
            }
        }
    }
}

/// Whether an access of so many bytes is one that functions know. KVM gives others where one
/// crosses a page.
fn is_register(length: usize) -> bool {
    matches!(length, 1 | 2 | 4 | 8)
}

/// The bridge from the processors to the bus. It forwards everything and has no registers.
struct HostBridge;

impl PciFunction for HostBridge {
    fn identity(&self) -> Identity {
        Identity {
            // Red Hat, "QEMU PCIe host bridge": one that systems know to need no driver.
            id: (0x1b36, 0x0008),
            subsystem: (0x1af4, 0x1100),
            // Bridge, host.
            class: [0x06, 0x00, 0x00],
            revision: 0,
            bars: Vec::new(),
            vendor_capabilities: Vec::new(),
            msix_vectors: 0,
            intx: None,
        }
    }

    fn connect(&mut self, _: Arc<dyn Interrupts>) {}

    fn read(&mut self, _: usize, _: u64, _: &mut [u8]) {}

    fn write(&mut self, _: usize, _: u64, _: &[u8]) -> Effect {
        Effect::Continue
    }

    fn reset(&mut self) {}
}
