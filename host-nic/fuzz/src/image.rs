//! Images of the switch. Input: the file.
#![forbid(unsafe_code)]

use postern_abi::view::{IMAGE_GVA, MAX_IMAGE_SIZE};
use postern_nic_owner::image::Image;

/// Runs an input.
pub fn run(data: &[u8]) {
    match Image::parse(data) {
        Ok(image) => {
            for segment in [&image.rodata, &image.text] {
                let pages = segment.pages();
                assert!(pages.start >= IMAGE_GVA && pages.end <= IMAGE_GVA + MAX_IMAGE_SIZE);
                assert!(segment.bytes.len() <= data.len());
            }
            assert!(image.text.pages().contains(&image.entry));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
