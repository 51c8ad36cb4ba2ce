//! Guest-physical layout of a VM: every address that the VMM chooses, once.
//!
//! ```text
//!   0x0000_0000   64 KiB    RAM, left free for the guest's real-mode trampolines
//!   0x0001_0000   52 KiB    RAM, boot structures (see the constants); the guest may reuse them
//!   0x0001_d000             RAM, free
//!   0x000a_0000   384 KiB   RAM, but reserved in the memory map: where PCs have the VGA and BIOS
//!   0x0010_0000             RAM: kernel from here, initrd at its end
//!   0xc000_0000   1004 MiB  the NIC's memory, up to the I/O APIC (abi::platform::NIC_GPA)
//!   0xfec0_0000             I/O APIC, then local APICs, KVM's own pages: no memory slot here
//!   0x1_0000_0000           RAM beyond the first 3 GiB (abi::platform::HIGH_RAM_GPA)
//!   256 GiB       64 GiB    only views use it: no memory slot here (abi::view::RESERVED_GPA)
//! ```
#![deny(unsafe_code)]

use postern_abi::{PAGE_SIZE, platform, view};
use vm_memory::GuestAddress;

/// First byte of the structures that the VMM prepares for the guest's start.
pub const BOOT_START: GuestAddress = GuestAddress(0x1_0000);

/// The global descriptor table: one page, of which less than 100 bytes are used.
pub const GDT: GuestAddress = BOOT_START;

/// The interrupt descriptor table: one page holds its 256 gates of 16 bytes.
pub const IDT: GuestAddress = GuestAddress(0x1_1000);

/// The 64-bit task state segment: one page, of which 104 bytes are used.
pub const TSS: GuestAddress = GuestAddress(0x1_2000);

/// The boot stack: one page, growing down from [`STACK_TOP`].
pub const STACK: GuestAddress = GuestAddress(0x1_3000);

/// Initial RSP of the boot processor.
pub const STACK_TOP: GuestAddress = GuestAddress(0x1_4000);

/// Root of the boot page tables: one page.
pub const PML4: GuestAddress = GuestAddress(0x1_4000);

/// The one page-directory-pointer table; its first four entries map 1 GiB each.
pub const PDPT: GuestAddress = GuestAddress(0x1_5000);

/// Four page directories, a page each, which map the low 4 GiB in 2 MiB pages.
pub const PAGE_DIRECTORIES: GuestAddress = GuestAddress(0x1_6000);

/// How much the boot page tables map, in bytes: guest-virtual equals guest-physical below it.
pub const IDENTITY_MAPPED: u64 = 4 << 30;

/// The `hvm_start_info` structure: 56 bytes.
pub const START_INFO: GuestAddress = GuestAddress(0x1_a000);

/// The list of modules, 32 bytes each; the initrd is the only one.
pub const MODULE_LIST: GuestAddress = GuestAddress(0x1_a800);

/// The memory map: one page, 24 bytes an entry, less than ten entries.
pub const MEMORY_MAP: GuestAddress = GuestAddress(0x1_b000);

/// The command line, NUL-terminated.
pub const CMDLINE: GuestAddress = GuestAddress(0x1_c000);

/// Room for the command line in bytes, its NUL included.
pub const CMDLINE_SIZE: usize = PAGE_SIZE as usize;

/// First byte after the boot structures.
pub const BOOT_END: GuestAddress = GuestAddress(0x1_d000);

/// Where PCs have video memory and firmware: RAM here, but reserved in the memory map so that no
/// kernel takes it for free.
pub const LEGACY_HOLE: GuestAddress = GuestAddress(0xa_0000);

/// First byte of RAM that is the kernel's.
pub const KERNEL_START: GuestAddress = GuestAddress(0x10_0000);

/// The smallest RAM a VM can have, in bytes: boot structures and 1 MiB for the kernel.
pub const MIN_RAM: u64 = 2 << 20;

/// Unit of RAM sizes, in bytes.
pub const RAM_UNIT: u64 = PAGE_SIZE;

/// Registers of the in-kernel I/O APIC (Linux: `IOAPIC_DEFAULT_BASE_ADDRESS`); one page.
pub const IO_APIC: GuestAddress = GuestAddress(0xfec0_0000);

/// Registers of the in-kernel local APICs (Linux: `APIC_DEFAULT_PHYS_BASE`); one page.
pub const LOCAL_APIC: GuestAddress = GuestAddress(0xfee0_0000);

/// The page that KVM uses for an identity map where the CPU has no unrestricted guest
/// (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: GuestAddress = GuestAddress(0xfffb_c000);

/// Three pages that KVM uses for a TSS where the CPU has no unrestricted guest
/// (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: GuestAddress = GuestAddress(0xfffb_d000);

/// End of the platform's devices: the end of the low 4 GiB.
pub const PLATFORM_END: GuestAddress = GuestAddress(platform::HIGH_RAM_GPA);

/// The most RAM a VM can have, in bytes: the low part, and from 4 GiB to the range of views.
pub const MAX_RAM: u64 = platform::NIC_GPA + (view::RESERVED_GPA - platform::HIGH_RAM_GPA);

/// The most vCPUs a VM can have, whatever KVM allows: APIC ids are 8 bits wide, 255 is broadcast.
pub const MAX_VCPUS: usize = 254;

/// The parts of `size` bytes of RAM: one below the NIC's memory, and the rest above 4 GiB.
pub fn ram_parts(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(platform::NIC_GPA);
    let mut parts = vec![(GuestAddress(0), low)];
    if size > low {
        parts.push((GuestAddress(platform::HIGH_RAM_GPA), size - low));
    }
    parts
}

const _: () = {
    assert!(STACK_TOP.0 == STACK.0 + PAGE_SIZE);
    assert!(PAGE_DIRECTORIES.0 + 4 * PAGE_SIZE == START_INFO.0);
    assert!(CMDLINE.0 + CMDLINE_SIZE as u64 == BOOT_END.0);
    assert!(BOOT_END.0 <= LEGACY_HOLE.0);
    assert!(KERNEL_START.0 < MIN_RAM);
    assert!(platform::NIC_GPA < IO_APIC.0);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_split_around_the_nic() {
        assert_eq!(ram_parts(64 << 20), [(GuestAddress(0), 64 << 20)]);
        assert_eq!(ram_parts(3 << 30), [(GuestAddress(0), 3 << 30)]);
        assert_eq!(
            ram_parts((3 << 30) + RAM_UNIT),
            [
                (GuestAddress(0), 3 << 30),
                (GuestAddress(4 << 30), RAM_UNIT)
            ]
        );
    }

    #[test]
    fn the_most_ram_ends_where_views_begin() {
        let (start, size) = *ram_parts(MAX_RAM).last().unwrap();
        assert_eq!(start.0 + size, view::RESERVED_GPA);
    }
}
