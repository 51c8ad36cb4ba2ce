//! Guest kernels and initrds, checked whole before a byte of them is loaded.
//!
//! | kernel | entered |
//! | --- | --- |
//! | bzImage | by the Linux boot protocol, in 64-bit mode |
//! | ELF64 with the note `XEN_ELFNOTE_PHYS32_ENTRY` | at the address in the note, as the PVH boot ABI asks |
//! | other ELF64 | at its entry point in 64-bit mode |
//!
//! Only what the checks here accept reaches linux-loader, which does the copying. Files are read in
//! pieces, straight into guest memory, so their size costs the VMM nothing.
#![deny(unsafe_code)]

mod bzimage;
mod error;
mod file;
mod foreign;
mod image;

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{self, KernelLoader, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::layout;
pub use error::{Error, ImageError};
use file::Reader;
pub use file::Source;
use image::Image;

/// Where a loaded kernel begins to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In 64-bit mode with the boot page tables.
    Long(GuestAddress),
    /// In 32-bit protected mode without paging, as the PVH boot ABI has it.
    Pvh(GuestAddress),
    /// In 64-bit mode with the boot page tables, as the Linux boot protocol has it.
    Linux(GuestAddress),
}

/// A kernel in guest memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Place and mode in which the kernel begins to run.
    pub entry: Entry,
    /// First byte after what the kernel needs in the low part of RAM.
    pub end: GuestAddress,
    /// First byte after what an initrd may occupy.
    pub initrd_end: u64,
    /// The longest command line that the kernel takes, in bytes without its NUL.
    pub max_cmdline: usize,
    /// The setup header of a bzImage, as it is in the file.
    pub setup: Option<setup_header>,
}

/// A file in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// First byte of the file in guest memory, page aligned.
    pub start: GuestAddress,
    /// Size of the file in bytes.
    pub size: u64,
}

/// What to give as a kernel.
pub const KERNEL_ADVICE: &str =
    "give a bzImage (a distribution's vmlinuz, in /boot) or an ELF64 kernel";
/// What to give as an initrd.
pub const INITRD_ADVICE: &str = "give the one of the kernel, or none";

/// A kernel's file, which stays open: it is read at the start and again when the VM is reset.
#[derive(Debug)]
pub struct KernelFile {
    path: PathBuf,
    file: File,
}

impl KernelFile {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is no regular file.
    pub fn open(path: &Path) -> Result<KernelFile, Error> {
        let opened = file::open(path, KERNEL_ADVICE);
        let path = path.to_owned();
        match opened {
            Ok(file) => Ok(KernelFile { path, file }),
            Err(source) => Err(Error::Kernel { path, source }),
        }
    }

    /// Checks the kernel and copies it into `ram`.
    ///
    /// # Errors
    ///
    /// When the file is not a whole and consistent kernel of a kind that is known, or does not fit.
    pub fn load(&mut self, ram: &GuestMemoryMmap) -> Result<Kernel, Error> {
        kernel_from(ram, &mut self.file).map_err(|source| Error::Kernel {
            path: self.path.clone(),
            source,
        })
    }
}

/// An initrd's file, which stays open.
#[derive(Debug)]
pub struct InitrdFile {
    path: PathBuf,
    file: File,
}

impl InitrdFile {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is no regular file.
    pub fn open(path: &Path) -> Result<InitrdFile, Error> {
        let opened = file::open(path, INITRD_ADVICE);
        let path = path.to_owned();
        match opened {
            Ok(file) => Ok(InitrdFile { path, file }),
            Err(source) => Err(Error::Initrd { path, source }),
        }
    }

    /// Copies the initrd to the end of the low part of `ram`, above `kernel` and where that finds it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or does not fit.
    pub fn load(&mut self, ram: &GuestMemoryMmap, kernel: &Kernel) -> Result<Module, Error> {
        initrd_from(ram, &mut self.file, kernel).map_err(|source| Error::Initrd {
            path: self.path.clone(),
            source,
        })
    }
}

/// Checks the kernel `file` and copies it into `ram`: [`KernelFile::load`] without the file.
///
/// # Errors
///
/// As [`KernelFile::load`].
pub fn place_kernel(ram: &GuestMemoryMmap, file: &[u8]) -> Result<Kernel, ImageError> {
    kernel_from(ram, &mut Cursor::new(file))
}

fn kernel_from<S: Source>(ram: &GuestMemoryMmap, source: &mut S) -> Result<Kernel, ImageError> {
    let mut reader = Reader::new(source)?;
    let beginning = reader.beginning(foreign::BEGINNING.max(bzimage::BEGINNING))?;
    if beginning.starts_with(b"\x7fELF") {
        elf(ram, &mut reader)
    } else if bzimage::is_bzimage(&beginning) {
        bzimage::load(ram, &mut reader)
    } else {
        let (what, remedy) = foreign::identify(&beginning);
        Err(ImageError::Foreign { what, remedy })
    }
}

/// The longest command line of Linux on x86 (`COMMAND_LINE_SIZE`), without its NUL: one that is
/// longer would be cut without a word.
const MAX_LINUX_CMDLINE: usize = 2047;

fn elf<S: Source>(ram: &GuestMemoryMmap, reader: &mut Reader<'_, S>) -> Result<Kernel, ImageError> {
    let image = Image::parse(reader)?;
    let segments = image.segments(ram)?;
    let loaded = loader::Elf::load(ram, None, reader.at(0)?, None).map_err(ImageError::Load)?;
    let (entry, kind) = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => (Entry::Pvh(entry), "PVH entry point"),
        _ if image.is_linux(reader)? => return Err(ImageError::LinuxWithoutPvh),
        _ => (Entry::Long(loaded.kernel_load), "entry point"),
    };
    let address = match entry {
        Entry::Long(address) | Entry::Pvh(address) | Entry::Linux(address) => address.0,
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
        initrd_end: low_end,
        max_cmdline: match image.is_linked_as_linux() {
            true => MAX_LINUX_CMDLINE,
            false => layout::CMDLINE_SIZE - 1,
        },
        setup: None,
    })
}

/// Copies the initrd `file` into `ram`: [`InitrdFile::load`] without the file.
///
/// # Errors
///
/// As [`InitrdFile::load`].
pub fn place_initrd(
    ram: &GuestMemoryMmap,
    file: &[u8],
    kernel: &Kernel,
) -> Result<Module, ImageError> {
    initrd_from(ram, &mut Cursor::new(file), kernel)
}

fn initrd_from<S: Source>(
    ram: &GuestMemoryMmap,
    source: &mut S,
    kernel: &Kernel,
) -> Result<Module, ImageError> {
    let mut reader = Reader::new(source)?;
    let size = reader.size();
    let end = low_ram(ram).min(kernel.initrd_end);
    let start = end
        .checked_sub(size)
        .map(|start| start & !(postern_abi::PAGE_SIZE - 1))
        .filter(|&start| start >= kernel.end.0)
        .ok_or_else(|| {
            let from = kernel.end.0.next_multiple_of(postern_abi::PAGE_SIZE);
            let needed = from.saturating_add(size);
            let limit = match kernel.setup {
                Some(_) => kernel.initrd_end.min(layout::PCI_LOW.0),
                None => layout::PCI_LOW.0,
            };
            let remedy = match needed <= limit {
                true => more_memory(needed),
                false => format!("make it smaller, it has to end at {limit:#x}"),
            };
            ImageError::NoRoom {
                size,
                start: kernel.end.0,
                end,
                remedy,
            }
        })?;
    let start = GuestAddress(start);
    let source = reader.at(0)?;
    ram.read_exact_volatile_from(start, source, size as usize)
        .map_err(ImageError::Copy)?;
    Ok(Module { start, size })
}

/// What to do where memory has to reach `end`.
fn more_memory(end: u64) -> String {
    let megabytes = end.div_ceil(1 << 20);
    format!(
        "give the VM at least {megabytes} MiB with --memory (in a topology: memory = \"{megabytes}M\")"
    )
}

/// End of the low part of RAM.
fn low_ram(ram: &GuestMemoryMmap) -> u64 {
    ram.find_region(GuestAddress(0))
        .map_or(0, |region| region.len())
}
