//! Events inside a view: descriptor tables and stack lie in the TX ring, at the addresses where the
//! service's view has these, so that an event that the CPU delivers there finds what the guest put
//! there. The timer runs; calls are made until interrupts must have met some of them.
//!
//! Nothing of the guest's can be executed in the view. But a delivered event leaves a frame on the
//! stack, whose RIP tells where it was delivered.

use postern_abi::PAGE_SIZE;
use postern_abi::service::OP_NOP;
use postern_abi::view::{DATA_GVA, GATE_GVA, IMAGE_GVA, MAX_IMAGE_SIZE};
use postern_switch::layout::window_offset;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, SS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss, sgdt, sidt};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::Descriptor;
use x86_64::structures::tss::TaskStateSegment;

use super::attacker::{Attacker, GATE_INDEX, PacketPage, VMFUNC};
use super::cpl0::set_protections;
use super::enter::{Registers, enter};
use super::verdict::{Verdict, repelled, succeeded};
use crate::arch::apic::{self, TIMER};
use crate::arch::selectors::{KERNEL_CODE, KERNEL_DATA, TASK_STATE};
use crate::exception::Exception;
use crate::syscall::{self, MAP_KERNEL_WRITE};

/// The stack of the timer's interrupt, counted from 0.
const STACK_NUMBER: usize = 6;

/// Vector of the double fault.
const DOUBLE_FAULT: u8 = 8;
/// Vector of the general protection exception.
const GENERAL_PROTECTION: u8 = 13;
/// Vector of the page fault.
const PAGE_FAULT: u8 = 14;

/// Number of pages: interrupt descriptors, then segment descriptors and task state, then the stack.
const PAGES: u32 = 8;

/// Offset of the task state segment in its page.
const TSS_OFFSET: u64 = 2048;

/// Word of the stack's last page where the CPU puts RIP; code segment, flags, stack pointer and
/// stack segment follow.
const FRAME_RIP: usize = 512 - 5;

/// Number of calls, enough for many interrupts.
const CALLS: u32 = 400_000;

/// Number of rounds of calls without SMEP and SMAP, each until an interrupt ends one.
const TRIES: u32 = 50;

/// An offset in page B with no code: HLT.
const HLT: u64 = 0x800;

/// At CPL 0: copies the CPU's tables to `base`, with another stack for the timer, and uses the
/// copy.
extern "sysv64" fn move_tables(base: u64) -> u64 {
    let (old_idt, old_gdt) = (sidt(), sgdt());
    let gdt = base + PAGE_SIZE;
    let tss = gdt + TSS_OFFSET;
    let copy = |from: VirtAddr, to: u64, size: usize| {
        // SAFETY: the CPU's tables are mapped, and so are the pages at `base`, for the kernel.
        unsafe { core::ptr::copy(from.as_ptr::<u8>(), to as *mut u8, size) }
    };
    copy(old_idt.base, base, usize::from(old_idt.limit) + 1);
    copy(old_gdt.base, gdt, usize::from(old_gdt.limit) + 1);
    // SAFETY: the copies are complete: the old segment's address is taken out of its descriptor
    // (Intel SDM volume 3, "TSS Descriptor in 64-bit mode"), the new one's put in. All stays
    // mapped.
    unsafe {
        let descriptor = (gdt as *mut u64).add(usize::from(TASK_STATE.index()));
        let (low, high) = (descriptor.read(), descriptor.add(1).read());
        let old_tss = (low >> 16) & 0xff_ffff | (low >> 56) << 24 | high << 32;
        copy(VirtAddr::new(old_tss), tss, size_of::<TaskStateSegment>());
        let stack = base + u64::from(PAGES) * PAGE_SIZE;
        (*(tss as *mut TaskStateSegment)).interrupt_stack_table[STACK_NUMBER] =
            VirtAddr::new(stack);
        if let Descriptor::SystemSegment(low, high) =
            Descriptor::tss_segment_unchecked(tss as *const TaskStateSegment)
        {
            descriptor.write(low);
            descriptor.add(1).write(high);
        }
        // The stack's number, from 1, is the fifth byte of a gate (Intel SDM volume 3,
        // "64-Bit Mode IDT").
        let stack_of = |vector: u8| (base + u64::from(vector) * 16 + 4) as *mut u8;
        stack_of(TIMER).write(STACK_NUMBER as u8 + 1);
        // The handler is not there in the view: a fault follows. On a stack that is not there
        // either, it ends the cascade and leaves the first frame as it is.
        for vector in [PAGE_FAULT, GENERAL_PROTECTION] {
            stack_of(vector).write(stack_of(DOUBLE_FAULT).read());
        }
        let table = |base, limit| DescriptorTablePointer {
            base: VirtAddr::new(base),
            limit,
        };
        lgdt(&table(gdt, old_gdt.limit));
        CS::set_reg(KERNEL_CODE);
        SS::set_reg(KERNEL_DATA);
        load_tss(TASK_STATE);
        lidt(&table(base, old_idt.limit));
    }
    0
}

/// At CPL 0: tells the interrupt controller that the timer's interrupt was handled.
extern "sysv64" fn end_interrupt(_: u64) -> u64 {
    apic::end_of_interrupt();
    0
}

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    let window = DATA_GVA + window_offset(attacker.geometry(), attacker.port());
    let base = window + attacker.packet_page(0).offset;
    for number in 0..PAGES {
        let page = attacker.packet_page(number);
        let address = base + u64::from(number) * PAGE_SIZE;
        // SAFETY: nothing of the program's is mapped where a view has the window.
        unsafe { syscall::map(address, page.physical, PAGE_SIZE, MAP_KERNEL_WRITE) };
    }
    // SAFETY: the pages are mapped, and stay so; nothing is sent any more that would need them.
    unsafe { syscall::privileged(move_tables, base) };
    let stack = attacker.packet_page(PAGES - 1);

    let first = attacker.idle.sleep();
    let protected = calls(attacker, stack);
    let ticks = attacker.idle.sleep() - first;
    if ticks < 2 && matches!(protected, Outcome::Undisturbed) {
        return succeeded!("the attack did not take place: it needs the timer");
    }

    // A fault of the gate itself.
    let target = attacker.place_code(GATE_GVA + HLT, &VMFUNC);
    let registers = Registers {
        rcx: GATE_INDEX.into(),
        rdi: OP_NOP,
        target,
        ..Registers::default()
    };
    // SAFETY: the gate halts at that byte, so an exception ends the call, as `enter` expects.
    let fault = unsafe { enter(&registers) };
    attacker.reset_code();
    match fault {
        Err(exception) if exception.is_abort() => {}
        Err(exception) => return succeeded!("a fault in the gate ended elsewhere: {exception}"),
        Ok(_) => return succeeded!("a fault in the gate had no effect"),
    }

    // SAFETY: the kernel's address space has no user pages; they are on again below.
    unsafe { syscall::privileged(set_protections, 0) };
    let armed = attacker.call().is_ok();
    // Some of the interrupts come while the gate view is active, which has no packets.
    let unprotected = armed.then(|| {
        let mut outcomes = (0..TRIES).map(|_| calls(attacker, stack));
        let last = outcomes.find(|outcome| !matches!(outcome, Outcome::Ended(_)));
        last.unwrap_or(Outcome::Undisturbed)
    });
    // SAFETY: SMEP and SMAP are on again, as when the kernel began.
    unsafe { syscall::privileged(set_protections, 1) };

    // The worst first.
    match (protected, unprotected) {
        (Outcome::Delivered { rip, cs }, _) => succeeded!(
            "with SMEP and SMAP an event was delivered in a view, at {rip:#x}, code segment {cs:#x}"
        ),
        (_, Some(Outcome::Delivered { rip, cs })) => succeeded!(
            "without SMEP and SMAP an event was delivered in a view, at {rip:#x}, \
             code segment {cs:#x}"
        ),
        (Outcome::Ended(exception), _) => succeeded!("an interrupt ended a call: {exception}"),
        (_, Some(_)) => succeeded!("calls work without SMEP and SMAP"),
        (Outcome::Undisturbed, None) => repelled!("{CALLS} calls in {ticks} ticks, none disturbed"),
    }
}

/// The outcome of calls while the timer ran.
enum Outcome {
    /// All calls returned.
    Undisturbed,
    /// One call was aborted.
    Ended(Exception),
    /// The CPU delivered an event where the view's code was.
    Delivered { rip: u64, cs: u64 },
}

/// Makes calls while the timer runs.
fn calls(attacker: &mut Attacker, stack: PacketPage) -> Outcome {
    let gate = GATE_GVA..GATE_GVA + PAGE_SIZE;
    let image = IMAGE_GVA..IMAGE_GVA + MAX_IMAGE_SIZE;
    let in_view = |rip: u64| gate.contains(&rip) || image.contains(&rip);
    let result = attacker.calls(CALLS, || in_view(stack.read(FRAME_RIP)));
    let (rip, cs) = (stack.read(FRAME_RIP), stack.read(FRAME_RIP + 1));
    if result.is_err() {
        // The interrupt that was lost must not block the next ones.
        // SAFETY: `end_interrupt` writes a register of the local APIC, and changes no memory.
        unsafe { syscall::privileged(end_interrupt, 0) };
    }
    match result {
        _ if in_view(rip) => Outcome::Delivered { rip, cs },
        Err(exception) => Outcome::Ended(exception),
        Ok(()) => Outcome::Undisturbed,
    }
}
