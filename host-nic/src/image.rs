//! The image of the switch for the NIC view, as file and as memory.
//!
//! The file is a static ELF with two segments, linked at [`postern_abi::view::IMAGE_GVA`]: read-only
//! data that begins with a [`Header`], and code. `host-nic/image` makes it.

use postern_abi::ABI_VERSION;

#[cfg(feature = "std")]
pub use load::{Image, ImageError, Segment};

#[cfg(feature = "std")]
mod load;

/// First bytes of the image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`Header::MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] that the image was built with.
    pub abi_version: u32,
    /// Zero.
    pub reserved: u32,
}

impl Header {
    /// "PSTNIMAG", little endian.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"PSTNIMAG");

    /// The header of an image that is built now.
    pub const CURRENT: Header = Header {
        magic: Header::MAGIC,
        abi_version: ABI_VERSION,
        reserved: 0,
    };
}
