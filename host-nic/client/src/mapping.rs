//! A range of this process's addresses.

use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Mapped pages, unmapped when the value is dropped. No method accesses what they hold.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the addresses are valid in every thread, and safe methods do not access what is there.
unsafe impl Send for Mapping {}
// SAFETY: `&self` gives an address and changes what is mapped; it never reads or writes what is
// there, so several threads may use it at a time.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Takes a range in which nothing can be accessed yet.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn reserve(size: usize) -> Result<Mapping, Errno> {
        Mapping::new(size, ProtFlags::empty(), MapFlags::NORESERVE)
    }

    /// Takes private memory, filled with zeros.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn anonymous(size: usize) -> Result<Mapping, Errno> {
        Mapping::new(size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::empty())
    }

    fn new(size: usize, prot: ProtFlags, flags: MapFlags) -> Result<Mapping, Errno> {
        // SAFETY: a new anonymous mapping, at an address that the kernel chooses.
        let base =
            unsafe { mmap_anonymous(ptr::null_mut(), size, prot, flags | MapFlags::PRIVATE) }?;
        let base = NonNull::new(base.cast()).expect("mmap gives null to MAP_FIXED only");
        Ok(Mapping { base, size })
    }

    /// Puts a part of a file, shared, in place of a part of the range.
    ///
    /// # Errors
    ///
    /// The system's error.
    ///
    /// # Panics
    ///
    /// The part is not inside the range.
    pub fn map(
        &self,
        offset: usize,
        size: usize,
        fd: impl AsFd,
        file_offset: u64,
    ) -> Result<(), Errno> {
        let end = offset.checked_add(size);
        assert!(
            end.is_some_and(|end| end <= self.size),
            "{size} bytes at {offset} lie in a range of {} bytes",
            self.size
        );
        // SAFETY: the part belongs to `self`; replacing what is mapped there is like another
        // process writing to it.
        unsafe {
            mmap(
                self.base.as_ptr().add(offset).cast(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                fd,
                file_offset,
            )
        }?;
        Ok(())
    }

    /// Has all pages mapped now, not when they are first used. Where the kernel cannot (before
    /// Linux 5.14), or lacks memory, the first use still does it.
    pub fn populate(&self) {
        // SAFETY: the range belongs to `self`, and populating it changes no content.
        let _ = unsafe {
            madvise(
                self.base.as_ptr().cast(),
                self.size,
                Advice::LinuxPopulateWrite,
            )
        };
    }

    /// First byte of the range.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Size of the range in bytes.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range belongs to `self`, and whatever refers to it borrows `self`. There is
        // no error for a range that is mapped.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size) };
    }
}
