//! ACPI tables: what a guest's kernel reads about processors, interrupts, devices and power.
//!
//! The platform is hardware-reduced (ACPI 6.5, "Hardware-Reduced ACPI"): no SCI, no PM1 registers,
//! no PIC and no PIT; a guest switches itself off by the sleep control register. The tables lie in
//! the range where PCs have their BIOS, which the memory map reserves. Kernels get their address by
//! their boot protocol; those that search find it, too.
//!
//! | table | says |
//! | --- | --- |
//! | RSDP, XSDT | where the others are |
//! | FADT | hardware-reduced; registers for sleep and reset ([`crate::devices::PowerPorts`]) |
//! | MADT | a local APIC for each vCPU, one or two I/O APICs |
//! | MCFG | ECAM of PCI bus 0 |
//! | DSDT | COM1, the panic device, the PCI root and its interrupt link, the sleep state S5 |
#![deny(unsafe_code)]

mod dsdt;
mod tables;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout;

/// Maker of the tables.
const OEM: [u8; 6] = *b"POSTRN";

/// Model that the tables describe.
const OEM_TABLE: [u8; 8] = *b"POSTERN ";

/// Revision of the model.
const OEM_REVISION: u32 = 1;

/// A platform as the tables describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// vCPUs; the number of each is its APIC id and its UID.
    pub vcpus: usize,
    /// Whether there is a PCI root.
    pub pci: bool,
    /// The device of the PCI bus whose pin is that of the second I/O APIC.
    pub own_pin: Option<usize>,
}

/// Why the tables cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More tables than the range has room for.
    #[error("the ACPI tables need {need} bytes, but there is room for {room}")]
    Room {
        /// Bytes that they need.
        need: u64,
        /// Bytes that there are.
        room: u64,
    },
    /// RAM does not hold them.
    #[error("cannot write the ACPI tables into guest memory")]
    Write(#[source] GuestMemoryError),
}

/// Writes the tables, and returns the address of the RSDP.
///
/// # Errors
///
/// When RAM, or the range that is reserved, does not hold them.
pub fn write(ram: &GuestMemoryMmap, platform: &Platform) -> Result<GuestAddress, Error> {
    let mut writer = Writer {
        ram,
        next: layout::ACPI_TABLES.0,
    };
    let dsdt = writer.put(&dsdt::dsdt(platform))?;
    let mut listed = vec![
        writer.put(&bytes(&tables::fadt(dsdt)))?,
        writer.put(&bytes(&tables::madt(platform)))?,
    ];
    if platform.pci {
        listed.push(writer.put(&bytes(&tables::mcfg()))?);
    }
    let xsdt = writer.put(&bytes(&tables::xsdt(&listed)))?;
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    ram.write_slice(&rsdp, layout::ACPI_RSDP)
        .map_err(Error::Write)?;
    Ok(layout::ACPI_RSDP)
}

/// The bytes of a table.
fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Puts one table behind the other.
struct Writer<'a> {
    ram: &'a GuestMemoryMmap,
    next: u64,
}

impl Writer<'_> {
    /// Writes a table; returns its address.
    fn put(&mut self, table: &[u8]) -> Result<u64, Error> {
        /// Tables have fields of 8 bytes.
        const ALIGNMENT: u64 = 8;
        let start = self.next;
        let end = start + table.len() as u64;
        if end > layout::RESET_VECTOR.0 {
            return Err(Error::Room {
                need: end - layout::ACPI_TABLES.0,
                room: layout::RESET_VECTOR.0 - layout::ACPI_TABLES.0,
            });
        }
        self.ram
            .write_slice(table, GuestAddress(start))
            .map_err(Error::Write)?;
        self.next = end.next_multiple_of(ALIGNMENT);
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve_ram;

    fn read(ram: &GuestMemoryMmap, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// A table of guest memory, whose checksum is right (ACPI 6.5, "System Description Table
    /// Header").
    fn table(ram: &GuestMemoryMmap, address: u64) -> Vec<u8> {
        let header = read(ram, address, 36);
        let length = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
        let table = read(ram, address, length);
        assert_eq!(sum(&table), 0, "{:?}", &table[..4]);
        table
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
    }

    fn qword(table: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(table[offset..offset + 8].try_into().unwrap())
    }

    /// All tables that the RSDP leads to, by their signatures.
    fn found(vcpus: usize, pci: bool) -> Vec<(String, Vec<u8>)> {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        let platform = Platform {
            vcpus,
            pci,
            own_pin: pci.then_some(2),
        };
        let rsdp = write(&ram, &platform).unwrap();
        let rsdp = read(&ram, rsdp.0, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
        let xsdt = table(&ram, qword(&rsdp, 24));
        let mut tables: Vec<Vec<u8>> = (36..xsdt.len())
            .step_by(8)
            .map(|offset| table(&ram, qword(&xsdt, offset)))
            .collect();
        let fadt = tables.iter().find(|table| table.starts_with(b"FACP"));
        let dsdt = table(&ram, qword(fadt.unwrap(), 140));
        tables.push(dsdt);
        tables
            .into_iter()
            .map(|table| (String::from_utf8_lossy(&table[..4]).into_owned(), table))
            .collect()
    }

    #[test]
    fn a_kernel_finds_all_tables() {
        let names = |pci| -> Vec<String> {
            let tables = found(1, pci);
            tables.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(false), ["FACP", "APIC", "DSDT"]);
        assert_eq!(names(true), ["FACP", "APIC", "MCFG", "DSDT"]);
    }

    #[test]
    fn there_is_room_for_the_most_vcpus() {
        let tables = found(layout::MAX_VCPUS, true);
        let madt = &tables[1].1;
        let local = madt[44..]
            .chunks_exact(8)
            .filter(|part| part[..2] == [0, 8]);
        assert_eq!(local.count(), layout::MAX_VCPUS);
    }

    #[test]
    fn a_pin_that_is_not_shared_is_one_of_the_second_io_apic_by_an_edge_triggered_link() {
        let has = |table: &[u8], part: &[u8]| table.windows(part.len()).any(|one| one == part);
        // Extended interrupt descriptor: consumer, edge-triggered, active high, one interrupt.
        let edge = [0x89, 6, 0, 3, 1, 24, 0, 0, 0];
        let io_apic = [1, 12, 1, 0, 0, 0x10, 0xc0, 0xfe, 24, 0, 0, 0];
        // Device 2 is routed to the link, by its name; device 3 to an interrupt.
        let own = [0x0c, 0xff, 0xff, 2, 0, 0, b'L', b'N', b'K', b'A', 0];
        let shared = [0x0c, 0xff, 0xff, 3, 0, 0, 0, 0x0a, 19];
        for (pci, expected) in [(true, true), (false, false)] {
            let tables = found(1, pci);
            let table = |name| &tables.iter().find(|(one, _)| one == name).unwrap().1;
            assert_eq!(has(table("APIC"), &io_apic), expected);
            for part in [&edge[..], &own, &shared, b"LNKA"] {
                assert_eq!(has(table("DSDT"), part), expected, "{part:x?}");
            }
        }
    }
}
