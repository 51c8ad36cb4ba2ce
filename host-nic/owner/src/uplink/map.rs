//! Memory shared with the kernel.

use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Mapped pages, unmapped in the end.
#[derive(Debug)]
pub(super) struct Map {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the addresses are valid in every thread, and safe methods do not access what is there.
unsafe impl Send for Map {}

impl Map {
    /// Maps `size` bytes of a socket's ring, at the offset that selects the ring.
    pub(super) fn ring(fd: impl AsFd, offset: u64, size: usize) -> Result<Map, Errno> {
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                fd,
                offset,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(Map { base, size })
    }

    /// Private memory, filled with zeros, all there now.
    pub(super) fn anonymous(size: usize) -> Result<Map, Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new anonymous mapping, at an address that the kernel chooses.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(Map { base, size })
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The address of `length` bytes at `offset`, if they lie inside.
    pub(super) fn at(&self, offset: usize, length: usize) -> Option<*mut u8> {
        let end = offset.checked_add(length)?;
        // SAFETY: `offset` is not past the end of the mapping.
        (end <= self.size).then(|| unsafe { self.base.as_ptr().add(offset) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range belongs to `self`, and whatever refers to it borrows `self`. There is
        // no error for a range that is mapped.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size) };
    }
}
