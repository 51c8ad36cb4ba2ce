//! The registers of interrupted code.
#![deny(unsafe_code)]

/// The registers of interrupted code, in the order in which a stub pushes them from the end.
#[repr(C)]
#[derive(Default)]
pub struct TrapFrame {
    /// CR3: the address space that it runs in.
    pub root: u64,
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl TrapFrame {
    /// Whose code was interrupted: 0 the kernel's, 1 the program's.
    pub fn level(&self) -> usize {
        usize::from(self.cs & 3 != 0)
    }
}
