//! Guest-physical layout of a VM: every address that the VMM chooses, once.
//!
//! ```text
//!   0x0000_0000   64 KiB    RAM, left free for the guest's real-mode trampolines
//!   0x0001_0000   56 KiB    RAM, boot structures (see the constants); the guest may reuse them
//!   0x0001_e000             RAM, free
//!   0x000a_0000   384 KiB   RAM, but reserved in the memory map: where PCs have the VGA and BIOS;
//!                           ACPI tables from 0x000e_0000
//!   0x0010_0000             RAM: kernel from here, initrd at its end
//!   0xc000_0000   992 MiB   PCI memory: BARs below 4 GiB. The NIC's memory is its BAR at the
//!                           beginning (abi::platform::NIC_GPA), registers are in the last 224 MiB
//!   0xfe00_0000   1 MiB     configuration space of PCI bus 0 (ECAM)
//!   0xfec0_0000             I/O APICs, then local APICs, KVM's own pages: no memory slot here
//!   0x1_0000_0000           RAM beyond the first 3 GiB (abi::platform::HIGH_RAM_GPA)
//!   256 GiB       64 GiB    only views use it: no memory slot here (abi::view::RESERVED_GPA)
//!   320 GiB       192 GiB   PCI memory: BARs that find no place below 4 GiB
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

/// The zero page of the Linux boot protocol (`boot_params`): one page.
pub const BOOT_PARAMS: GuestAddress = GuestAddress(0x1_d000);

/// First byte after the boot structures.
pub const BOOT_END: GuestAddress = GuestAddress(0x1_e000);

/// Where PCs have video memory and firmware: RAM here, but reserved in the memory map so that no
/// kernel takes it for free.
pub const LEGACY_HOLE: GuestAddress = GuestAddress(0xa_0000);

/// The root system description pointer of ACPI: 36 bytes, on one of the 16-byte boundaries that
/// kernels search.
pub const ACPI_RSDP: GuestAddress = GuestAddress(0xe_0000);

/// The other ACPI tables, up to [`RESET_VECTOR`]: 128 KiB, of which a VM with the most vCPUs needs
/// less than 8.
pub const ACPI_TABLES: GuestAddress = GuestAddress(0xe_0040);

/// Where real mode begins after a reset of PCs (F000:FFF0): the last 16 bytes below 1 MiB. Kernels jump
/// there to reset the machine.
pub const RESET_VECTOR: GuestAddress = GuestAddress(0xf_fff0);

/// First byte of RAM that is the kernel's.
pub const KERNEL_START: GuestAddress = GuestAddress(0x10_0000);

/// The smallest RAM a VM can have, in bytes: boot structures and 1 MiB for the kernel.
pub const MIN_RAM: u64 = 2 << 20;

/// Unit of RAM sizes, in bytes.
pub const RAM_UNIT: u64 = PAGE_SIZE;

/// First byte of the window of PCI bus 0 for BARs below 4 GiB. Memory BARs are placed from here on,
/// that of the NIC first. It ends at [`PCI_ECAM`].
pub const PCI_LOW: GuestAddress = GuestAddress(platform::NIC_GPA);

/// First byte of the part of the low window in which the VMM places BARs that are registers, and
/// nothing else.
pub const PCI_REGISTERS: GuestAddress = GuestAddress(0xf000_0000);

/// Configuration space of PCI bus 0 by the enhanced configuration access mechanism: 4 KiB a
/// function, 8 functions a device, 32 devices (PCI Firmware Specification, "MCFG Table").
pub const PCI_ECAM: GuestAddress = GuestAddress(0xfe00_0000);

/// Size of the configuration space of one bus in bytes.
pub const PCI_ECAM_SIZE: u64 = 1 << 20;

/// First byte of the window of PCI bus 0 for BARs above 4 GiB, right behind the range of views.
pub const PCI_HIGH: GuestAddress = GuestAddress(view::RESERVED_GPA + view::RESERVED_GPA_SIZE);

/// First byte after that window: processors of 39 address bits, the fewest that have room for the
/// range of views, reach it.
pub const PCI_HIGH_END: GuestAddress = GuestAddress(1 << 39);

/// I/O port of the PCI configuration address register (PCI Local Bus Specification, "Configuration
/// Mechanism"): only 32-bit accesses are its.
pub const PCI_CONFIG_ADDRESS: u16 = 0xcf8;

/// First of the four I/O ports of the PCI configuration data register.
pub const PCI_CONFIG_DATA: u16 = 0xcfc;

/// Number of devices that a PCI bus has room for, the host bridge included.
pub const PCI_DEVICES: usize = 32;

/// Global system interrupt of the INTx pin (INTA, level-triggered, active low) of a device of PCI
/// bus 0: pins 16 to 23 of the I/O APIC in turn.
pub const fn pci_intx_gsi(device: usize) -> u32 {
    16 + (device % 8) as u32
}

/// Global system interrupt of the INTx pin that a function of PCI bus 0 has for itself
/// (edge-triggered): the pin of the I/O APIC at [`PCI_IO_APIC`].
pub const PCI_OWN_GSI: u32 = 24;

/// First interrupt of KVM's routing table that no pin of its I/O APIC has: messages from here on. To
/// the guest these have no number.
pub const FIRST_MSI_GSI: u32 = 24;

/// Registers of the in-kernel I/O APIC (Linux: `IOAPIC_DEFAULT_BASE_ADDRESS`); one page.
pub const IO_APIC: GuestAddress = GuestAddress(0xfec0_0000);

/// Registers of the second I/O APIC, which the VMM has for a pin of PCI bus 0; one page.
pub const PCI_IO_APIC: GuestAddress = GuestAddress(0xfec0_1000);

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
    assert!(CMDLINE.0 + CMDLINE_SIZE as u64 == BOOT_PARAMS.0);
    assert!(BOOT_PARAMS.0 + PAGE_SIZE == BOOT_END.0);
    assert!(BOOT_END.0 <= LEGACY_HOLE.0);
    assert!(KERNEL_START.0 < MIN_RAM);
    assert!(ACPI_RSDP.0 >= LEGACY_HOLE.0 && ACPI_RSDP.0 + 36 <= ACPI_TABLES.0);
    assert!(ACPI_TABLES.0 < RESET_VECTOR.0 && RESET_VECTOR.0 + 16 == KERNEL_START.0);
    assert!(PCI_LOW.0 < PCI_REGISTERS.0 && PCI_REGISTERS.0 < PCI_ECAM.0);
    assert!(PCI_ECAM.0.is_multiple_of(PCI_ECAM_SIZE));
    assert!(PCI_ECAM.0 + PCI_ECAM_SIZE <= IO_APIC.0);
    assert!(PCI_HIGH.0 < PCI_HIGH_END.0);
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
