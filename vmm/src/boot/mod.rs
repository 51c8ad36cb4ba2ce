//! What a guest finds when it starts: page tables, descriptor tables, start information, registers.
//!
//! A kernel entered in 64-bit mode gets
//!
//! | register | value |
//! | --- | --- |
//! | RIP | the ELF entry point |
//! | RDI, RBX | guest-physical address of the `hvm_start_info` |
//! | RSP | top of a one-page stack |
//! | RFLAGS | 2: interrupts off |
//! | CR0 | PE, MP, ET, NE, WP, PG |
//! | CR3 | page tables that map the low 4 GiB to themselves, as supervisor pages |
//! | CR4 | PAE, OSFXSR, OSXMMEXCPT |
//! | EFER | LME, LMA, NXE |
//! | GDTR, IDTR, TR | tables in low memory; no interrupt gate is present |
//!
//! and a kernel with a PVH note is entered as that ABI asks: 32-bit protected mode without paging,
//! flat segments, EBX with the address of the `hvm_start_info`. The other processors wait for INIT
//! and SIPI as on a PC.

mod descriptors;
mod error;
mod paging;
mod registers;
mod start_info;

use vm_memory::GuestMemoryMmap;

pub use descriptors::{Descriptors, write_descriptors};
pub use error::Error;
pub use paging::{BootTables, boot_tables, write_page_tables};
pub use registers::{set_regs, set_sregs};
pub use start_info::{StartInfo, memory_map, write_start_info};

/// Writes everything that the guest finds in its memory, except the kernel and initrd themselves.
///
/// # Errors
///
/// When `ram` is smaller than [`crate::layout::MIN_RAM`] or the command line is unfit.
pub fn prepare(ram: &GuestMemoryMmap, info: &StartInfo<'_>) -> Result<Descriptors, Error> {
    write_page_tables(ram)?;
    write_start_info(ram, info)?;
    write_descriptors(ram)
}
