//! The program's memory: contiguous for the host, too, so that it can be handed to it.

use core::mem;
use core::slice;

use postern_abi::PAGE_SIZE;
use postern_abi::platform::Outbox;

use crate::{console, layout};

/// The RAM that the kernel has left to the program, as far as it was not taken yet.
pub struct Arena {
    /// Guest-physical address.
    physical: u64,
    outbox: &'static mut Outbox,
    free: &'static mut [u8],
}

/// Consecutive whole pages of the arena.
pub struct Pages {
    /// Guest-physical address.
    pub physical: u64,
    /// The bytes of the pages.
    pub bytes: &'static mut [u8],
}

impl Arena {
    /// The arena of `size` bytes.
    ///
    /// # Safety
    ///
    /// `size` bytes, more than a page, are mapped at [`layout::ARENA`] for reading and writing and
    /// lie at this physical address, below 4 GiB. Called once.
    pub unsafe fn new(physical: u64, size: u64) -> Arena {
        // SAFETY: the memory is there and nobody else's; any bytes make an `Outbox`.
        let (outbox, free) = unsafe {
            let free = (layout::ARENA + PAGE_SIZE) as *mut u8;
            (
                &mut *(layout::ARENA as *mut Outbox),
                slice::from_raw_parts_mut(free, (size - PAGE_SIZE) as usize),
            )
        };
        Arena {
            physical,
            outbox,
            free,
        }
    }

    /// Takes `size` bytes out of the arena for good; `None` if it has less.
    pub fn take(&mut self, size: usize) -> Option<&'static mut [u8]> {
        let free = mem::take(&mut self.free);
        match free.split_at_mut_checked(size) {
            Some((taken, rest)) => {
                self.free = rest;
                Some(taken)
            }
            None => {
                self.free = &mut [];
                None
            }
        }
    }

    /// Takes `count` pages out of the arena for good; `None` if it has less.
    pub fn take_pages(&mut self, count: usize) -> Option<Pages> {
        let start = self.free.as_ptr() as u64;
        let skip = start.next_multiple_of(PAGE_SIZE) - start;
        self.take(skip as usize)?;
        let bytes = self.take(count * PAGE_SIZE as usize)?;
        let offset = bytes.as_ptr() as u64 - layout::ARENA;
        Some(Pages {
            physical: self.physical + offset,
            bytes,
        })
    }

    /// Takes what is left.
    pub fn take_rest(&mut self) -> &'static mut [u8] {
        mem::take(&mut self.free)
    }

    /// Appends bytes that lie in the arena to the VM's output file.
    pub fn send_to_host(&mut self, bytes: &[u8]) {
        *self.outbox = Outbox {
            gpa: self.physical + (bytes.as_ptr() as u64 - layout::ARENA),
            len: bytes.len() as u64,
        };
        // The outbox has to be in memory before the host reads it.
        console::send_outbox(self.physical as u32);
    }
}
