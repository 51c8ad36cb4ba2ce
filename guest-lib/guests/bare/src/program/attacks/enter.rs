//! A jump to any address with all registers of the attacker's choice.

use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::AtomicU64;

use crate::exception::{Exception, catch_exception};

/// The registers at the target of a jump, and the target.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    /// RSP; 0 is the program's stack, with a return address on top.
    pub rsp: u64,
    /// R8 to R15.
    pub high: [u64; 8],
    /// Address of the target.
    pub target: u64,
}

impl Registers {
    /// The same value in all registers but RAX, RCX and RSP.
    pub fn filled(value: u64) -> Registers {
        Registers {
            rbx: value,
            rdx: value,
            rsi: value,
            rdi: value,
            rbp: value,
            high: [value; 8],
            ..Registers::default()
        }
    }
}

/// Jumps to the target. If the code there returns, gives RDX.
///
/// # Errors
///
/// The exception that ended the code there.
///
/// # Safety
///
/// The code there harms no Rust code, whatever its registers.
pub unsafe fn enter(registers: &Registers) -> Result<u64, Exception> {
    // SAFETY: the caller vouches for what follows the jump.
    catch_exception(|| unsafe { jump(registers) })
}

/// The program's RSP during a jump.
static SAVED_RSP: AtomicU64 = AtomicU64::new(0);
/// The target of a jump.
static TARGET: AtomicU64 = AtomicU64::new(0);

/// Loads the registers and jumps; gives RDX when the code there has returned.
#[unsafe(naked)]
unsafe extern "sysv64" fn jump(registers: &Registers) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rip + {saved_rsp}], rsp",
        "mov rax, rdi",
        "mov rcx, [rax + {target_field}]",
        "mov [rip + {target}], rcx",
        "lea rcx, [rip + 3f]",
        "push rcx",
        "mov rcx, [rax + {rsp}]",
        "test rcx, rcx",
        "jz 2f",
        "mov rsp, rcx",
        "2:",
        "mov rbx, [rax + {rbx}]",
        "mov rcx, [rax + {rcx}]",
        "mov rdx, [rax + {rdx}]",
        "mov rsi, [rax + {rsi}]",
        "mov rdi, [rax + {rdi}]",
        "mov rbp, [rax + {rbp}]",
        "mov r8, [rax + {high}]",
        "mov r9, [rax + {high} + 8]",
        "mov r10, [rax + {high} + 16]",
        "mov r11, [rax + {high} + 24]",
        "mov r12, [rax + {high} + 32]",
        "mov r13, [rax + {high} + 40]",
        "mov r14, [rax + {high} + 48]",
        "mov r15, [rax + {high} + 56]",
        "mov rax, [rax + {rax}]",
        "jmp qword ptr [rip + {target}]",
        "3:",
        "mov rsp, [rip + {saved_rsp}]",
        "mov rax, rdx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        saved_rsp = sym SAVED_RSP,
        target = sym TARGET,
        target_field = const offset_of!(Registers, target),
        rax = const offset_of!(Registers, rax),
        rbx = const offset_of!(Registers, rbx),
        rcx = const offset_of!(Registers, rcx),
        rdx = const offset_of!(Registers, rdx),
        rsi = const offset_of!(Registers, rsi),
        rdi = const offset_of!(Registers, rdi),
        rbp = const offset_of!(Registers, rbp),
        rsp = const offset_of!(Registers, rsp),
        high = const offset_of!(Registers, high),
    )
}
