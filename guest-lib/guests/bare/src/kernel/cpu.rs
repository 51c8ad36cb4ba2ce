//! The CPU's mode and its descriptor tables.

use core::arch::x86_64::__cpuid_count;
use core::ops::Range;

use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr3Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::{Entry, HandlerFunc};
use x86_64::structures::paging::PhysFrame;
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::frames::Frames;
use super::space::{AddressSpace, Rights};
use super::{refuse, trap};

/// Selectors, as [`Tables::new`] arranges them.
pub const KERNEL_CODE: SegmentSelector = SegmentSelector::new(1, PrivilegeLevel::Ring0);
/// The kernel's stack segment.
pub const KERNEL_DATA: SegmentSelector = SegmentSelector::new(2, PrivilegeLevel::Ring0);
/// The program's stack segment.
pub const USER_DATA: SegmentSelector = SegmentSelector::new(3, PrivilegeLevel::Ring3);
/// The program's code segment.
pub const USER_CODE: SegmentSelector = SegmentSelector::new(4, PrivilegeLevel::Ring3);
/// The task state segment, two descriptors wide.
pub const TASK_STATE: SegmentSelector = SegmentSelector::new(5, PrivilegeLevel::Ring0);

/// Ends the VM if the CPU lacks what the kernel uses.
pub fn check_features() {
    let extended = __cpuid_count(7, 0).ebx;
    let amd = __cpuid_count(0x8000_0001, 0).edx;
    for (has, name) in [
        (extended & (1 << 7) != 0, "SMEP"),
        (extended & (1 << 20) != 0, "SMAP"),
        (amd & (1 << 20) != 0, "NX"),
    ] {
        if !has {
            refuse(format_args!(
                "the CPU has no {name}, which this guest needs"
            ));
        }
    }
}

/// Changes to the kernel's address space, with all protections on.
pub fn enable(root: PhysFrame) {
    // SAFETY: the kernel's address space has all that is in use now, where it is now: code, data
    // and the boot stack in the image, RAM one to one. It has no user page that code here touches.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT));
        Cr3::write(root, Cr3Flags::empty());
        Cr4::update(|cr4| {
            cr4.insert(
                Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION
                    | Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION,
            );
        });
    }
}

/// What lies in the frames of [`Tables`].
#[repr(C)]
struct Contents {
    idt: [Entry<HandlerFunc>; 256],
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
}

/// The descriptor tables, mapped one to one in both address spaces.
pub struct Tables {
    frames: Range<u64>,
    contents: &'static Contents,
}

impl Tables {
    /// Makes the tables.
    pub fn new(frames: &mut Frames, stacks: &trap::Stacks) -> Tables {
        let frames = frames.allocate(size_of::<Contents>() as u64);
        // SAFETY: the frames are new, large enough, mapped one to one, and never freed.
        let contents = unsafe {
            let contents = frames.start as *mut Contents;
            contents.write(Contents {
                idt: [const { Entry::missing() }; 256],
                gdt: GlobalDescriptorTable::new(),
                tss: TaskStateSegment::new(),
            });
            &mut *contents
        };
        contents.tss.privilege_stack_table[0] = VirtAddr::new(stacks.trap_top());
        for (number, top) in stacks.special_tops().into_iter().enumerate() {
            contents.tss.interrupt_stack_table[number] = VirtAddr::new(top);
        }

        contents.gdt.append(Descriptor::kernel_code_segment());
        contents.gdt.append(Descriptor::kernel_data_segment());
        contents.gdt.append(Descriptor::user_data_segment());
        contents.gdt.append(Descriptor::user_code_segment());
        // SAFETY: the task state segment stays where it is.
        let tss = unsafe { Descriptor::tss_segment_unchecked(&contents.tss) };
        contents.gdt.append(tss);

        for gate in trap::gates() {
            let entry = &mut contents.idt[usize::from(gate.vector)];
            // SAFETY: the stubs are made for their vectors, and mapped in both address spaces;
            // `load` makes the selector valid. Each special stack has one vector.
            unsafe {
                let options = entry.set_handler_addr(VirtAddr::new(gate.stub));
                options.set_code_selector(KERNEL_CODE);
                if gate.user {
                    options.set_privilege_level(PrivilegeLevel::Ring3);
                }
                if let Some(stack) = gate.special_stack {
                    options.set_stack_index(stack);
                }
            }
        }
        Tables { frames, contents }
    }

    /// Maps the tables for the kernel into an address space that has not all RAM.
    pub fn map(&self, space: &mut AddressSpace, frames: &mut Frames) {
        space.map(
            frames,
            self.frames.clone(),
            self.frames.start,
            Rights::WRITE,
        );
    }

    /// Has the CPU use the tables.
    pub fn load(&self) {
        self.contents.gdt.load();
        // SAFETY: the tables are complete, mapped and never freed; the selectors are theirs.
        unsafe {
            CS::set_reg(KERNEL_CODE);
            SS::set_reg(KERNEL_DATA);
            DS::set_reg(SegmentSelector::NULL);
            ES::set_reg(SegmentSelector::NULL);
            load_tss(TASK_STATE);
            lidt(&DescriptorTablePointer {
                limit: (size_of_val(&self.contents.idt) - 1) as u16,
                base: VirtAddr::from_ptr(&self.contents.idt),
            });
        }
    }
}
