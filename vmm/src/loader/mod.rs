//! Guest kernels: ELF64 files, checked whole before a byte of them is loaded.
//!
//! A kernel is entered at its ELF entry point in 64-bit mode, or, where it carries the note
//! `XEN_ELFNOTE_PHYS32_ENTRY`, at the address in the note as the PVH boot ABI asks.
//! Only what the checks here accept reaches linux-loader, which does the copying.
#![deny(unsafe_code)]

mod error;
mod image;

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use linux_loader::loader::{self, KernelLoader, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::layout;
pub use error::{Error, ImageError, MAX_FILE};
use image::Image;

/// Where a loaded kernel begins to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In 64-bit mode with the boot page tables.
    Long(GuestAddress),
    /// In 32-bit protected mode without paging, as the PVH boot ABI has it.
    Pvh(GuestAddress),
}

/// A kernel in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Place and mode in which the kernel begins to run.
    pub entry: Entry,
    /// First byte after the kernel's last segment in the low part of RAM.
    pub end: GuestAddress,
}

/// A file in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// First byte of the file in guest memory, page aligned.
    pub start: GuestAddress,
    /// Size of the file in bytes.
    pub size: u64,
}

/// Checks the kernel at `path` and copies it into `ram`.
///
/// # Errors
///
/// When the file cannot be read, is not a whole and consistent ELF64 kernel, or does not fit.
pub fn load_kernel(ram: &GuestMemoryMmap, path: &Path) -> Result<Kernel, Error> {
    read_file(path)
        .and_then(|file| place_kernel(ram, &file))
        .map_err(|source| Error::Kernel {
            path: path.to_owned(),
            source,
        })
}

/// Copies the initrd at `path` to the end of the low part of `ram`, above `kernel`.
///
/// # Errors
///
/// When the file cannot be read or does not fit.
pub fn load_initrd(ram: &GuestMemoryMmap, path: &Path, kernel: &Kernel) -> Result<Module, Error> {
    read_file(path)
        .and_then(|file| place_initrd(ram, &file, kernel))
        .map_err(|source| Error::Initrd {
            path: path.to_owned(),
            source,
        })
}

fn read_file(path: &Path) -> Result<Vec<u8>, ImageError> {
    let file = File::open(path).map_err(ImageError::Read)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(ImageError::Read)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ImageError::FileTooLarge(bytes.len() as u64));
    }
    Ok(bytes)
}

/// Checks the kernel `file` and copies it into `ram`: [`load_kernel`] without the reading.
///
/// # Errors
///
/// As [`load_kernel`].
pub fn place_kernel(ram: &GuestMemoryMmap, file: &[u8]) -> Result<Kernel, ImageError> {
    let image = Image::parse(file)?;
    let segments = image.segments(ram)?;
    let loaded =
        loader::Elf::load(ram, None, &mut Cursor::new(file), None).map_err(ImageError::Load)?;
    let (entry, kind) = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => (Entry::Pvh(entry), "PVH entry point"),
        _ if image.is_linux(file) => return Err(ImageError::LinuxWithoutPvh),
        _ => (Entry::Long(loaded.kernel_load), "entry point"),
    };
    let address = match entry {
        Entry::Long(address) | Entry::Pvh(address) => address.0,
    };
    if !segments.iter().any(|range| range.contains(&address)) {
        return Err(ImageError::Entry {
            kind,
            entry: address,
        });
    }
    let low_end = low_ram(ram);
    let end = segments
        .iter()
        .map(|range| range.end)
        .filter(|&end| end <= low_end)
        .max()
        .unwrap_or(layout::KERNEL_START.0);
    Ok(Kernel {
        entry,
        end: GuestAddress(end.max(layout::KERNEL_START.0)),
    })
}

/// Copies the initrd `file` into `ram`: [`load_initrd`] without the reading.
///
/// # Errors
///
/// As [`load_initrd`].
pub fn place_initrd(
    ram: &GuestMemoryMmap,
    file: &[u8],
    kernel: &Kernel,
) -> Result<Module, ImageError> {
    let size = file.len() as u64;
    let start = low_ram(ram)
        .checked_sub(size)
        .map(|start| start & !(postern_abi::PAGE_SIZE - 1))
        .filter(|&start| start >= kernel.end.0)
        .ok_or(ImageError::NoRoom(size))?;
    let start = GuestAddress(start);
    ram.write_slice(file, start).map_err(ImageError::Copy)?;
    Ok(Module { start, size })
}

/// End of the low part of RAM.
fn low_ram(ram: &GuestMemoryMmap) -> u64 {
    ram.find_region(GuestAddress(0))
        .map_or(0, |region| region.len())
}
