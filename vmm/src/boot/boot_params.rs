//! The zero page of the Linux boot protocol (Linux: Documentation/x86/boot.rst and zero-page.rst).
#![deny(unsafe_code)]

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::GuestMemoryMmap;

use super::error::Error;
use super::start_info::{StartInfo, memory_map};
use crate::layout;

/// `type_of_loader`: one without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// `vid_mode`: whatever the kernel finds ("normal").
const VIDEO_NORMAL: u16 = 0xffff;

/// Writes the zero page of a kernel with this setup header to [`layout::BOOT_PARAMS`].
///
/// # Errors
///
/// When RAM does not hold it.
pub fn write_boot_params(
    ram: &GuestMemoryMmap,
    setup: &setup_header,
    info: &StartInfo<'_>,
) -> Result<(), Error> {
    let mut params = boot_params {
        hdr: *setup,
        acpi_rsdp_addr: info.rsdp.0,
        ..boot_params::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.vid_mode = VIDEO_NORMAL;
    params.hdr.cmd_line_ptr = layout::CMDLINE.0 as u32;
    if let Some(initrd) = info.initrd {
        // Below 4 GiB: initrds lie in the low part of RAM.
        params.hdr.ramdisk_image = initrd.start.0 as u32;
        params.hdr.ramdisk_size = initrd.size as u32;
    }
    // Types are those of the PVH boot ABI, which took them from here.
    let map = memory_map(ram);
    params.e820_entries = map.len() as u8;
    let mut table = params.e820_table;
    for (entry, found) in table.iter_mut().zip(&map) {
        *entry = boot_e820_entry {
            addr: found.addr,
            size: found.size,
            r#type: found.type_,
        };
    }
    params.e820_table = table;
    let params = BootParams::new(&params, layout::BOOT_PARAMS);
    LinuxBootConfigurator::write_bootparams(&params, ram).map_err(Error::BootParams)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::Module;
    use crate::memory::reserve_ram;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn the_kernel_finds_its_parameters_at_their_offsets() {
        let ram = reserve_ram(64 << 20).unwrap();
        let setup = setup_header {
            header: 0x5372_6448,
            version: 0x20f,
            init_size: 0x123_4000,
            ..setup_header::default()
        };
        let info = StartInfo {
            cmdline: "quiet",
            initrd: Some(Module {
                start: GuestAddress(0x300_0000),
                size: 1234,
            }),
            rsdp: layout::ACPI_RSDP,
        };
        write_boot_params(&ram, &setup, &info).unwrap();
        let word = |offset: u64| -> u32 {
            ram.read_obj(GuestAddress(layout::BOOT_PARAMS.0 + offset))
                .unwrap()
        };
        // Offsets from boot.rst and zero-page.rst.
        assert_eq!(word(0x70), layout::ACPI_RSDP.0 as u32);
        assert_eq!(word(0x202), 0x5372_6448);
        assert_eq!(word(0x210) & 0xff, 0xff);
        assert_eq!((word(0x218), word(0x21c)), (0x300_0000, 1234));
        assert_eq!(word(0x228), layout::CMDLINE.0 as u32);
        assert_eq!(word(0x260), 0x123_4000);
        let entries = word(0x1e8) as u8;
        assert_eq!(usize::from(entries), memory_map(&ram).len());
        // The first entry: RAM from 0 to the hole.
        assert_eq!(
            (word(0x2d0), word(0x2d8)),
            (0, layout::LEGACY_HOLE.0 as u32)
        );
        assert_eq!(word(0x2e0), 1);
    }
}
