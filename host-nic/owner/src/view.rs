//! NIC views: templates that the patched KVM makes out of the image and the NIC's memory, for VMMs
//! to attach to their vCPUs. See `kvm_ept_view.h` and [`postern_abi::kvm`] for the calls.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use postern_abi::PAGE_SIZE;
use postern_abi::kvm::{self, CreateEptView, EptViewMap, EptViewSeal};
use postern_abi::view::DATA_GVA;
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};

use crate::image::{Image, Segment};
use postern_nic_client::mapping::Mapping;
use postern_nic_client::memory::Memory;
use postern_switch::credentials::Credentials;

/// Numbers of the ioctls.
mod number {
    use postern_abi::kvm::*;
    use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};

    // KVM's own, of linux/kvm.h.
    ioctl_io_nr!(KVM_CHECK_EXTENSION, KVMIO, 0x03);
    ioctl_iow_nr!(
        KVM_CREATE_EPT_VIEW,
        KVMIO,
        KVM_CREATE_EPT_VIEW_NR,
        CreateEptView
    );
    ioctl_iow_nr!(KVM_EPT_VIEW_MAP, KVMIO, KVM_EPT_VIEW_MAP_NR, EptViewMap);
    ioctl_iow_nr!(KVM_EPT_VIEW_SEAL, KVMIO, KVM_EPT_VIEW_SEAL_NR, EptViewSeal);
}

/// A view that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// KVM's device cannot be opened.
    #[error("cannot open /dev/kvm; load KVM, and run as a user who may use it")]
    Open(#[source] io::Error),
    /// KVM is there, without views.
    #[error(
        "the loaded KVM has no EPT views; \
         build and load the patched one with kernel-patches/build.sh"
    )]
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
        /// Its address in the view.
        gva: u64,
        /// Its size in bytes.
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

/// The mode of a view: the rights of its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Three VMFUNCs a call; code of the view is as good as root on the host.
    Fast,
    /// Four VMFUNCs a call; code of the view reaches the NIC's memory only.
    Strict,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Fast => "fast",
            Mode::Strict => "strict",
        })
    }
}

/// KVM with views, and an image that views are made of.
#[derive(Debug)]
pub struct ViewMaker {
    device: File,
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
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .map_err(ViewError::Open)?;
        let capability = kvm::KVM_CAP_EPT_VIEW.into();
        // SAFETY: the argument of KVM_CHECK_EXTENSION is a number.
        let answer = unsafe { ioctl_with_val(&device, number::KVM_CHECK_EXTENSION(), capability) };
        if answer < 1 {
            return Err(ViewError::NoViews);
        }
        Ok(ViewMaker {
            device,
            entry: image.entry,
            parts: [
                Part::copy(&image.rodata, "read-only data", kvm::VIEW_READ)?,
                Part::copy(&image.text, "code", kvm::VIEW_READ | kvm::VIEW_EXEC)?,
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
        let argument = CreateEptView::default();
        // SAFETY: the ioctl reads the argument, which has the size that its number says.
        let fd = unsafe { ioctl_with_ref(&self.device, number::KVM_CREATE_EPT_VIEW(), &argument) };
        if fd < 0 {
            return Err(ViewError::Create(io::Error::last_os_error()));
        }
        // SAFETY: the ioctl returned a new descriptor that nobody else owns.
        let view = unsafe { OwnedFd::from_raw_fd(fd) };
        for part in &self.parts {
            let (base, size) = (part.pages.base(), part.pages.size() as u64);
            map(&view, part.what, part.gva, base, size, part.prot)?;
        }
        let prot = kvm::VIEW_READ | kvm::VIEW_WRITE;
        let (base, size) = (memory.base(), memory.size());
        map(&view, "NIC's memory", DATA_GVA, base, size, prot)?;
        self.seal(&view, size, caller, mode)?;
        Ok(view)
    }

    fn seal(
        &self,
        view: &OwnedFd,
        size: u64,
        caller: &Credentials,
        mode: Mode,
    ) -> Result<(), ViewError> {
        let argument = EptViewSeal {
            mode: match mode {
                Mode::Fast => kvm::VIEW_MODE_FAST,
                Mode::Strict => kvm::VIEW_MODE_STRICT,
            },
            entry_gva: self.entry,
            data_gva: DATA_GVA,
            data_size: size,
            caller: caller.words(),
            ..EptViewSeal::default()
        };
        // SAFETY: the ioctl reads the argument, which has the size that its number says.
        if unsafe { ioctl_with_ref(view, number::KVM_EPT_VIEW_SEAL(), &argument) } < 0 {
            let source = io::Error::last_os_error();
            return Err(ViewError::Seal { mode, source });
        }
        Ok(())
    }
}

fn map(
    view: &OwnedFd,
    what: &'static str,
    gva: u64,
    base: NonNull<u8>,
    size: u64,
    prot: u32,
) -> Result<(), ViewError> {
    let argument = EptViewMap {
        gva,
        user_addr: base.as_ptr().addr() as u64,
        size,
        prot,
        ..EptViewMap::default()
    };
    // SAFETY: the ioctl reads the argument, which has the size that its number says. It pins pages
    // that are either the NIC's memory, shared and atomic by nature, or a `Part`, which nothing in
    // this process refers to.
    if unsafe { ioctl_with_ref(view, number::KVM_EPT_VIEW_MAP(), &argument) } < 0 {
        let source = io::Error::last_os_error();
        return Err(ViewError::Map {
            what,
            gva,
            size,
            source,
        });
    }
    Ok(())
}

/// A segment of the image on pages of its own.
#[derive(Debug)]
struct Part {
    what: &'static str,
    gva: u64,
    pages: Mapping,
    prot: u32,
}

impl Part {
    /// Writable memory, because views pin pages as writable; what a view may do is decided by
    /// `prot`.
    fn copy(segment: &Segment, what: &'static str, prot: u32) -> Result<Part, ViewError> {
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
            prot,
        })
    }
}
