//! One device of the bus: a function and what the bus keeps for it.
#![deny(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_abi::PAGE_SIZE;

use super::bars::{self, Behind, PlacedBar, Places};
use super::config::{
    self, COMMAND_INTX_DISABLE, COMMAND_MASTER, COMMAND_MEMORY, ConfigSpace, STATUS,
    STATUS_INTERRUPT,
};
use super::error::Error;
use super::function::{Bar, BarKind, Interrupts, Intx, PciFunction};
use super::interrupts::{self, FunctionInterrupts, Line};
use super::io_apic::IoApic;
use super::machine::Machine;
use crate::devices::Effect;
use crate::layout;

/// BAR of the MSI-X table.
const MSIX_BAR: usize = 1;

/// A function that vCPUs share.
pub type SharedFunction = Arc<Mutex<Box<dyn PciFunction>>>;

/// Uses a function while no other vCPU does.
pub fn lock(function: &SharedFunction) -> MutexGuard<'_, Box<dyn PciFunction>> {
    // A function holds no invariant that a panic elsewhere could have broken half-way.
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A function on the bus.
pub struct Slot {
    config: ConfigSpace,
    bars: Vec<PlacedBar>,
    interrupts: Arc<FunctionInterrupts>,
    /// The I/O APIC that the function has for its pin.
    io_apic: Option<Arc<IoApic>>,
    function: SharedFunction,
    machine: Arc<dyn Machine>,
}

/// What an access to memory space meets.
pub enum Target {
    /// Registers of a function.
    Function(SharedFunction, usize),
    /// The MSI-X table of a function.
    Msix(Arc<FunctionInterrupts>),
    /// The I/O APIC of a function's pin.
    IoApic(Arc<IoApic>),
}

impl Slot {
    /// Puts a function on the bus as that device, with addresses in its BARs and decoding on.
    pub fn new(
        mut function: Box<dyn PciFunction>,
        device: usize,
        places: &mut Places,
        machine: Arc<dyn Machine>,
    ) -> Result<Slot, Error> {
        let identity = function.identity();
        let id = identity.id;
        let vectors = identity.msix_vectors;
        let own = identity.intx.filter(|&intx| intx == Intx::Own);
        if own.is_some() && !places.take_io_apic() {
            return Err(Error::OwnPin);
        }
        let gsi = match identity.intx {
            Some(Intx::Own) => layout::PCI_OWN_GSI,
            _ => layout::pci_intx_gsi(device),
        };
        let pending = interrupts::pending_offset(vectors);
        let mut config = ConfigSpace::new(&identity, gsi, pending)?;
        let mut wanted: Vec<(usize, Bar, bool)> = identity
            .bars
            .iter()
            .map(|&(index, bar)| (index, bar, false))
            .collect();
        if vectors > 0 {
            let table = Bar {
                size: interrupts::bar_size(vectors),
                kind: BarKind::Registers,
            };
            wanted.push((MSIX_BAR, table, true));
        }
        let doorbells = function.doorbells();
        let mut bars = Vec::with_capacity(wanted.len());
        for (index, bar, is_msix) in wanted {
            config.add_bar(id, index, bar.kind, bar.size)?;
            let behind = match bar.kind {
                BarKind::Registers if is_msix => Behind::Msix,
                BarKind::Registers => Behind::Function,
                BarKind::Memory => {
                    let memory = function
                        .memory(index)
                        .filter(|memory| memory.size <= bar.size)
                        .ok_or(Error::NoMemory { id, bar: index })?;
                    Behind::Memory(machine.add_memory(memory))
                }
            };
            let full = Error::NoRoom {
                id,
                bar: index,
                size: bar.size,
            };
            let own = doorbells
                .iter()
                .filter(|doorbell| doorbell.bar == index && !is_msix);
            bars.push(PlacedBar {
                index,
                size: bar.size,
                behind,
                first: places.take(bar.kind, bar.size).ok_or(full)?,
                at: None,
                doorbells: own.map(|doorbell| (doorbell.clone(), false)).collect(),
            });
        }
        let failed = |source| Error::Interrupts { id, source };
        let io_apic = own.map(|_| IoApic::new(Arc::clone(&machine)).map(Arc::new));
        let io_apic = io_apic.transpose().map_err(failed)?;
        let line = match &io_apic {
            Some(io_apic) => Some(Line::Own(Arc::clone(io_apic))),
            None => identity.intx.map(|_| Line::Shared(gsi)),
        };
        let events = function.pulses();
        let interrupts =
            FunctionInterrupts::new(Arc::clone(&machine), vectors, events, line).map_err(failed)?;
        let interrupts = Arc::new(interrupts);
        function.connect(Arc::clone(&interrupts) as Arc<dyn Interrupts>);
        let mut slot = Slot {
            config,
            bars,
            interrupts,
            io_apic,
            function: Arc::new(Mutex::new(function)),
            machine,
        };
        slot.set_up().map_err(|source| Error::Map { id, source })?;
        Ok(slot)
    }

    /// What firmware does: addresses in the BARs, decoding on.
    fn set_up(&mut self) -> std::io::Result<()> {
        for bar in &self.bars {
            let (index, kind, first) = (bar.index, bar.kind(), bar.first);
            self.config.set_bar_address(index, kind, first);
        }
        let command = if self.bars.is_empty() {
            0
        } else {
            COMMAND_MEMORY
        };
        self.config.set_command(command);
        bars::follow(&mut self.bars, &self.config, &*self.machine)
    }

    /// The address of a BAR, while it is decoded.
    pub fn bar(&self, index: usize) -> Option<u64> {
        self.bars.iter().find(|bar| bar.index == index)?.at
    }

    /// Back to what the function was when it was put on the bus.
    pub fn reset(&mut self) {
        lock(&self.function).reset();
        self.interrupts.reset();
        if let Some(io_apic) = &self.io_apic {
            io_apic.reset();
        }
        self.config.clear_msix();
        // As at the start: a place that somebody else's memory has taken is found by them, too.
        let _ = self.set_up();
    }

    /// Whether the function has the bus's I/O APIC for its pin.
    pub fn has_io_apic(&self) -> bool {
        self.io_apic.is_some()
    }

    /// What an access to memory space meets, and at which offset.
    pub fn target(&self, address: u64, length: usize) -> Option<(Target, u64)> {
        if let Some(io_apic) = &self.io_apic {
            let offset = address.checked_sub(layout::PCI_IO_APIC.0);
            if let Some(offset) = offset.filter(|&offset| offset < PAGE_SIZE) {
                return Some((Target::IoApic(Arc::clone(io_apic)), offset));
            }
        }
        self.bars.iter().find_map(|bar| {
            let target = match bar.behind {
                Behind::Function => Target::Function(Arc::clone(&self.function), bar.index),
                Behind::Msix => Target::Msix(Arc::clone(&self.interrupts)),
                Behind::Memory(_) => return None,
            };
            Some((target, bar.offset_of(address, length)?))
        })
    }

    /// A read of configuration space.
    pub fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
        if (offset..offset + data.len()).contains(&STATUS) {
            let (asserted, acknowledged) = self.interrupts.read_intx();
            if asserted {
                data[STATUS - offset] |= STATUS_INTERRUPT;
            }
            if acknowledged {
                lock(&self.function).intx_acknowledged();
            }
        }
        for (index, part) in self.config.vendor_parts(offset, data.len()) {
            let inner = part.start - self.config.vendor_start(index);
            let bytes = &mut data[part.start - offset..part.end - offset];
            lock(&self.function).read_capability(index, inner, bytes);
        }
    }

    /// A write to configuration space.
    pub fn write_config(&mut self, offset: usize, data: &[u8]) -> Effect {
        self.config.write(offset, data);
        let touched =
            |first: usize, length: usize| offset < first + length && first < offset + data.len();
        let command = touched(config::COMMAND, 2);
        if command || touched(config::BARS, 4 * config::BAR_COUNT) {
            // A BAR that cannot be where the driver wants it is not there.
            let _ = bars::follow(&mut self.bars, &self.config, &*self.machine);
        }
        if command || self.config.is_msix(offset, data.len()) {
            let command = self.config.command();
            let masked = self.interrupts.configure(
                self.config.msix_control(),
                command & COMMAND_MASTER != 0,
                command & COMMAND_INTX_DISABLE != 0,
            );
            if masked {
                lock(&self.function).intx_acknowledged();
            }
        }
        for (index, part) in self.config.vendor_parts(offset, data.len()) {
            let inner = part.start - self.config.vendor_start(index);
            let bytes = &data[part.start - offset..part.end - offset];
            match lock(&self.function).write_capability(index, inner, bytes) {
                Effect::Continue => {}
                other => return other,
            }
        }
        Effect::Continue
    }
}
