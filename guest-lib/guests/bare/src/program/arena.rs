//! The program's memory: contiguous for the host, too, so that it can be handed to it.

use core::mem;
use core::slice;

use postern_abi::PAGE_SIZE;
use postern_abi::machine::Outbox;

use crate::{console, layout};

/// All RAM that the kernel left.
pub struct Arena {
    /// Guest-physical address.
    physical: u64,
    outbox: &'static mut Outbox,
    free: &'static mut [u8],
}

/// Whole pages.
pub struct Pages {
    /// Guest-physical address.
    pub physical: u64,
    /// The bytes.
    pub bytes: &'static mut [u8],
}

impl Arena {
    /// The arena.
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

    /// Takes some bytes out of the arena for good; nothing, if it has less.
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

    /// Takes some pages, and says where they are for the host.
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
        // What the host reads has to be in memory before.
        console::send_outbox(self.physical as u32);
    }
}
