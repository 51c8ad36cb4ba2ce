//! The boot GDT, IDT and TSS.

use kvm_bindings::kvm_segment;
use vm_memory::{Bytes, GuestMemoryMmap};
use x86_64::VirtAddr;
use x86_64::structures::gdt::{
    Descriptor, DescriptorFlags, GlobalDescriptorTable, SegmentSelector,
};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use super::error::Error;
use crate::layout;

/// The segments of the boot GDT, as KVM wants them, and the limits of the tables.
#[derive(Clone, Debug)]
pub struct Descriptors {
    /// 64-bit code, ring 0.
    pub code: kvm_segment,
    /// Data, ring 0.
    pub data: kvm_segment,
    /// The task state segment, busy.
    pub task: kvm_segment,
    /// Limit of the GDT in bytes.
    pub gdt_limit: u16,
    /// Limit of the IDT in bytes.
    pub idt_limit: u16,
}

/// Writes GDT, IDT and TSS, and returns what the segment registers have to be loaded with. The
/// GDT holds, in this order: null, ring 3 data, ring 0 code and data (at the selectors that the Linux
/// boot protocol asks for), ring 3 code, the TSS. No gate of the IDT is present: an exception before the guest has its own IDT ends the VM with a triple
/// fault, which the VMM reports with the guest's RIP.
///
/// # Errors
///
/// When RAM does not hold them.
pub fn write_descriptors(ram: &GuestMemoryMmap) -> Result<Descriptors, Error> {
    let mut gdt = GlobalDescriptorTable::new();
    gdt.append(Descriptor::user_data_segment());
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    gdt.append(Descriptor::user_code_segment());
    let task = gdt.append(task_descriptor(layout::TSS.0));

    let mut tss = TaskStateSegment::new();
    tss.privilege_stack_table[0] = VirtAddr::new(layout::STACK_TOP.0);
    let idt = InterruptDescriptorTable::new();

    let entries: Vec<u64> = gdt.entries().iter().map(|entry| entry.raw()).collect();
    let gdt_bytes: Vec<u8> = entries.iter().flat_map(|raw| raw.to_le_bytes()).collect();
    let tables: [(&'static str, &[u8], _); 3] = [
        ("GDT", &gdt_bytes, layout::GDT),
        ("IDT", bytes_of(&idt), layout::IDT),
        ("TSS", bytes_of(&tss), layout::TSS),
    ];
    for (what, bytes, address) in tables {
        ram.write_slice(bytes, address)
            .map_err(|source| Error::Write { what, source })?;
    }
    let segment = |selector: SegmentSelector| segment(&entries, selector);
    Ok(Descriptors {
        code: segment(code),
        data: segment(data),
        task: kvm_segment {
            // LTR would have marked it so (SDM volume 2, "LTR").
            type_: TSS_BUSY,
            ..segment(task)
        },
        gdt_limit: gdt.limit(),
        idt_limit: (size_of::<InterruptDescriptorTable>() - 1) as u16,
    })
}

/// Type of a 64-bit TSS in use (SDM volume 3, "System-Segment and Gate-Descriptor Types").
const TSS_BUSY: u8 = 11;

/// The descriptor of the TSS at guest-physical `base`. The crate's own constructor wants a TSS in
/// this program's memory.
fn task_descriptor(base: u64) -> Descriptor {
    const TSS_AVAILABLE: u64 = 9;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    let low = limit
        | (base & 0xff_ffff) << 16
        | TSS_AVAILABLE << 40
        | DescriptorFlags::PRESENT.bits()
        | (base >> 24 & 0xff) << 56;
    Descriptor::SystemSegment(low, base >> 32)
}

/// The bytes of a hardware structure.
fn bytes_of<T: Hardware>(table: &T) -> &[u8] {
    // SAFETY: `Hardware` promises that all bytes of a T are initialised, and the slice borrows it.
    unsafe { std::slice::from_raw_parts((&raw const *table).cast(), size_of::<T>()) }
}

/// A structure without padding.
///
/// # Safety
///
/// Every byte of a value must be initialised.
unsafe trait Hardware {}

// SAFETY: 256 gates of 16 bytes, all fields integers that fill them.
unsafe impl Hardware for InterruptDescriptorTable {}

// SAFETY: `repr(C, packed(4))`, integers only.
unsafe impl Hardware for TaskStateSegment {}

const _: () = assert!(size_of::<InterruptDescriptorTable>() == 4096);
const _: () = assert!(size_of::<TaskStateSegment>() == 104);

/// The segment that `selector` names in the table `entries`, taken apart (SDM volume 3, "Segment
/// Descriptors" and "TSS Descriptor in 64-bit mode").
fn segment(entries: &[u64], selector: SegmentSelector) -> kvm_segment {
    let index = usize::from(selector.index());
    let low = entries[index];
    let bit = |number: u32| ((low >> number) & 1) as u8;
    let bits = |from: u32, count: u32| (low >> from) & ((1 << count) - 1);
    let system = bit(44) == 0;
    let upper = if system { entries[index + 1] << 32 } else { 0 };
    let pages = bit(55) == 1;
    let limit = (bits(0, 16) | (bits(48, 4) << 16)) as u32;
    kvm_segment {
        base: upper | bits(16, 24) | (bits(56, 8) << 24),
        limit: if pages { (limit << 12) | 0xfff } else { limit },
        selector: selector.0,
        type_: bits(40, 4) as u8,
        s: bit(44),
        dpl: bits(45, 2) as u8,
        present: bit(47),
        avl: bit(52),
        l: bit(53),
        db: bit(54),
        g: bit(55),
        unusable: 0,
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve_ram;
    use vm_memory::GuestAddress;

    #[test]
    fn segments_are_flat_and_64_bit() {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        let tables = write_descriptors(&ram).unwrap();
        let code = tables.code;
        assert_eq!(
            (code.l, code.db, code.dpl, code.present, code.s),
            (1, 0, 0, 1, 1)
        );
        assert_eq!((code.base, code.limit), (0, u32::MAX));
        assert_eq!(code.type_ & 0b1010, 0b1010, "readable code");
        let data = tables.data;
        assert_eq!(data.type_ & 0b1010, 0b0010, "writable data");
        assert_eq!((data.base, data.limit, data.dpl), (0, u32::MAX, 0));
        let task = tables.task;
        assert_eq!(
            (task.base, task.type_, task.s),
            (layout::TSS.0, TSS_BUSY, 0)
        );
        assert_eq!(task.limit, 103);
        // The selectors name these descriptors in guest memory, too.
        let raw: u64 = ram
            .read_obj(GuestAddress(layout::GDT.0 + u64::from(code.selector)))
            .unwrap();
        assert_eq!((raw >> 53) & 1, 1);
        let null: u64 = ram.read_obj(layout::GDT).unwrap();
        assert_eq!(null, 0);
    }

    #[test]
    fn no_gate_is_present() {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        write_descriptors(&ram).unwrap();
        for vector in 0..256 {
            let gate: u64 = ram
                .read_obj(GuestAddress(layout::IDT.0 + vector * 16))
                .unwrap();
            assert_eq!((gate >> 47) & 1, 0, "gate {vector}");
        }
    }
}
