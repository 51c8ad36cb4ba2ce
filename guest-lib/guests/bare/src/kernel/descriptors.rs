//! The descriptor tables: segments (GDT), interrupts (IDT) and the task state segment (Intel SDM
//! volume 3, "Protected-Mode Memory Management" and "Interrupt and Exception Handling").

use core::ops::Range;

use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::{Entry, HandlerFunc};
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::frames::Frames;
use super::paging::{AddressSpace, Rights};
use super::stacks::TrapStacks;
use super::stubs;
use crate::arch::selectors::{KERNEL_CODE, KERNEL_DATA, TASK_STATE};

/// The tables themselves, as they lie in the frames of [`DescriptorTables`].
#[repr(C)]
struct Contents {
    idt: [Entry<HandlerFunc>; 256],
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
}

/// The descriptor tables, mapped one to one in both address spaces.
pub struct DescriptorTables {
    frames: Range<u64>,
    contents: &'static Contents,
}

impl DescriptorTables {
    /// Makes the tables.
    pub fn new(frames: &mut Frames, stacks: &TrapStacks) -> DescriptorTables {
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
        for (number, top) in stacks.ist_tops().into_iter().enumerate() {
            contents.tss.interrupt_stack_table[number] = VirtAddr::new(top);
        }

        contents.gdt.append(Descriptor::kernel_code_segment());
        contents.gdt.append(Descriptor::kernel_data_segment());
        contents.gdt.append(Descriptor::user_data_segment());
        contents.gdt.append(Descriptor::user_code_segment());
        // SAFETY: the task state segment stays where it is.
        let tss = unsafe { Descriptor::tss_segment_unchecked(&contents.tss) };
        contents.gdt.append(tss);

        for gate in stubs::gates() {
            let entry = &mut contents.idt[usize::from(gate.vector)];
            // SAFETY: the stubs are made for their vectors, and mapped in both address spaces;
            // `load` makes the selector valid. Each stack of the interrupt stack table has
            // one vector.
            unsafe {
                let options = entry.set_handler_addr(VirtAddr::new(gate.stub));
                options.set_code_selector(KERNEL_CODE);
                if gate.user {
                    options.set_privilege_level(PrivilegeLevel::Ring3);
                }
                if let Some(stack) = gate.ist_stack {
                    options.set_stack_index(stack);
                }
            }
        }
        DescriptorTables { frames, contents }
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

    /// Loads the tables into the CPU.
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
