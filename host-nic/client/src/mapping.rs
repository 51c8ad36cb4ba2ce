//! A range of this process's addresses.

use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// `MADV_COLLAPSE` of `linux/mman.h`, which not every C library's header has.
const MADV_COLLAPSE: libc::c_int = 25;

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

    /// Takes a range that begins at a multiple of `alignment`, in which nothing can be accessed yet.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn reserve_aligned(size: usize, alignment: usize) -> Result<Mapping, Errno> {
        let whole = Mapping::reserve(size.checked_add(alignment).ok_or(Errno::NOMEM)?)?;
        let start = whole.base.as_ptr();
        let head = start.align_offset(alignment);
        if head > alignment {
            return Err(Errno::INVAL);
        }
        let end = head + size;
        let (base, rest) = (start.wrapping_add(head), start.wrapping_add(end));
        let after = whole.size - end;
        // Its parts are given back one by one.
        std::mem::forget(whole);
        for (part, size) in [(start, head), (rest, after)] {
            if size != 0 {
                // SAFETY: the part is of the range that was taken here, and no part of what is
                // given to the caller. An error leaves it reserved.
                let _ = unsafe { munmap(part.cast(), size) };
            }
        }
        let base = NonNull::new(base).ok_or(Errno::INVAL)?;
        Ok(Mapping { base, size })
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
        self.assert_inside(offset, size);
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

    fn assert_inside(&self, offset: usize, size: usize) {
        let end = offset.checked_add(size);
        assert!(
            end.is_some_and(|end| end <= self.size),
            "{size} bytes at {offset} lie in a range of {} bytes",
            self.size
        );
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

    /// Has the system put a part of the range, of one file, on large pages, as far as it has some
    /// and the part has suited addresses. It stays as it is where the system refuses (before Linux
    /// 6.1).
    ///
    /// # Panics
    ///
    /// The part is not inside the range.
    pub fn use_large_pages(&self, offset: usize, size: usize) {
        self.assert_inside(offset, size);
        // SAFETY: the part is inside the range.
        let start = unsafe { self.base.as_ptr().add(offset) }.cast();
        for advice in [Advice::LinuxHugepage, Advice::LinuxPopulateWrite] {
            // SAFETY: the part belongs to `self`, and neither advice changes content.
            let _ = unsafe { madvise(start, size, advice) };
        }
        // SAFETY: as above. Rustix has no name for the number.
        let _ = unsafe { libc::madvise(start, size, MADV_COLLAPSE) };
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
