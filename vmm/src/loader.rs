//! Guest kernels: ELF64 files, checked whole before a byte of them is loaded.
//!
//! A kernel is entered at its ELF entry point in 64-bit mode, or, where it carries the note
//! `XEN_ELFNOTE_PHYS32_ENTRY`, at the address in the note as the PVH boot ABI asks.
//! Only what the checks here accept reaches linux-loader, which does the copying.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_INTERP, PT_LOAD, PT_NOTE};
use linux_loader::loader::{self, KernelLoader, PvhBootCapability};
use vm_memory::{
    ByteValued, Bytes as _, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use crate::layout;
use crate::size::Bytes;

/// The largest kernel or initrd file that is read, in bytes.
pub const FILE_MAX: u64 = 1 << 30;

/// A file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel file is no good.
    #[error("kernel {path}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// The initrd is no good.
    #[error("initrd {path}")]
    Initrd {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// The file is larger than any that is accepted.
    #[error("has {size}; at most {max} are read: strip its debug information", size = Bytes(*.0), max = Bytes(FILE_MAX))]
    FileTooLarge(u64),
    /// Not an ELF file.
    #[error("is not an ELF file: give an ELF64 kernel for x86-64 (a bzImage is not one)")]
    NotElf,
    /// An ELF file of another kind.
    #[error("is {found}, but a guest kernel must be {wanted}")]
    WrongKind {
        /// What the header says.
        found: String,
        /// What it has to say.
        wanted: &'static str,
    },
    /// A part of the file lies beyond its end.
    #[error(
        "is truncated or corrupt: {part} is at bytes {start:#x} to {end:#x}, \
         but the file has {size:#x} bytes"
    )]
    Truncated {
        /// The part.
        part: String,
        /// Its first byte in the file.
        start: u64,
        /// First byte after it.
        end: u64,
        /// The size of the file.
        size: u64,
    },
    /// A header contradicts itself.
    #[error("is corrupt: {0}")]
    Corrupt(String),
    /// A segment has no place in the VM's memory.
    #[error(
        "{segment} needs guest-physical {start:#x} to {end:#x}, which the VM's {ram} of memory do \
         not hold: {remedy}",
        ram = Bytes(*.ram)
    )]
    OutsideMemory {
        /// Which segment.
        segment: String,
        /// First byte that it needs.
        start: u64,
        /// First byte after it.
        end: u64,
        /// The VM's memory in bytes.
        ram: u64,
        /// What to do about it.
        remedy: String,
    },
    /// Two things want the same memory.
    #[error(
        "{segment} ({start:#x} to {end:#x}) overlaps {other} ({other_start:#x} to {other_end:#x}): \
         link it elsewhere"
    )]
    Overlap {
        /// Which segment.
        segment: String,
        /// First byte that it needs.
        start: u64,
        /// First byte after it.
        end: u64,
        /// What is there.
        other: String,
        /// Its first byte.
        other_start: u64,
        /// First byte after it.
        other_end: u64,
    },
    /// The entry point is in no segment.
    #[error(
        "its {kind} {entry:#x} is in no loaded segment: link it so that virtual and physical \
         addresses are the same"
    )]
    Entry {
        /// Which entry point.
        kind: &'static str,
        /// Its address.
        entry: u64,
    },
    /// No room is left for the initrd.
    #[error(
        "has {size}, but the VM's memory has no such room above the kernel: give the VM more with \
         --memory",
        size = Bytes(*.0)
    )]
    NoRoom(u64),
    /// linux-loader refused what the checks here accept.
    #[error("cannot be loaded")]
    Load(#[source] loader::Error),
    /// Guest memory could not be written.
    #[error("cannot be copied into guest memory")]
    Copy(#[source] vm_memory::GuestMemoryError),
}

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
    /// Where it begins to run.
    pub entry: Entry,
    /// First byte after its last segment in the low part of RAM.
    pub end: GuestAddress,
}

/// A file in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where it begins, page aligned.
    pub start: GuestAddress,
    /// Its size in bytes.
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
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(ImageError::Read)?;
    if bytes.len() as u64 > FILE_MAX {
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

/// The headers of an ELF file, found consistent with the file's size.
struct Image {
    programs: Vec<Elf64_Phdr>,
}

impl Image {
    fn parse(file: &[u8]) -> Result<Image, ImageError> {
        const WANTED: &str = "a statically linked ELF64 executable for x86-64";
        let size = file.len() as u64;
        if !file.starts_with(b"\x7fELF") {
            return Err(ImageError::NotElf);
        }
        let header: Elf64_Ehdr = read_header(file, 0, || "the ELF header".to_owned())?;
        let wrong = |found: String| ImageError::WrongKind {
            found,
            wanted: WANTED,
        };
        match (header.e_ident[4], header.e_ident[5]) {
            (2, 1) => {}
            (1, _) => return Err(wrong("a 32-bit ELF file".to_owned())),
            (2, 2) => return Err(wrong("a big-endian ELF file".to_owned())),
            (class, data) => {
                return Err(wrong(format!("an ELF file of class {class}, data {data}")));
            }
        }
        const EM_X86_64: u16 = 62;
        if header.e_machine != EM_X86_64 {
            return Err(wrong(format!(
                "an ELF file for machine {}",
                header.e_machine
            )));
        }
        match header.e_type {
            2 => {}
            1 => return Err(wrong("an object file".to_owned())),
            3 => {
                return Err(wrong(
                    "position independent (rustc: -C relocation-model=static)".to_owned(),
                ));
            }
            other => return Err(wrong(format!("an ELF file of type {other}"))),
        }
        if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() {
            return Err(ImageError::Corrupt(format!(
                "program headers of {} bytes, not {}",
                header.e_phentsize,
                size_of::<Elf64_Phdr>()
            )));
        }
        if header.e_phoff < size_of::<Elf64_Ehdr>() as u64 {
            return Err(ImageError::Corrupt(format!(
                "program headers at byte {:#x}, inside the ELF header",
                header.e_phoff
            )));
        }
        let mut programs = Vec::with_capacity(usize::from(header.e_phnum));
        for number in 0..u64::from(header.e_phnum) {
            let offset = (number * size_of::<Elf64_Phdr>() as u64).checked_add(header.e_phoff);
            let program: Elf64_Phdr = read_header(file, offset.unwrap_or(u64::MAX), || {
                format!("program header {number}")
            })?;
            if matches!(program.p_type, PT_LOAD | PT_NOTE) {
                in_file(program.p_offset, program.p_filesz, size, || {
                    format!("segment {number}")
                })?;
            }
            if program.p_type == PT_INTERP {
                return Err(wrong("a program for a dynamic linker".to_owned()));
            }
            programs.push(program);
        }
        Ok(Image { programs })
    }

    /// The guest-physical ranges of all loaded segments, none of which overlap, and all of which
    /// lie in `ram` outside the boot structures.
    fn segments(&self, ram: &GuestMemoryMmap) -> Result<Vec<Range<u64>>, ImageError> {
        let mut placed = vec![(
            "the boot structures".to_owned(),
            layout::BOOT_START.0..layout::BOOT_END.0,
        )];
        for (number, program) in self.programs.iter().enumerate() {
            // A segment without bytes in memory may still have some in the file: linux-loader
            // would copy them.
            if program.p_type != PT_LOAD || (program.p_memsz == 0 && program.p_filesz == 0) {
                continue;
            }
            let segment = format!("segment {number}");
            if program.p_filesz > program.p_memsz {
                return Err(ImageError::Corrupt(format!(
                    "{segment} has {:#x} bytes in the file, but only {:#x} in memory",
                    program.p_filesz, program.p_memsz
                )));
            }
            let start = program.p_paddr;
            let end = start.checked_add(program.p_memsz).ok_or_else(|| {
                ImageError::Corrupt(format!(
                    "{segment} at {start:#x} with {:#x} bytes wraps around",
                    program.p_memsz
                ))
            })?;
            let inside = ram.iter().any(|region| {
                let first = region.start_addr().0;
                first <= start && end <= first + region.len()
            });
            if !inside {
                return Err(outside(segment, start, end, ram));
            }
            if let Some((other, range)) = placed
                .iter()
                .find(|(_, range)| start < range.end && range.start < end)
            {
                return Err(ImageError::Overlap {
                    segment,
                    start,
                    end,
                    other: other.clone(),
                    other_start: range.start,
                    other_end: range.end,
                });
            }
            placed.push((segment, start..end));
        }
        if placed.len() == 1 {
            return Err(ImageError::Corrupt("it has nothing to load".to_owned()));
        }
        Ok(placed.into_iter().skip(1).map(|(_, range)| range).collect())
    }
}

fn outside(segment: String, start: u64, end: u64, ram: &GuestMemoryMmap) -> ImageError {
    let ram = ram.iter().map(|region| region.len()).sum();
    let remedy = if end <= postern_abi::machine::NIC_GPA {
        let megabytes = end.div_ceil(1 << 20);
        format!("give the VM at least {megabytes} MiB with --memory")
    } else {
        format!(
            "link it below {:#x}, for example at {:#x}",
            postern_abi::machine::NIC_GPA,
            layout::KERNEL_START.0
        )
    };
    ImageError::OutsideMemory {
        segment,
        start,
        end,
        ram,
        remedy,
    }
}

fn in_file(
    start: u64,
    length: u64,
    size: u64,
    part: impl FnOnce() -> String,
) -> Result<Range<usize>, ImageError> {
    let end = start.saturating_add(length);
    if end > size || end == u64::MAX {
        return Err(ImageError::Truncated {
            part: part(),
            start,
            end,
            size,
        });
    }
    Ok(start as usize..end as usize)
}

fn read_header<T: ByteValued + Default>(
    file: &[u8],
    offset: u64,
    part: impl Fn() -> String,
) -> Result<T, ImageError> {
    let range = in_file(offset, size_of::<T>() as u64, file.len() as u64, &part)?;
    let mut header = T::default();
    header.as_mut_slice().copy_from_slice(&file[range]);
    Ok(header)
}
