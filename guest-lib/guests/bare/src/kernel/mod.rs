//! The kernel: starts the CPU, runs the program, serves interrupts, exceptions and system calls.
//!
//! | module | object |
//! | --- | --- |
//! | [`start`] | the entry point, and the order in which the rest is set up |
//! | [`pvh`] | the start info: what the VMM says about the VM |
//! | [`frames`] | the allocator of page frames |
//! | [`paging`] | an address space: page tables and the rights of a page |
//! | [`image`] | the two copies of this image |
//! | [`cpu`] | control registers |
//! | [`stacks`] | the stacks that traps run on |
//! | [`stubs`] | the assembly that enters and leaves the kernel |
//! | [`descriptors`] | the descriptor tables: GDT, IDT, task state |
//! | [`kernel_space`] | the kernel's address space |
//! | [`launch`] | the program's address space, and its start |
//! | [`trap`] | the handler of all vectors |
//! | [`exceptions`] | exceptions: resumes the interrupted code at its fixup, or ends the VM |
//! | [`system_calls`] | system calls |
//! | [`trap_frame`] | the registers of interrupted code |
//! | [`state`] | what system calls and exceptions share |
//!
//! Each module uses only modules of this list and `fatal`, which ends the VM, and none that use it.

mod cpu;
mod descriptors;
mod exceptions;
mod fatal;
mod frames;
mod image;
mod kernel_space;
mod launch;
mod paging;
mod pvh;
mod stacks;
mod start;
mod state;
mod stubs;
mod system_calls;
mod trap;
mod trap_frame;
