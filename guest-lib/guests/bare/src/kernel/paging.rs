//! Address spaces: four levels of page tables, and the rights of a page.

use core::ops::Range;

use x86_64::structures::paging::mapper::{MapToError, UnmapError};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame,
    Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::fatal::fatal;
use super::frames::Frames;

/// The rights to a page: what may be done with it, at which privilege level. No page can be both
/// written and executed.
#[derive(Clone, Copy)]
pub struct Rights(PageTableFlags);

impl Rights {
    const PRESENT: PageTableFlags = PageTableFlags::PRESENT;
    const NX: PageTableFlags = PageTableFlags::NO_EXECUTE;
    const W: PageTableFlags = PageTableFlags::WRITABLE;
    const U: PageTableFlags = PageTableFlags::USER_ACCESSIBLE;

    /// The kernel reads.
    pub const READ: Rights = Rights(Self::PRESENT.union(Self::NX));
    /// The kernel reads and writes.
    pub const WRITE: Rights = Rights(Self::READ.0.union(Self::W));
    /// The kernel reads and executes.
    pub const CODE: Rights = Rights(Self::PRESENT);
    /// The kernel reads and writes the registers of a device.
    pub const DEVICE: Rights = Rights(
        Self::WRITE
            .0
            .union(PageTableFlags::NO_CACHE)
            .union(PageTableFlags::WRITE_THROUGH),
    );
    /// The program reads.
    pub const USER_READ: Rights = Rights(Self::READ.0.union(Self::U));
    /// The program reads and writes.
    pub const USER_WRITE: Rights = Rights(Self::WRITE.0.union(Self::U));
    /// The program reads and executes.
    pub const USER_CODE: Rights = Rights(Self::CODE.0.union(Self::U));
}

/// One root of page tables. All tables lie in RAM that is mapped one to one.
#[derive(Clone, Copy)]
pub struct AddressSpace {
    root: PhysFrame,
}

impl AddressSpace {
    /// An address space with nothing in it.
    pub fn new(frames: &mut Frames) -> AddressSpace {
        let root = frames.allocate_frame();
        AddressSpace {
            root: root.unwrap_or_else(|| fatal("the VM has too little memory; give it more")),
        }
    }

    /// The frame of the root table, for CR3.
    pub fn root(self) -> PhysFrame {
        self.root
    }

    /// The page tables.
    fn tables(&mut self) -> OffsetPageTable<'_> {
        let root = self.root.start_address().as_u64() as *mut PageTable;
        // SAFETY: `new` took the frame for a root table; all tables are mapped one to one, and the
        // borrow of `self` lasts as long as this reference.
        unsafe { OffsetPageTable::new(&mut *root, VirtAddr::zero()) }
    }

    /// Maps a range of whole pages, where nothing is mapped yet, to the range that begins at
    /// `physical`, in large pages where both allow it.
    pub fn map(&mut self, frames: &mut Frames, range: Range<u64>, physical: u64, rights: Rights) {
        let mut at = range.start;
        while at < range.end {
            let target = physical + (at - range.start);
            let aligned = (at | target).is_multiple_of(Size2MiB::SIZE);
            let step = if aligned && range.end - at >= Size2MiB::SIZE {
                self.map_page::<Size2MiB>(frames, at, target, rights)
                    .map(|()| Size2MiB::SIZE)
                    .map_err(|error| describe(at, &error))
            } else {
                self.map_page::<Size4KiB>(frames, at, target, rights)
                    .map(|()| Size4KiB::SIZE)
                    .map_err(|error| describe(at, &error))
            };
            match step {
                Ok(step) => at += step,
                Err((at, why)) => fatal(format_args!("page {at:#x} cannot be mapped: {why}")),
            }
        }
    }

    /// Maps one page of size `S`.
    fn map_page<S: PageSize>(
        &mut self,
        frames: &mut Frames,
        at: u64,
        target: u64,
        rights: Rights,
    ) -> Result<(), MapToError<S>>
    where
        for<'a> OffsetPageTable<'a>: Mapper<S>,
    {
        let page = Page::<S>::containing_address(VirtAddr::new(at));
        let frame = PhysFrame::containing_address(PhysAddr::new(target));
        // SAFETY: the tables are not in use, or the page is one that no Rust reference covers: the
        // callers map what an address space begins with, or what an attack asks for.
        let flush = unsafe { self.tables().map_to(page, frame, rights.0, frames)? };
        // The TLB is flushed at the next load of CR3, before anybody uses the page.
        flush.ignore();
        Ok(())
    }

    /// Unmaps a range of whole small pages, as far as they are mapped.
    pub fn unmap(&mut self, range: Range<u64>) {
        for at in range.step_by(Size4KiB::SIZE as usize) {
            let page = Page::<Size4KiB>::containing_address(VirtAddr::new(at));
            match self.tables().unmap(page) {
                // The TLB is flushed at the next load of CR3, before anybody uses the page.
                Ok((_, flush)) => flush.ignore(),
                Err(UnmapError::PageNotMapped) => {}
                Err(_) => fatal(format_args!(
                    "page {at:#x} cannot be unmapped: it is no small page"
                )),
            }
        }
    }
}

/// The reason for which the page at an address was not mapped, beside that address.
fn describe<S: PageSize>(at: u64, error: &MapToError<S>) -> (u64, &'static str) {
    let why = match error {
        MapToError::FrameAllocationFailed => "no memory for page tables",
        MapToError::ParentEntryHugePage => "it is part of a larger page",
        MapToError::PageAlreadyMapped(_) => "it is mapped already",
    };
    (at, why)
}
