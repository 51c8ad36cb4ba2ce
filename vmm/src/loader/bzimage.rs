//! bzImages: the setup header (Linux: Documentation/x86/boot.rst), checked against the file and the
//! VM's memory.
#![deny(unsafe_code)]

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{KernelLoader, bzimage};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::error::ImageError;
use super::file::{Reader, Source};
use super::{Entry, Kernel, low_ram};
use crate::layout;

/// Offset of the setup header in the file, and in the zero page.
const SETUP_HEADER: u64 = 0x1f1;

/// Offset of [`MAGIC`].
const MAGIC_OFFSET: usize = 0x202;

/// Begin of a header of protocol 2.00 or later.
const MAGIC: &[u8] = b"HdrS";

/// Unit of the setup code, in bytes.
const SECTOR: u64 = 512;

/// Offset of the 64-bit entry point from where the kernel is loaded.
const ENTRY_64: u64 = 0x200;

/// `loadflags`: the protected-mode code is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;

/// `xloadflags`: the kernel has the 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;

/// Protocol 2.12, the first with `xloadflags`, and so with a 64-bit entry point.
const FIRST_64: u16 = 0x20c;

/// Whether a file that begins so is a Linux kernel with a setup header.
pub(super) fn is_bzimage(beginning: &[u8]) -> bool {
    beginning
        .get(MAGIC_OFFSET..)
        .is_some_and(|rest| rest.starts_with(MAGIC))
}

/// How many bytes tell: up to the end of [`MAGIC`].
pub(super) const BEGINNING: u64 = MAGIC_OFFSET as u64 + MAGIC.len() as u64;

/// Checks a bzImage and copies its protected-mode part into `ram`.
pub(super) fn load<S: Source>(
    ram: &GuestMemoryMmap,
    reader: &mut Reader<'_, S>,
) -> Result<Kernel, ImageError> {
    let header: setup_header =
        reader.header(SETUP_HEADER, || "the kernel's setup header".to_owned())?;
    let version = header.version;
    if version < FIRST_64 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(ImageError::Not64Bit { version });
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(ImageError::Corrupt(
            "its setup header says that it is no bzImage (LOADED_HIGH is clear)".to_owned(),
        ));
    }
    let setup_sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let setup = (setup_sectors + 1) * SECTOR;
    let code = u64::from(header.syssize) * 16;
    if code == 0 {
        return Err(ImageError::Corrupt(
            "its setup header says that it has no code (syssize is 0)".to_owned(),
        ));
    }
    // The last paragraph need not be whole.
    reader.check(setup, code - 15, || "the kernel's code".to_owned())?;
    let loaded = reader.size() - setup;

    // The kernel runs where it prefers to, or above; below, it moves itself up (Linux:
    // arch/x86/boot/compressed/head_64.S). So nothing is won by loading it elsewhere.
    let start = header.pref_address;
    if start < layout::KERNEL_START.0 {
        return Err(ImageError::Corrupt(format!(
            "it prefers to be loaded at {start:#x}, below 1 MiB"
        )));
    }
    let needed = u64::from(header.init_size).max(loaded);
    let low = low_ram(ram);
    let end = start
        .checked_add(needed)
        .filter(|&end| end <= low)
        .ok_or_else(|| ImageError::OutsideMemory {
            segment: "the kernel".to_owned(),
            start,
            end: start.saturating_add(needed),
            ram: low,
            remedy: super::more_memory(start.saturating_add(needed)),
        })?;
    let source = reader.at(0)?;
    bzimage::BzImage::load(ram, Some(GuestAddress(start)), source, None)
        .map_err(ImageError::Load)?;
    Ok(Kernel {
        entry: Entry::Linux(GuestAddress(start + ENTRY_64)),
        end: GuestAddress(end),
        initrd_end: u64::from(header.initrd_addr_max).saturating_add(1),
        max_cmdline: header.cmdline_size as usize,
        setup: Some(header),
    })
}
