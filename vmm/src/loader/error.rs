//! Why a kernel or an initrd cannot be used.
#![deny(unsafe_code)]

use std::io;
use std::path::PathBuf;

use linux_loader::loader;
use postern_nic_client::file::FileError;

use crate::size::Bytes;

/// A file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel file is no good.
    #[error("kernel {path}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// The fault of the file.
        source: ImageError,
    },
    /// The initrd is no good.
    #[error("initrd {path}")]
    Initrd {
        /// The file.
        path: PathBuf,
        /// The fault of the file.
        source: ImageError,
    },
}

/// The fault of a kernel or initrd file.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no such file.
    #[error("does not exist: {0}")]
    Missing(
        /// Advice to the user.
        &'static str,
    ),
    /// It is no regular file, or may not be read.
    #[error(transparent)]
    File(FileError),
    /// The file cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// Not a kernel, or one that has to be unpacked.
    #[error("is {what}: {remedy}")]
    Foreign {
        /// Kind of file.
        what: &'static str,
        /// Advice to the user.
        remedy: &'static str,
    },
    /// A bzImage without an entry point in 64-bit mode.
    #[error(
        "is a Linux kernel that cannot be entered in 64-bit mode (boot protocol {}.{:02}): give one \
         for x86-64 (Debian: amd64), of Linux 3.8 or later",
        .version >> 8,
        .version & 0xff
    )]
    Not64Bit {
        /// The boot protocol's version, as in its header: major number, then minor.
        version: u16,
    },
    /// An ELF file of another kind.
    #[error("is {found}, but a guest kernel must be {wanted}")]
    WrongKind {
        /// Kind of file by its header.
        found: String,
        /// Kind of file that a guest kernel has to be.
        wanted: &'static str,
    },
    /// A part of the file lies beyond its end.
    #[error(
        "is truncated or corrupt: {part} is at bytes {start:#x} to {end:#x}, but the file has \
         {size:#x} bytes; copy the whole file again"
    )]
    Truncated {
        /// The part.
        part: String,
        /// Offset of the part in the file, in bytes.
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
        /// Name of the segment.
        segment: String,
        /// First byte that it needs.
        start: u64,
        /// First byte after it.
        end: u64,
        /// The VM's memory in bytes.
        ram: u64,
        /// Advice to the user.
        remedy: String,
    },
    /// Two things want the same memory.
    #[error(
        "{segment} ({start:#x} to {end:#x}) overlaps {other} ({other_start:#x} to {other_end:#x}): \
         link it elsewhere"
    )]
    Overlap {
        /// Name of the segment.
        segment: String,
        /// First byte that it needs.
        start: u64,
        /// First byte after it.
        end: u64,
        /// Name of what is there already.
        other: String,
        /// First byte of what is there.
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
        /// Kind of entry point.
        kind: &'static str,
        /// Address of the entry point.
        entry: u64,
    },
    /// Linux that can only be entered with parameters that this VMM does not make.
    #[error(
        "is a Linux kernel without CONFIG_PVH, which cannot be started here: give its \
         bzImage (a distribution's vmlinuz), or build it with CONFIG_PVH=y"
    )]
    LinuxWithoutPvh,
    /// No room is left for the initrd.
    #[error(
        "has {size}, but the VM's memory has no such room above the kernel, from {start:#x} to \
         {end:#x}: {remedy}",
        size = Bytes(*.size)
    )]
    NoRoom {
        /// Size of the initrd in bytes.
        size: u64,
        /// First byte after the kernel.
        start: u64,
        /// First byte after memory, or after what the kernel reaches.
        end: u64,
        /// Advice to the user.
        remedy: String,
    },
    /// linux-loader refused what the checks here accept.
    #[error("cannot be loaded")]
    Load(#[source] loader::Error),
    /// Guest memory could not be written.
    #[error("cannot be copied into guest memory")]
    Copy(#[source] vm_memory::GuestMemoryError),
}
