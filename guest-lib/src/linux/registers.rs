//! The registers of the NIC port's PCI device, in this process.

use std::fs;
use std::ptr::NonNull;

use postern_abi::PAGE_SIZE;
use postern_abi::nic_device::{BAR_REGISTERS, REGISTERS_SIZE, register};
use postern_abi::window::MAX_SENDERS;

use super::device::Device;
use super::error::Error;
use super::mapping::Mapping;

/// The registers of a device that has a doorbell. Each access is a VM exit.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to no thread, and its registers are written by single stores.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    /// Maps the registers of a device, for as long as the mapping lives.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn map(device: &Device) -> Result<(Mapping, Registers), Error> {
        let path = device.resource(BAR_REGISTERS);
        let offset = offset_in_page(device)?;
        let mapping = Mapping::new(&device.open_resource(BAR_REGISTERS)?, REGISTERS_SIZE)
            .map_err(|error| Error::of("map the device's registers", path, error))?;
        // SAFETY: a page is mapped. The BAR is aligned to its size, a divisor of the page's, so that
        // all of it lies there.
        let base = unsafe { mapping.base().add(offset as usize) };
        Ok((mapping, Registers { base }))
    }

    /// Rings the bell of the RX queue of that number in the whole NIC.
    #[inline]
    pub fn ring(self, number: u32) {
        // The NIC's memory says which numbers there are; whatever it says, the register is one of the
        // bells.
        let number = number % MAX_SENDERS;
        self.write(register::BELLS + u64::from(number) * 4, 1);
    }

    /// Has the device raise its interrupt for bells that ring, as a pulse.
    pub fn unmask(self) {
        self.write(register::INTERRUPT_MASK, register::PULSE);
    }

    fn write(self, register: u64, value: u32) {
        // SAFETY: the registers are aligned and lie in the mapping, which `Port` never undoes.
        unsafe {
            self.base
                .add(register as usize)
                .cast()
                .write_volatile(value)
        }
    }
}

/// Where in its page the BAR with the registers begins: the kernel maps whole pages.
fn offset_in_page(device: &Device) -> Result<u64, Error> {
    let path = device.file("resource");
    let text = fs::read_to_string(&path)
        .map_err(|error| Error::of("read where the device's registers are", &path, error))?;
    let line = text.lines().nth(BAR_REGISTERS).unwrap_or_default();
    let start = line.split(' ').next().unwrap_or_default();
    let start = start.strip_prefix("0x").unwrap_or(start);
    let offset = u64::from_str_radix(start, 16).unwrap_or(0) % PAGE_SIZE;
    // A BAR is aligned to its size; one that is not would not lie in the page.
    Ok(offset - offset % REGISTERS_SIZE)
}
