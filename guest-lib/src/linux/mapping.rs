//! The device's memory in this process.

use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};

use postern_abi::PAGE_SIZE;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Memory of a file that is mapped shared, until the value is dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: a mapping belongs to no thread; the value only says where it is.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is accessed through a reference to the value.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `size` bytes of a file, for reading and writing.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn new(file: &File, size: u64) -> io::Result<Mapping> {
        let size = size.checked_next_multiple_of(PAGE_SIZE);
        let size = size.and_then(|size| usize::try_from(size).ok());
        let size = size
            .filter(|&size| size != 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses an address at which nothing is mapped.
        let base = unsafe { mmap(ptr::null_mut(), size, rights, flags, file, 0)? };
        match NonNull::new(base.cast()) {
            Some(base) => Ok(Mapping { base, size }),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes from there on, a multiple of the page size.
    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// Leaves the memory out of processes that this one forks.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn keep_from_children(&self) -> io::Result<()> {
        // SAFETY: the range is that of the mapping. The advice changes nothing in this process.
        unsafe { madvise(self.base.as_ptr().cast(), self.size, Advice::LinuxDontFork)? };
        Ok(())
    }

    /// Keeps the memory mapped until the process ends.
    pub fn leak(self) {
        std::mem::forget(self);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is that of the mapping. Who made pointers of `base` that outlive the
        // value called `leak`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.size) };
        debug_assert!(unmapped.is_ok());
    }
}
