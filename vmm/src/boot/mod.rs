//! What a guest finds when it starts: page tables, descriptor tables, start information, registers.
//!
//! A kernel entered in 64-bit mode gets
//!
//! | register | value |
//! | --- | --- |
//! | RIP | the ELF entry point, or a bzImage's 64-bit entry point |
//! | RDI, RBX | guest-physical address of the `hvm_start_info` |
//! | RSI | of a bzImage: guest-physical address of the zero page (`boot_params`) |
//! | RSP | top of a one-page stack |
//! | RFLAGS | 2: interrupts off |
//! | CR0 | PE, MP, ET, NE, WP, PG |
//! | CR3 | page tables that map the low 4 GiB to themselves, as supervisor pages |
//! | CR4 | PAE, OSFXSR, OSXMMEXCPT |
//! | EFER | LME, LMA, NXE |
//! | GDTR, IDTR, TR | tables in low memory; no interrupt gate is present |
//! | CS, other segments | flat, selectors 0x10 and 0x18 (Linux: `__BOOT_CS`, `__BOOT_DS`) |
//!
//! and a kernel with a PVH note is entered as that ABI asks: 32-bit protected mode without paging,
//! flat segments, EBX with the address of the `hvm_start_info`. The other processors wait for INIT
//! and SIPI as on a PC.

mod boot_params;
mod cmdline;
mod descriptors;
mod error;
mod msrs;
mod paging;
mod registers;
mod reset_vector;
mod start_info;

use vm_memory::GuestMemoryMmap;

use crate::loader::Kernel;
pub use boot_params::write_boot_params;
pub use cmdline::write_cmdline;
pub use descriptors::{Descriptors, write_descriptors};
pub use error::Error;
pub use msrs::firmware_msrs;
pub use paging::{BootTables, boot_tables, write_page_tables};
pub use registers::{set_regs, set_sregs};
pub use reset_vector::write_reset_vector;
pub use start_info::{StartInfo, memory_map, write_start_info};

/// Writes everything that `kernel` finds in its memory, except itself, the initrd and ACPI tables.
///
/// # Errors
///
/// When `ram` is smaller than [`crate::layout::MIN_RAM`] or the command line is unfit.
pub fn prepare(
    ram: &GuestMemoryMmap,
    kernel: &Kernel,
    info: &StartInfo<'_>,
) -> Result<Descriptors, Error> {
    write_page_tables(ram)?;
    write_reset_vector(ram)?;
    write_cmdline(ram, info.cmdline, kernel.max_cmdline)?;
    match &kernel.setup {
        Some(setup) => write_boot_params(ram, setup, info)?,
        None => write_start_info(ram, info)?,
    }
    write_descriptors(ram)
}
