//! Configuration space of one function: bytes, and which bits of them a driver can write (PCI Local
//! Bus Specification 3.0, "Configuration Space Organization").
#![deny(unsafe_code)]

use std::ops::Range;

use super::function::{BarKind, Identity};

/// Bytes of a conventional function's configuration space.
pub const SIZE: usize = 256;

/// First byte behind the header.
const HEADER: usize = 0x40;
/// Command register.
pub const COMMAND: usize = 0x04;
/// Status register.
pub const STATUS: usize = 0x06;
/// The first BAR.
pub const BARS: usize = 0x10;
/// Number of BARs of a type 0 header.
pub const BAR_COUNT: usize = 6;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

/// Command: memory space accesses are decoded.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: the function may write to memory, which MSI-X messages are.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command: INTx is not asserted.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status: INTx would be asserted if it were not disabled.
pub const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// Capability ID: vendor specific.
const CAPABILITY_VENDOR: u8 = 9;
/// Capability ID: MSI-X.
const CAPABILITY_MSIX: u8 = 0x11;
/// Length of the MSI-X capability in bytes.
const MSIX_LENGTH: usize = 12;

/// Why a function has no configuration space.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The capabilities are longer than configuration space.
    #[error("the capabilities of PCI function {0:#06x?} take more than the {SIZE} bytes there are")]
    TooManyCapabilities((u16, u16)),
    /// A BAR that cannot be.
    #[error("PCI function {id:#06x?} cannot have BAR {bar} of {size:#x} bytes")]
    Bar {
        /// Vendor and device ID.
        id: (u16, u16),
        /// Index of the BAR.
        bar: usize,
        /// Its size in bytes.
        size: u64,
    },
}

/// Configuration space of one function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    /// Where the MSI-X capability begins.
    msix: Option<usize>,
    /// Where the vendor-specific capabilities are.
    vendor: Vec<Range<usize>>,
}

impl ConfigSpace {
    /// Configuration space of a function with that identity, whose BAR 1 is that of MSI-X if it has
    /// vectors. `gsi` is the interrupt of its pin; `pending` is where BAR 1 has the pending bits.
    ///
    /// # Errors
    ///
    /// When the identity is one that no function can have.
    pub fn new(identity: &Identity, gsi: u32, pending: u64) -> Result<ConfigSpace, ConfigError> {
        let mut config = ConfigSpace {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            msix: None,
            vendor: Vec::new(),
        };
        config.put(0x00, &identity.id.0.to_le_bytes());
        config.put(0x02, &identity.id.1.to_le_bytes());
        let [base, sub, interface] = identity.class;
        config.put(0x08, &[identity.revision, interface, sub, base]);
        config.put(0x2c, &identity.subsystem.0.to_le_bytes());
        config.put(0x2e, &identity.subsystem.1.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE;
        config.allow(COMMAND, &command.to_le_bytes());
        // Cache line size, which does nothing.
        config.allow(0x0c, &[0xff]);
        if identity.intx.is_some() {
            config.put(INTERRUPT_LINE, &[gsi as u8, 1]);
            config.allow(INTERRUPT_LINE, &[0xff]);
            debug_assert_eq!(INTERRUPT_PIN, INTERRUPT_LINE + 1);
        }
        let mut pointer = CAPABILITIES;
        let mut next = HEADER;
        let mut add = |config: &mut ConfigSpace, id: u8, body: &[u8]| {
            let end = next + 2 + body.len();
            if end > SIZE {
                return Err(ConfigError::TooManyCapabilities(identity.id));
            }
            config.put(pointer, &[next as u8]);
            config.put(next, &[id, 0]);
            config.put(next + 2, body);
            config.bytes[STATUS] |= STATUS_CAPABILITIES;
            let at = next..end;
            pointer = next + 1;
            next = end.next_multiple_of(4);
            Ok(at)
        };
        if identity.msix_vectors > 0 {
            let mut body = [0; MSIX_LENGTH - 2];
            body[..2].copy_from_slice(&(identity.msix_vectors - 1).to_le_bytes());
            // The table is at the beginning of BAR 1, the pending bits behind it.
            body[2..6].copy_from_slice(&1u32.to_le_bytes());
            body[6..].copy_from_slice(&(pending as u32 | 1).to_le_bytes());
            let at = add(&mut config, CAPABILITY_MSIX, &body)?.start;
            // Enable and function mask.
            config.allow(at + 3, &[0xc0]);
            config.msix = Some(at);
        }
        for body in &identity.vendor_capabilities {
            let at = add(&mut config, CAPABILITY_VENDOR, body)?;
            config.vendor.push(at);
        }
        Ok(config)
    }

    /// Makes a BAR of that kind and size.
    ///
    /// # Errors
    ///
    /// There is no such BAR, or it is not a power of two, or too small or large for its kind.
    pub fn add_bar(
        &mut self,
        id: (u16, u16),
        bar: usize,
        kind: BarKind,
        size: u64,
    ) -> Result<(), ConfigError> {
        let error = ConfigError::Bar { id, bar, size };
        let (slots, least, most) = match kind {
            BarKind::Registers => (1, 16, 1 << 31),
            BarKind::Memory => (2, 1 << 12, 1 << 62),
        };
        let free = (bar..bar + slots)
            .all(|index| index < BAR_COUNT && self.writable[bar_offset(index) + 3] == 0);
        if !size.is_power_of_two() || size < least || size > most || !free {
            return Err(error);
        }
        let mask = !(size - 1);
        match kind {
            BarKind::Registers => self.allow(bar_offset(bar), &(mask as u32).to_le_bytes()),
            BarKind::Memory => {
                self.allow(bar_offset(bar), &mask.to_le_bytes());
                // 64 bits, prefetchable.
                self.put(bar_offset(bar), &[0xc]);
            }
        }
        Ok(())
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Fills `data` with the bytes from `offset` on; beyond the end, all ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + index).copied().unwrap_or(0xff);
        }
    }

    /// Writes the bits that can be written.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (index, new) in data.iter().enumerate() {
            let at = offset + index;
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = (*byte & !mask) | (new & mask);
            }
        }
    }

    fn word<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|index| self.bytes[offset + index])
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        u16::from_le_bytes(self.word(COMMAND))
    }

    /// Sets the command register, as firmware does.
    pub fn set_command(&mut self, command: u16) {
        self.write(COMMAND, &command.to_le_bytes());
    }

    /// The address in a BAR.
    pub fn bar_address(&self, bar: usize, kind: BarKind) -> u64 {
        match kind {
            BarKind::Registers => u64::from(u32::from_le_bytes(self.word(bar_offset(bar))) & !0xf),
            BarKind::Memory => u64::from_le_bytes(self.word(bar_offset(bar))) & !0xf,
        }
    }

    /// Puts an address into a BAR, as firmware does.
    pub fn set_bar_address(&mut self, bar: usize, kind: BarKind, address: u64) {
        let width = match kind {
            BarKind::Registers => 4,
            BarKind::Memory => 8,
        };
        self.write(bar_offset(bar), &address.to_le_bytes()[..width]);
    }

    /// MSI-X: whether it is enabled, and whether all vectors are masked.
    pub fn msix_control(&self) -> (bool, bool) {
        let control = self.msix.map_or(0, |at| self.bytes[at + 3]);
        (control & 0x80 != 0, control & 0x40 != 0)
    }

    /// Whether an access touches the MSI-X capability.
    pub fn is_msix(&self, offset: usize, length: usize) -> bool {
        self.msix
            .is_some_and(|at| offset < at + MSIX_LENGTH && at < offset + length)
    }

    /// Turns MSI-X off, as a reset does.
    pub fn clear_msix(&mut self) {
        if let Some(at) = self.msix {
            self.write(at + 3, &[0]);
        }
    }

    /// The vendor-specific capabilities that an access touches: index, and the part of each.
    pub fn vendor_parts(&self, offset: usize, length: usize) -> Vec<(usize, Range<usize>)> {
        let parts = self.vendor.iter().enumerate().filter_map(|(index, at)| {
            let part = at.start.max(offset)..at.end.min(offset + length);
            (!part.is_empty()).then_some((index, part))
        });
        parts.collect()
    }

    /// Where a vendor-specific capability begins.
    pub fn vendor_start(&self, index: usize) -> usize {
        self.vendor[index].start
    }
}

fn bar_offset(bar: usize) -> usize {
    BARS + 4 * bar
}
