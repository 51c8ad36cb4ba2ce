//! NIC views: templates that the patched KVM makes out of the image and the NIC's memory, for VMMs
//! to attach to their vCPUs. [`postern_kvm`] makes the calls.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr;

use postern_abi::PAGE_SIZE;
use postern_abi::view::DATA_GVA;
pub use postern_kvm::ViewMode as Mode;
use postern_kvm::{Device, Protection, Seal, SharedPages, View};

use crate::image::{Image, Segment};
use postern_nic_client::mapping::Mapping;
use postern_nic_client::memory::Memory;
use postern_switch::credentials::Credentials;

/// A view that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// KVM's device cannot be opened.
    #[error("cannot open /dev/kvm; load KVM, and run as a user who may use it")]
    Open(#[source] io::Error),
    /// KVM is there, without views.
    #[error("{}", postern_kvm::why_no_views())]
    NoViews,
    /// A view cannot be created.
    #[error("KVM created no view")]
    Create(#[source] io::Error),
    /// A part of the view cannot be mapped.
    #[error(
        "KVM cannot map the {what} at {gva:#x} ({size} bytes) into the NIC view{}",
        locked(source)
    )]
    Map {
        /// The part of the view.
        what: &'static str,
        /// Guest-virtual address of the part in the view.
        gva: u64,
        /// Size of the part in bytes.
        size: u64,
        /// The system's error.
        source: io::Error,
    },
    /// The view cannot be completed.
    #[error("KVM cannot seal the NIC view in {mode} mode{}", remedy(*mode, source))]
    Seal {
        /// The mode of the view.
        mode: Mode,
        /// The system's error.
        source: io::Error,
    },
    /// There is no memory for the image.
    #[error("cannot allocate {size} bytes for the NIC image")]
    Memory {
        /// Size of the memory in bytes.
        size: u64,
        /// The system's error.
        source: io::Error,
    },
}

impl ViewError {
    /// Whether this machine has no views at all, rather than one that went wrong.
    pub fn is_absence(&self) -> bool {
        matches!(self, ViewError::Open(_) | ViewError::NoViews)
    }
}

fn locked(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::OutOfMemory => {
            "; raise the limit of locked memory (ulimit -l), or run as root"
        }
        _ => "",
    }
}

fn remedy(mode: Mode, error: &io::Error) -> &'static str {
    match (mode, error.kind()) {
        (Mode::Fast, io::ErrorKind::PermissionDenied) => {
            "; run postern nic with CAP_SYS_RAWIO (as root), or use elisa-strict"
        }
        _ => "",
    }
}

/// KVM with views, and an image that views are made of.
#[derive(Debug)]
pub struct ViewMaker {
    device: Device,
    entry: u64,
    parts: [Part; 2],
}

impl ViewMaker {
    /// Opens KVM and copies the image to memory that views can share.
    ///
    /// # Errors
    ///
    /// [`ViewError::Open`] and [`ViewError::NoViews`] where there are no views.
    pub fn new(image: &Image) -> Result<ViewMaker, ViewError> {
        let device = Device::open().map_err(ViewError::Open)?;
        if !device.has_views() {
            return Err(ViewError::NoViews);
        }
        Ok(ViewMaker {
            device,
            entry: image.entry,
            parts: [
                Part::copy(&image.rodata, "read-only data", Protection::Read)?,
                Part::copy(&image.text, "code", Protection::ReadExecute)?,
            ],
        })
    }

    /// Makes a sealed view for one tenant of a port. It keeps the pages of `memory` for as long as
    /// any vCPU has it, whatever becomes of this process.
    ///
    /// # Errors
    ///
    /// KVM refuses a step.
    pub fn make(
        &self,
        memory: &Memory,
        caller: &Credentials,
        mode: Mode,
    ) -> Result<OwnedFd, ViewError> {
        let view = self.device.create_view().map_err(ViewError::Create)?;
        for part in &self.parts {
            map(&view, part.what, part.gva, part.shared(), part.protection)?;
        }
        // SAFETY: the memory is mapped while it is borrowed here, and shared and atomic by nature.
        let data = unsafe { SharedPages::new(memory.base(), memory.size()) };
        map(&view, "NIC's memory", DATA_GVA, data, Protection::ReadWrite)?;
        let seal = Seal {
            mode,
            entry_gva: self.entry,
            data_gva: DATA_GVA,
            data_size: data.size(),
            caller: caller.words(),
        };
        let sealed = view.seal(&seal);
        sealed
            .map(OwnedFd::from)
            .map_err(|source| ViewError::Seal { mode, source })
    }
}

fn map(
    view: &View,
    what: &'static str,
    gva: u64,
    pages: SharedPages,
    protection: Protection,
) -> Result<(), ViewError> {
    let size = pages.size();
    view.map(gva, &pages, protection)
        .map_err(|source| ViewError::Map {
            what,
            gva,
            size,
            source,
        })
}

/// A segment of the image on pages of its own.
#[derive(Debug)]
struct Part {
    what: &'static str,
    gva: u64,
    pages: Mapping,
    protection: Protection,
}

impl Part {
    /// Writable memory, because views pin pages as writable; `protection` decides what a view may
    /// do.
    fn copy(
        segment: &Segment,
        what: &'static str,
        protection: Protection,
    ) -> Result<Part, ViewError> {
        let bytes = &segment.bytes;
        let size = bytes.len().next_multiple_of(PAGE_SIZE as usize);
        let pages = Mapping::anonymous(size).map_err(|errno| ViewError::Memory {
            size: size as u64,
            source: errno.into(),
        })?;
        // SAFETY: the mapping is new, writable and at least as long as the bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), pages.base().as_ptr(), bytes.len()) };
        Ok(Part {
            what,
            gva: segment.gva,
            pages,
            protection,
        })
    }
    /// The pages, for views.
    fn shared(&self) -> SharedPages {
        // SAFETY: they are mapped while `self` is borrowed and the view is made, and nothing in
        // this process refers to what they hold once `copy` has returned.
        unsafe { SharedPages::new(self.pages.base(), self.pages.size() as u64) }
    }
}
