//! The boot page tables.
#![deny(unsafe_code)]

use postern_abi::PAGE_SIZE;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PageTable, PageTableFlags};

use super::error::Error;
use crate::layout;

/// Bytes that one entry of a page directory maps.
const LARGE_PAGE: u64 = 2 << 20;

/// Bytes that one page directory maps.
const DIRECTORY: u64 = 512 * LARGE_PAGE;

/// The boot page tables, with the guest-physical address of each.
#[derive(Debug)]
pub struct BootTables(Vec<(GuestAddress, PageTable)>);

impl BootTables {
    /// All tables, the root first.
    pub fn iter(&self) -> impl Iterator<Item = &(GuestAddress, PageTable)> {
        self.0.iter()
    }
}

/// Builds page tables that map the low 4 GiB to themselves in 2 MiB pages: writable, executable,
/// and for the supervisor alone, so that a guest can turn SMEP and SMAP on at once. The last part,
/// where the interrupt controllers are, is uncached.
pub fn boot_tables() -> BootTables {
    let table = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    let page = table | PageTableFlags::HUGE_PAGE;
    let device = page | PageTableFlags::NO_CACHE | PageTableFlags::WRITE_THROUGH;
    let count = layout::IDENTITY_MAPPED / DIRECTORY;
    let directory = |number| layout::PAGE_DIRECTORIES.0 + number * PAGE_SIZE;

    let mut root = PageTable::new();
    root[0].set_addr(PhysAddr::new(layout::PDPT.0), table);
    let mut pointers = PageTable::new();
    let mut directories = Vec::new();
    for number in 0..count {
        let mut entries = PageTable::new();
        for (index, entry) in entries.iter_mut().enumerate() {
            let address = number * DIRECTORY + index as u64 * LARGE_PAGE;
            let flags = if address < layout::IO_APIC.0 {
                page
            } else {
                device
            };
            entry.set_addr(PhysAddr::new(address), flags);
        }
        pointers[number as usize].set_addr(PhysAddr::new(directory(number)), table);
        directories.push((GuestAddress(directory(number)), entries));
    }
    let mut tables = vec![(layout::PML4, root), (layout::PDPT, pointers)];
    tables.append(&mut directories);
    BootTables(tables)
}

/// Writes the boot page tables.
///
/// # Errors
///
/// When RAM does not hold them.
pub fn write_page_tables(ram: &GuestMemoryMmap) -> Result<(), Error> {
    for (address, table) in boot_tables().iter() {
        let mut bytes = [0u8; PAGE_SIZE as usize];
        for (chunk, entry) in bytes.chunks_exact_mut(8).zip(table.iter()) {
            let raw = entry.addr().as_u64() | entry.flags().bits();
            chunk.copy_from_slice(&raw.to_le_bytes());
        }
        ram.write_slice(&bytes, *address)
            .map_err(|source| Error::Write {
                what: "boot page tables",
                source,
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve_ram;
    use postern_abi::platform;

    /// Walks the tables in guest memory as the CPU would; returns the physical address and the
    /// flags that hold on every level.
    fn walk(ram: &GuestMemoryMmap, virt: u64) -> Option<(u64, PageTableFlags)> {
        let mut table = layout::PML4.0;
        let mut common = PageTableFlags::all();
        for level in (1..=4u32).rev() {
            let index = (virt >> (12 + 9 * (level - 1))) & 511;
            let raw: u64 = ram.read_obj(GuestAddress(table + index * 8)).unwrap();
            let flags = PageTableFlags::from_bits_truncate(raw);
            if !flags.contains(PageTableFlags::PRESENT) {
                return None;
            }
            common &= flags | PageTableFlags::HUGE_PAGE;
            let address = raw & 0x000f_ffff_ffff_f000;
            if level == 2 && flags.contains(PageTableFlags::HUGE_PAGE) {
                return Some((address | (virt & (LARGE_PAGE - 1)), common));
            }
            table = address;
        }
        unreachable!("the boot tables end at level 2")
    }

    #[test]
    fn the_low_four_gib_map_to_themselves() {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        write_page_tables(&ram).unwrap();
        for virt in [
            0,
            0x1000,
            layout::KERNEL_START.0,
            (1 << 30) - 1,
            1 << 30,
            platform::NIC_GPA,
            layout::LOCAL_APIC.0,
            layout::IDENTITY_MAPPED - 1,
        ] {
            let (physical, flags) = walk(&ram, virt).unwrap();
            assert_eq!(physical, virt);
            assert!(flags.contains(PageTableFlags::WRITABLE));
            assert!(
                !flags.contains(PageTableFlags::USER_ACCESSIBLE),
                "{virt:#x} is a user page"
            );
            assert!(!flags.contains(PageTableFlags::NO_EXECUTE));
        }
        for virt in [layout::IDENTITY_MAPPED, 1 << 39, 1 << 46] {
            assert_eq!(walk(&ram, virt), None);
        }
    }

    #[test]
    fn all_tables_lie_in_the_boot_range() {
        let tables = boot_tables();
        let mut addresses: Vec<u64> = tables.iter().map(|(address, _)| address.0).collect();
        addresses.sort_unstable();
        assert!(addresses.windows(2).all(|pair| pair[0] < pair[1]));
        for address in addresses {
            assert!(address.is_multiple_of(PAGE_SIZE));
            assert!((layout::BOOT_START.0..layout::BOOT_END.0).contains(&address));
        }
    }
}
