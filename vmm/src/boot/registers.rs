//! Initial registers of the boot processor.
#![deny(unsafe_code)]

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use x86_64::registers::control::{Cr0Flags, Cr4Flags, EferFlags};
use x86_64::registers::rflags::RFlags;

use super::descriptors::Descriptors;
use crate::layout;
use crate::loader::Entry;

/// Bit 1 of RFLAGS is always set (SDM volume 1, "EFLAGS Register").
const RFLAGS_RESERVED: u64 = 2;

/// General registers at `entry`.
pub fn set_regs(entry: Entry) -> kvm_regs {
    let start_info = layout::START_INFO.0;
    let common = kvm_regs {
        rbx: start_info,
        rflags: RFLAGS_RESERVED | RFlags::empty().bits(),
        ..Default::default()
    };
    match entry {
        Entry::Long(address) => kvm_regs {
            rip: address.0,
            rsp: layout::STACK_TOP.0,
            rdi: start_info,
            ..common
        },
        Entry::Pvh(address) => kvm_regs {
            rip: address.0,
            ..common
        },
        Entry::Linux(address) => kvm_regs {
            rip: address.0,
            rsp: layout::STACK_TOP.0,
            rsi: layout::BOOT_PARAMS.0,
            rbx: 0,
            ..common
        },
    }
}

/// Changes `sregs`, as KVM has them after reset, to what `entry` needs.
pub fn set_sregs(sregs: &mut kvm_sregs, entry: Entry, tables: &Descriptors) {
    match entry {
        Entry::Long(_) | Entry::Linux(_) => set_long_mode(sregs, tables),
        Entry::Pvh(_) => set_protected_mode(sregs),
    }
}

fn set_long_mode(sregs: &mut kvm_sregs, tables: &Descriptors) {
    sregs.cr0 = (Cr0Flags::PROTECTED_MODE_ENABLE
        | Cr0Flags::MONITOR_COPROCESSOR
        | Cr0Flags::EXTENSION_TYPE
        | Cr0Flags::NUMERIC_ERROR
        | Cr0Flags::WRITE_PROTECT
        | Cr0Flags::PAGING)
        .bits();
    sregs.cr3 = layout::PML4.0;
    sregs.cr4 =
        (Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE)
            .bits();
    sregs.efer =
        (EferFlags::LONG_MODE_ENABLE | EferFlags::LONG_MODE_ACTIVE | EferFlags::NO_EXECUTE_ENABLE)
            .bits();
    sregs.gdt = table(layout::GDT.0, tables.gdt_limit);
    sregs.idt = table(layout::IDT.0, tables.idt_limit);
    sregs.cs = tables.code;
    set_data(sregs, tables.data);
    sregs.tr = tables.task;
}

/// What the PVH boot ABI asks for ("x86/HVM direct boot ABI" of Xen): flat segments with limit
/// 4 GiB, a 32-bit TSS with base 0 and limit 0x67, CR0.PE alone.
fn set_protected_mode(sregs: &mut kvm_sregs) {
    let flat = kvm_segment {
        base: 0,
        limit: u32::MAX,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cr0 = (Cr0Flags::PROTECTED_MODE_ENABLE | Cr0Flags::EXTENSION_TYPE).bits();
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
    sregs.cs = kvm_segment {
        selector: 0x08,
        // Code, readable, accessed.
        type_: 0b1011,
        ..flat
    };
    set_data(
        sregs,
        kvm_segment {
            selector: 0x10,
            // Data, writable, accessed.
            type_: 0b0011,
            ..flat
        },
    );
    sregs.tr = kvm_segment {
        base: 0,
        limit: 0x67,
        selector: 0x18,
        // 32-bit TSS, busy.
        type_: 11,
        present: 1,
        ..Default::default()
    };
}

fn set_data(sregs: &mut kvm_sregs, segment: kvm_segment) {
    sregs.ds = segment;
    sregs.es = segment;
    sregs.fs = segment;
    sregs.gs = segment;
    sregs.ss = segment;
}

fn table(base: u64, limit: u16) -> kvm_dtable {
    kvm_dtable {
        base,
        limit,
        padding: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::write_descriptors;
    use crate::memory::reserve_ram;
    use vm_memory::GuestAddress;

    #[test]
    fn long_mode_is_consistent() {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        let tables = write_descriptors(&ram).unwrap();
        let entry = Entry::Long(GuestAddress(0x10_0000));
        let mut sregs = kvm_sregs::default();
        set_sregs(&mut sregs, entry, &tables);
        // SDM volume 3, "Checks on Guest Control Registers": long mode needs all of these.
        assert_eq!(sregs.efer & 0x500, 0x500);
        assert_eq!(sregs.cr4 & (1 << 5), 1 << 5);
        assert_eq!(sregs.cr0 & 0x8000_0001, 0x8000_0001);
        assert_eq!(sregs.cr4 & (1 << 17), 0, "no PCID");
        assert_eq!(sregs.cs.l, 1);
        // Linux: `__BOOT_CS`, `__BOOT_DS`.
        assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
        let regs = set_regs(Entry::Linux(GuestAddress(0x100_0200)));
        assert_eq!((regs.rip, regs.rsi), (0x100_0200, layout::BOOT_PARAMS.0));
        let regs = set_regs(entry);
        assert_eq!((regs.rip, regs.rdi), (0x10_0000, layout::START_INFO.0));
        assert_eq!(regs.rflags, 2);
    }

    #[test]
    fn pvh_is_32_bit_without_paging() {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        let tables = write_descriptors(&ram).unwrap();
        let entry = Entry::Pvh(GuestAddress(0x10_0040));
        let mut sregs = kvm_sregs::default();
        set_sregs(&mut sregs, entry, &tables);
        assert_eq!(sregs.cr0 & 0x8000_0001, 1);
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.efer), (0, 1, 0));
        let regs = set_regs(entry);
        assert_eq!((regs.rip, regs.rbx), (0x10_0040, layout::START_INFO.0));
    }
}
