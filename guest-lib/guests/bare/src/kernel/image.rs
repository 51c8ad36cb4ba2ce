//! The image that `guest.ld` lays out, and its copies.

use core::ops::Range;
use core::ptr;

use super::frames::Frames;
use super::paging::{AddressSpace, Rights};

unsafe extern "C" {
    static __image_start: u8;
    static __text_start: u8;
    static __rodata_start: u8;
    static __data_start: u8;
    static __image_end: u8;
}

/// A copy of the image in memory. All copies are mapped at the addresses of the first.
pub struct Image {
    /// Guest-physical address.
    start: u64,
}

impl Image {
    /// The copy that the VMM loaded, and that this code belongs to: it lies where it is mapped.
    pub fn own() -> Image {
        Image {
            start: addresses().image.start,
        }
    }

    /// The guest-physical range of the copy.
    pub fn range(&self) -> Range<u64> {
        let image = addresses().image;
        self.start..self.start + (image.end - image.start)
    }

    /// Makes another copy.
    pub fn duplicate(&self, frames: &mut Frames) -> Image {
        let source = self.range();
        let size = source.end - source.start;
        let target = frames.allocate(size);
        // SAFETY: both ranges are RAM that is mapped one to one; the target's frames are new. The
        // only part of the source that changes meanwhile is the boot stack, which no copy uses.
        unsafe {
            ptr::copy_nonoverlapping(
                source.start as *const u8,
                target.start as *mut u8,
                size as usize,
            );
        }
        Image {
            start: target.start,
        }
    }

    /// Maps the copy, without the trampoline, for the kernel or for the program.
    pub fn map(&self, space: &mut AddressSpace, frames: &mut Frames, user: bool) {
        let at = addresses();
        let (code, read, write) = if user {
            (Rights::USER_CODE, Rights::USER_READ, Rights::USER_WRITE)
        } else {
            (Rights::CODE, Rights::READ, Rights::WRITE)
        };
        for (part, rights) in [(at.text, code), (at.rodata, read), (at.data, write)] {
            let physical = self.start + (part.start - at.image.start);
            space.map(frames, part, physical, rights);
        }
    }
}

/// Maps the kernel's trampoline into an address space.
pub fn map_trampoline(space: &mut AddressSpace, frames: &mut Frames) {
    let trampoline = addresses().trampoline;
    let physical = trampoline.start;
    space.map(frames, trampoline, physical, Rights::CODE);
}

/// The ranges of addresses at which the linker put the parts of the image.
struct Addresses {
    image: Range<u64>,
    trampoline: Range<u64>,
    text: Range<u64>,
    rodata: Range<u64>,
    data: Range<u64>,
}

fn addresses() -> Addresses {
    let start = (&raw const __image_start) as u64;
    let text = (&raw const __text_start) as u64;
    let rodata = (&raw const __rodata_start) as u64;
    let data = (&raw const __data_start) as u64;
    let end = (&raw const __image_end) as u64;
    Addresses {
        image: start..end,
        trampoline: start..text,
        text: text..rodata,
        rodata: rodata..data,
        data: data..end,
    }
}
