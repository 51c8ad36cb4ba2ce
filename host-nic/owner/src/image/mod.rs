//! The image of the switch for the NIC view, as file and as memory.
//!
//! The file is a static ELF with two segments, linked at [`postern_abi::view::IMAGE_GVA`]:
//! read-only data that begins with an [`ImageHeader`](postern_abi::view::ImageHeader), and code.
//! `host-nic/image` makes it.
#![forbid(unsafe_code)]

mod load;

pub use load::{Image, ImageError, Segment};
