//! The `hvm_start_info` of the PVH boot ABI and what it points to: initrd, memory map.
#![deny(unsafe_code)]

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use postern_abi::view;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::error::Error;
use crate::layout;
use crate::loader::Module;

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3" with the 0x80 bit of the "E" set.
const MAGIC: u32 = 0x336e_c578;

/// Version 1 of the structure: it has a memory map.
const VERSION: u32 = 1;

/// Memory map type: RAM (`XEN_HVM_MEMMAP_TYPE_RAM`).
const RAM: u32 = 1;

/// Memory map type: neither RAM nor free (`XEN_HVM_MEMMAP_TYPE_RESERVED`).
const RESERVED: u32 = 2;

/// The parameters of a guest that its start information carries.
#[derive(Clone, Copy, Debug)]
pub struct StartInfo<'a> {
    /// Printable ASCII without NUL.
    pub cmdline: &'a str,
    /// The initrd in guest memory.
    pub initrd: Option<Module>,
    /// Address of the ACPI tables' RSDP.
    pub rsdp: GuestAddress,
}

/// The memory map of a VM with this RAM, in ascending order. What is in no entry is not there, or the
/// window of a PCI bus; configuration space, interrupt controllers and the range of views are
/// reserved.
pub fn memory_map(ram: &GuestMemoryMmap) -> Vec<hvm_memmap_table_entry> {
    let entry = |addr, end, type_| hvm_memmap_table_entry {
        addr,
        size: end - addr,
        type_,
        reserved: 0,
    };
    let mut map = Vec::new();
    for region in ram.iter() {
        let (start, end) = (region.start_addr().0, region.start_addr().0 + region.len());
        if start == 0 {
            let (hole, kernel) = (layout::LEGACY_HOLE.0, layout::KERNEL_START.0);
            map.push(entry(0, hole, RAM));
            map.push(entry(hole, kernel, RESERVED));
            map.push(entry(kernel, end, RAM));
            // Not the windows for BARs: Linux keeps PCI functions out of reserved ranges.
            map.push(entry(layout::PCI_ECAM.0, layout::PLATFORM_END.0, RESERVED));
        } else {
            map.push(entry(start, end, RAM));
        }
    }
    map.push(entry(
        view::RESERVED_GPA,
        view::RESERVED_GPA + view::RESERVED_GPA_SIZE,
        RESERVED,
    ));
    map
}

/// Writes the start information to [`layout::START_INFO`] and what it points to.
///
/// # Errors
///
/// When RAM does not hold all.
pub fn write_start_info(ram: &GuestMemoryMmap, info: &StartInfo<'_>) -> Result<(), Error> {
    let write = |what| move |source| Error::Write { what, source };
    let modules: Vec<hvm_modlist_entry> = info
        .initrd
        .iter()
        .map(|module| hvm_modlist_entry {
            paddr: module.start.0,
            size: module.size,
            ..Default::default()
        })
        .collect();
    write_array(ram, layout::MODULE_LIST.0, &modules).map_err(write("list of modules"))?;
    let map = memory_map(ram);
    write_array(ram, layout::MEMORY_MAP.0, &map).map_err(write("memory map"))?;

    let start_info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        flags: 0,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() {
            0
        } else {
            layout::MODULE_LIST.0
        },
        cmdline_paddr: layout::CMDLINE.0,
        rsdp_paddr: info.rsdp.0,
        memmap_paddr: layout::MEMORY_MAP.0,
        memmap_entries: map.len() as u32,
        reserved: 0,
    };
    ram.write_obj(start_info, layout::START_INFO)
        .map_err(write("start information"))
}

fn write_array<T: vm_memory::ByteValued>(
    ram: &GuestMemoryMmap,
    address: u64,
    items: &[T],
) -> Result<(), vm_memory::GuestMemoryError> {
    for (index, item) in items.iter().enumerate() {
        let offset = (index * size_of::<T>()) as u64;
        ram.write_obj(*item, GuestAddress(address + offset))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve_ram;

    #[test]
    fn the_guest_finds_everything() {
        let ram = reserve_ram(64 << 20).unwrap();
        let initrd = Module {
            start: GuestAddress(0x300_0000),
            size: 1234,
        };
        let info = StartInfo {
            cmdline: "console=ttyS0 postern.test",
            initrd: Some(initrd),
            rsdp: layout::ACPI_RSDP,
        };
        write_start_info(&ram, &info).unwrap();
        let found: hvm_start_info = ram.read_obj(layout::START_INFO).unwrap();
        assert_eq!((found.magic, found.version), (MAGIC, 1));
        assert_eq!(found.rsdp_paddr, layout::ACPI_RSDP.0);
        assert_eq!(found.cmdline_paddr, layout::CMDLINE.0);
        assert_eq!(found.nr_modules, 1);
        let module: hvm_modlist_entry = ram.read_obj(GuestAddress(found.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x300_0000, 1234));
        assert_eq!(found.memmap_entries as usize, memory_map(&ram).len());
    }

    #[test]
    fn the_memory_map_is_sorted_and_has_all_ram() {
        let ram = reserve_ram((3 << 30) + (512 << 20)).unwrap();
        let map = memory_map(&ram);
        assert!(
            map.windows(2)
                .all(|pair| pair[0].addr + pair[0].size <= pair[1].addr)
        );
        let usable: u64 = map
            .iter()
            .filter(|entry| entry.type_ == RAM)
            .map(|entry| entry.size)
            .sum();
        let hole = layout::KERNEL_START.0 - layout::LEGACY_HOLE.0;
        assert_eq!(usable, (3 << 30) + (512 << 20) - hole);
        assert!(map.len() * size_of::<hvm_memmap_table_entry>() <= 4096);
    }
}
