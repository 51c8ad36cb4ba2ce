//! Entry to and exit from the kernel.
//!
//! Each vector has a stub in the trampoline, the one page of code that both address spaces have. It
//! saves all registers on a stack that both have, changes to the kernel's address space, calls
//! [`trap::handle`], and goes back to the address space, and the registers, that it finds in the
//! [`TrapFrame`](super::trap_frame::TrapFrame).

use core::arch::{global_asm, naked_asm};

use super::paging::AddressSpace;
use super::stacks::IST_VECTORS;
use super::trap;
use crate::arch::{apic, selectors};
use crate::syscall;

/// Whether the exception of this vector pushes an error code (Intel SDM volume 3, "Exceptions and
/// Interrupts").
const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// The stub of a vector.
#[unsafe(naked)]
#[unsafe(link_section = ".trampoline")]
extern "sysv64" fn stub<const VECTOR: u8>() {
    naked_asm!(
        ".if {no_code}",
        "push 0",
        ".endif",
        "push {vector}",
        "jmp {common}",
        no_code = const !has_error_code(VECTOR) as u32,
        vector = const VECTOR as u32,
        common = sym trap_common,
    )
}

unsafe extern "C" {
    /// The part that all stubs share.
    fn trap_common();
    /// Leaves the kernel for good: root of the address space, RIP, RSP, RFLAGS, first argument, top
    /// of the trap stack.
    pub fn enter_user(root: u64, rip: u64, rsp: u64, rflags: u64, rdi: u64, stack: u64) -> !;
    /// The kernel's CR3, in the trampoline.
    static mut trap_root: u64;
}

// On entry, the CPU has aligned RSP to 16 bytes before it pushed 5 words; with error code, vector
// and the 16 words of the `TrapFrame` above them that makes 23, and one more aligns it again.
global_asm!(
    ".pushsection .trampoline, \"ax\"",
    "trap_common:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rax, cr3",
    "push rax",
    "mov rax, [rip + trap_root]",
    "mov cr3, rax",
    "cld",
    "mov rdi, rsp",
    "sub rsp, 8",
    "call {handle}",
    "add rsp, 8",
    "pop rax",
    "mov cr3, rax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    "enter_user:",
    "mov rsp, r9",
    "push {user_data}",
    "push rdx",
    "push rcx",
    "push {user_code}",
    "push rsi",
    "mov cr3, rdi",
    "mov rdi, r8",
    "iretq",
    ".balign 8",
    "trap_root: .quad 0",
    ".popsection",
    handle = sym trap::handle,
    user_data = const selectors::USER_DATA.0,
    user_code = const selectors::USER_CODE.0,
);

/// A gate of the interrupt descriptor table.
pub struct Gate {
    /// The vector that it serves.
    pub vector: u8,
    /// Address of its stub.
    pub stub: u64,
    /// Whether user mode may use it.
    pub user: bool,
    /// Index of its stack in [`super::stacks::TrapStacks::ist_tops`], for a vector that may come at
    /// any time.
    pub ist_stack: Option<u16>,
}

/// The gates of all vectors that have one.
pub fn gates() -> impl Iterator<Item = Gate> {
    macro_rules! stubs {
        ($($vector:literal)*) => { [$(($vector, stub::<$vector> as extern "sysv64" fn())),*] };
    }
    let exceptions = stubs!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    );
    let others = [
        (apic::TIMER, stub::<{ apic::TIMER }> as extern "sysv64" fn()),
        (apic::SPURIOUS, stub::<{ apic::SPURIOUS }>),
        (syscall::VECTOR, stub::<{ syscall::VECTOR }>),
    ];
    exceptions
        .into_iter()
        .chain(others)
        .map(|(vector, stub)| Gate {
            vector,
            stub: stub as usize as u64,
            user: matches!(vector, 3 | 4 | syscall::VECTOR),
            ist_stack: IST_VECTORS
                .iter()
                .position(|&it| it == vector)
                .map(|it| it as u16),
        })
}

/// Gives the stubs the kernel's address space. The trampoline can still be written then: before
/// [`super::cpu::enable`].
pub fn set_kernel_space(kernel: AddressSpace) {
    let root = kernel.root().start_address();
    // SAFETY: one CPU, and no stub has run yet; the boot page tables allow the write.
    unsafe { (&raw mut trap_root).write(root.as_u64()) };
}
