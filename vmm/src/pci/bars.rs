//! The BARs of one function: where they are, and what is behind them (PCI Local Bus Specification
//! 3.0, "Base Addresses").
#![deny(unsafe_code)]

use super::config::{COMMAND_MEMORY, ConfigSpace};
use super::function::{BarKind, Doorbell};
use super::machine::{Machine, SlotNumber};
use crate::layout;

/// Addresses that the VMM gives to BARs before the guest starts, as firmware does, and to an I/O APIC.
#[derive(Debug)]
pub struct Places {
    registers: u64,
    low: u64,
    high: u64,
    /// Whether a function has the place of the I/O APIC.
    io_apic: bool,
}

impl Places {
    /// All windows of the bus free.
    pub fn new() -> Places {
        Places {
            registers: layout::PCI_REGISTERS.0,
            low: layout::PCI_LOW.0,
            high: layout::PCI_HIGH.0,
            io_apic: false,
        }
    }

    /// Takes the one place for an I/O APIC ([`layout::PCI_IO_APIC`]); false if it is taken.
    pub fn take_io_apic(&mut self) -> bool {
        !std::mem::replace(&mut self.io_apic, true)
    }

    /// A place for a BAR of that size, a power of two. No two BARs share a page. Memory goes below
    /// 4 GiB if it has room there.
    pub fn take(&mut self, kind: BarKind, size: u64) -> Option<u64> {
        let (low, high) = (layout::PCI_REGISTERS.0, layout::PCI_HIGH_END.0);
        match kind {
            BarKind::Registers => take(&mut self.registers, layout::PCI_ECAM.0, size),
            BarKind::Memory => {
                take(&mut self.low, low, size).or_else(|| take(&mut self.high, high, size))
            }
        }
    }
}

fn take(next: &mut u64, end: u64, size: u64) -> Option<u64> {
    let unit = size.max(postern_abi::PAGE_SIZE);
    let start = next.checked_next_multiple_of(unit)?;
    let after = start.checked_add(unit).filter(|&after| after <= end)?;
    *next = after;
    Some(start)
}

/// What is behind a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Registers of the function.
    Function,
    /// The MSI-X table, and pending bits.
    Msix,
    /// A memory slot.
    Memory(SlotNumber),
}

/// One BAR.
pub struct PlacedBar {
    /// Its index.
    pub index: usize,
    /// Its size in bytes.
    pub size: u64,
    /// What is behind it.
    pub behind: Behind,
    /// The address that it has after a reset.
    pub first: u64,
    /// Where it is, while it is decoded.
    pub at: Option<u64>,
    /// Registers that KVM answers, and whether it does.
    pub doorbells: Vec<(Doorbell, bool)>,
}

impl PlacedBar {
    /// What its register says of it.
    pub fn kind(&self) -> BarKind {
        match self.behind {
            Behind::Function | Behind::Msix => BarKind::Registers,
            Behind::Memory(_) => BarKind::Memory,
        }
    }

    /// The offset in the BAR of an access that lies in it as a whole.
    pub fn offset_of(&self, address: u64, length: usize) -> Option<u64> {
        let offset = address.checked_sub(self.at?)?;
        let end = offset.checked_add(length as u64)?;
        (end <= self.size).then_some(offset)
    }

    /// Where the driver wants it.
    fn wanted(&self, config: &ConfigSpace) -> Option<u64> {
        let address = config.bar_address(self.index, self.kind());
        let decoded = config.command() & COMMAND_MEMORY != 0;
        (decoded && address.checked_add(self.size).is_some()).then_some(address)
    }

    fn take_off(&mut self, machine: &dyn Machine) {
        let Some(at) = self.at.take() else { return };
        if let Behind::Memory(slot) = self.behind {
            machine.unmap(slot);
        }
        for (doorbell, on) in &mut self.doorbells {
            if std::mem::take(on) {
                // It was put there, so it can be taken away.
                let _ = set(doorbell, machine, at, false);
            }
        }
    }

    fn put_on(&mut self, machine: &dyn Machine, at: u64) -> std::io::Result<()> {
        if let Behind::Memory(slot) = self.behind {
            machine.map(slot, at)?;
        }
        self.at = Some(at);
        for (doorbell, on) in &mut self.doorbells {
            // Without it the write comes to the function.
            *on = set(doorbell, machine, at, true).is_ok();
        }
        Ok(())
    }
}

/// Has KVM answer a register of a BAR that is at `at`, or no more.
fn set(doorbell: &Doorbell, machine: &dyn Machine, at: u64, on: bool) -> std::io::Result<()> {
    let Doorbell { offset, event, .. } = doorbell;
    machine.set_doorbell(at + offset, event, on)
}

/// Moves the BARs of a function to where its configuration says. What cannot be there is nowhere;
/// the first such is told.
pub fn follow(
    bars: &mut [PlacedBar],
    config: &ConfigSpace,
    machine: &dyn Machine,
) -> std::io::Result<()> {
    let moved = |bar: &PlacedBar| bar.wanted(config) != bar.at;
    for bar in bars.iter_mut().filter(|bar| moved(bar)) {
        bar.take_off(machine);
    }
    let mut result = Ok(());
    for bar in bars.iter_mut().filter(|bar| moved(bar)) {
        if let Some(at) = bar.wanted(config) {
            let put = bar.put_on(machine, at);
            result = result.and(put);
        }
    }
    result
}
