//! Reading an image: everything about the file is checked before any of it is mapped.
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::{Path, PathBuf};

use object::LittleEndian;
use object::elf::{EM_X86_64, ET_EXEC, FileHeader64, PF_R, PF_W, PF_X, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use postern_abi::view::{IMAGE_GVA, ImageHeader, MAX_IMAGE_SIZE};
use postern_abi::{ABI_VERSION, PAGE_SIZE};
use postern_nic_client::file::{self, FileError};

/// Size of the largest file that is read, in bytes: an image with names and lines for debuggers.
const MAX_FILE: u64 = 64 << 20;

/// A file that is no image of the switch.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("the NIC image {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The fault of the file.
        source: FileError,
    },
    /// The file is not, or not all of, an ELF file.
    #[error("the NIC image is corrupt or truncated; build it again with host-nic/image/build.sh")]
    Elf(#[from] object::Error),
    /// The file is an ELF file of another kind.
    #[error("the NIC image is no x86-64 ELF executable; build it with host-nic/image/build.sh")]
    Kind,
    /// A segment lies or is made as the view could not map it.
    #[error(
        "segment {gva:#x} of the NIC image ({size:#x} bytes) {problem}; \
         build it again with host-nic/image/build.sh"
    )]
    Segment {
        /// The segment's address in the view.
        gva: u64,
        /// The segment's size in memory, in bytes.
        size: u64,
        /// The fault.
        problem: &'static str,
    },
    /// There is not one segment of each kind.
    #[error(
        "the NIC image has {data} read-only and {code} executable segments instead of one each; \
         build it again with host-nic/image/build.sh"
    )]
    Segments {
        /// Read-only ones.
        data: usize,
        /// Executable ones.
        code: usize,
    },
    /// The read-only segment does not begin with the header.
    #[error(
        "the program is not a NIC image (it lacks the header); \
         build one with host-nic/image/build.sh"
    )]
    Header,
    /// The image was built from another revision.
    #[error(
        "the NIC image has ABI version {0}, this program {ABI_VERSION}: \
         build both from one revision"
    )]
    Version(u32),
    /// The entry is not in the code.
    #[error(
        "the entry {0:#x} of the NIC image is not in its code; \
         build it again with host-nic/image/build.sh"
    )]
    Entry(u64),
}

/// An image of the switch that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// The address of its entry in the view.
    pub entry: u64,
    /// The segment that is mapped for reading.
    pub rodata: Segment,
    /// The segment that is mapped for reading and execution.
    pub text: Segment,
}

/// A segment of the image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The segment's address in the view, a multiple of the page size.
    pub gva: u64,
    /// The segment's bytes.
    pub bytes: Vec<u8>,
}

impl Image {
    /// A number that tells this image from others, for one version of this program.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Segment {
    /// The segment's addresses in the view, up to the end of its last page.
    pub fn pages(&self) -> Range<u64> {
        self.gva..self.gva + (self.bytes.len() as u64).next_multiple_of(PAGE_SIZE)
    }
}

impl Image {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// The first fault of the file.
    pub fn read(path: &Path) -> Result<Image, ImageError> {
        let bytes = file::read(path, MAX_FILE).map_err(|source| ImageError::File {
            path: path.to_owned(),
            source,
        })?;
        Image::parse(&bytes)
    }

    /// Checks the bytes of a file.
    ///
    /// # Errors
    ///
    /// The first fault of the file.
    pub fn parse(file: &[u8]) -> Result<Image, ImageError> {
        let elf = FileHeader64::<LittleEndian>::parse(file)?;
        let endian = elf.endian()?;
        if elf.e_machine(endian) != EM_X86_64 || elf.e_type(endian) != ET_EXEC {
            return Err(ImageError::Kind);
        }
        let (mut data, mut code) = (Vec::new(), Vec::new());
        for header in elf.program_headers(endian, file)? {
            if header.p_type(endian) != PT_LOAD {
                continue;
            }
            let segment = segment(header, endian, file)?;
            match header.p_flags(endian) & (PF_R | PF_W | PF_X) {
                flags if flags == PF_R => data.push(segment),
                flags if flags == PF_R | PF_X => code.push(segment),
                _ => return Err(bad(&segment, "is writable or unreadable")),
            }
        }
        let counts = (data.len(), code.len());
        let (Some(rodata), Some(text), (1, 1)) = (data.pop(), code.pop(), counts) else {
            let (data, code) = counts;
            return Err(ImageError::Segments { data, code });
        };
        if rodata.pages().start < text.pages().end && text.pages().start < rodata.pages().end {
            return Err(bad(&text, "shares pages with the read-only one"));
        }
        check_header(&rodata.bytes)?;
        let entry = elf.e_entry(endian);
        if !(text.gva..text.gva + text.bytes.len() as u64).contains(&entry) {
            return Err(ImageError::Entry(entry));
        }
        Ok(Image {
            entry,
            rodata,
            text,
        })
    }
}

fn bad(segment: &Segment, problem: &'static str) -> ImageError {
    ImageError::Segment {
        gva: segment.gva,
        size: segment.bytes.len() as u64,
        problem,
    }
}

fn segment(
    header: &impl ProgramHeader<Endian = LittleEndian>,
    endian: LittleEndian,
    file: &[u8],
) -> Result<Segment, ImageError> {
    let gva: u64 = header.p_vaddr(endian).into();
    let size: u64 = header.p_memsz(endian).into();
    let wrong = |problem| ImageError::Segment { gva, size, problem };
    if !gva.is_multiple_of(PAGE_SIZE) {
        return Err(wrong("does not begin on a page"));
    }
    let room = (IMAGE_GVA + MAX_IMAGE_SIZE).checked_sub(gva);
    if gva < IMAGE_GVA || room.is_none_or(|room| size > room) {
        return Err(wrong("is not where the view has room for it"));
    }
    if size == 0 || size != header.p_filesz(endian).into() {
        return Err(wrong("is empty or has bytes that are not in the file"));
    }
    let bytes = header
        .data(endian, file)
        .map_err(|()| wrong("is not all in the file, which is truncated"))?;
    Ok(Segment {
        gva,
        bytes: bytes.to_vec(),
    })
}

fn check_header(bytes: &[u8]) -> Result<(), ImageError> {
    let magic = bytes.first_chunk().map(|word| u64::from_le_bytes(*word));
    let version = bytes
        .get(std::mem::offset_of!(ImageHeader, abi_version)..)
        .and_then(|rest| rest.first_chunk())
        .map(|word| u32::from_le_bytes(*word));
    match (magic, version) {
        (Some(ImageHeader::MAGIC), Some(ABI_VERSION)) => Ok(()),
        (Some(ImageHeader::MAGIC), Some(version)) => Err(ImageError::Version(version)),
        _ => Err(ImageError::Header),
    }
}
