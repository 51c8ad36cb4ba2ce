//! Free page frames: given out once, never taken back.

use core::ops::Range;
use core::ptr;

use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

use super::fatal::fatal;

/// Size of a small page, in bytes.
const PAGE: u64 = postern_abi::PAGE_SIZE;

/// Size of a large page, in bytes.
const LARGE_PAGE: u64 = 2 << 20;

/// Least number of bytes that are kept for page tables when the program takes the rest.
const KEPT: u64 = 512 << 10;

/// The page frames that nobody uses, mapped one to one.
pub struct Frames {
    free: Range<u64>,
}

impl Frames {
    /// The allocator of all frames of a range of RAM, whole pages.
    pub fn new(free: Range<u64>) -> Frames {
        Frames { free }
    }

    /// Takes consecutive zeroed frames for `size` bytes; gives their guest-physical range.
    pub fn allocate(&mut self, size: u64) -> Range<u64> {
        let size = size.next_multiple_of(PAGE);
        if self.free.end - self.free.start < size {
            fatal("the VM has too little memory; give it more");
        }
        let start = self.free.start;
        self.free.start += size;
        // SAFETY: the frames are RAM, mapped one to one, and belonged to nobody until now.
        unsafe { ptr::write_bytes(start as *mut u8, 0, size as usize) };
        start..start + size
    }

    /// Takes all frames but a few ([`KEPT`]), not zeroed; they begin on a large page. Gives their
    /// guest-physical range.
    pub fn take_rest(&mut self) -> Range<u64> {
        let start = (self.free.start + KEPT).next_multiple_of(LARGE_PAGE);
        if start >= self.free.end {
            fatal("the VM has too little memory; give it more");
        }
        let rest = start..self.free.end;
        self.free.end = start;
        rest
    }
}

// SAFETY: frames are page aligned, unused RAM, and each is given out once.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = self.allocate(PAGE);
        Some(PhysFrame::containing_address(PhysAddr::new(frame.start)))
    }
}
