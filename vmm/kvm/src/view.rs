//! Views: empty, filled, sealed.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use postern_abi::kvm::{
    EptViewMap, EptViewSeal, VIEW_EXEC, VIEW_MODE_FAST, VIEW_MODE_STRICT, VIEW_READ, VIEW_WRITE,
};

use crate::ioctl;

/// Whole pages of this process that views may share.
#[derive(Clone, Copy, Debug)]
pub struct SharedPages {
    base: NonNull<u8>,
    size: u64,
}

impl SharedPages {
    /// The `size` bytes at `base`.
    ///
    /// # Safety
    ///
    /// They are mapped for as long as the value is used, and nothing in this process ever refers to
    /// them as memory that only changes by what this process does: guests of a view that has them
    /// read and write them, and go on when this process has unmapped them.
    pub unsafe fn new(base: NonNull<u8>, size: u64) -> SharedPages {
        SharedPages { base, size }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// What a view may do with pages. What it can write it cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Read them.
    Read,
    /// Read and write them.
    ReadWrite,
    /// Read and run them.
    ReadExecute,
}

impl Protection {
    fn bits(self) -> u32 {
        match self {
            Protection::Read => VIEW_READ,
            Protection::ReadWrite => VIEW_READ | VIEW_WRITE,
            Protection::ReadExecute => VIEW_READ | VIEW_EXEC,
        }
    }
}

/// How far the code of a view is trusted, which the paths `elisa` and `elisa-strict` differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewMode {
    /// Three VMFUNCs a call; code of the view is as good as root on the host. Needs
    /// `CAP_SYS_RAWIO`.
    Fast,
    /// Four VMFUNCs a call; code of the view reaches the view's memory only.
    Strict,
}

impl fmt::Display for ViewMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ViewMode::Fast => "fast",
            ViewMode::Strict => "strict",
        })
    }
}

/// The properties that a view gets when it is completed, besides its mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// How far the code of the view is trusted.
    pub mode: ViewMode,
    /// Guest-virtual address of the service's entry, in pages that the view can run.
    pub entry_gva: u64,
    /// Guest-virtual address of the service's data, in pages that the view can write.
    pub data_gva: u64,
    /// Bytes of the data.
    pub data_size: u64,
    /// What the service is told of its callers ([`postern_abi::view::CallPage::caller`]).
    pub caller: [u64; 8],
}

/// A view that is being put together: an EPT hierarchy that belongs to no VM.
#[derive(Debug)]
pub struct View(OwnedFd);

impl View {
    /// Maps pages at the guest-virtual address `gva`. The view keeps them for as long as it lives,
    /// whatever becomes of this process.
    ///
    /// # Errors
    ///
    /// When the address is not a view's, something is there, or the pages cannot be pinned.
    pub fn map(&self, gva: u64, pages: &SharedPages, protection: Protection) -> io::Result<()> {
        let argument = EptViewMap {
            gva,
            user_addr: pages.base.as_ptr().addr() as u64,
            size: pages.size,
            prot: protection.bits(),
            ..EptViewMap::default()
        };
        // SAFETY: who made the `SharedPages` promised that nothing takes them for private memory.
        unsafe { ioctl::map(&self.0, &argument) }
    }

    /// Completes the view: nothing of it changes from then on.
    ///
    /// # Errors
    ///
    /// When addresses are not mapped as they must be, or the mode is not permitted.
    pub fn seal(self, seal: &Seal) -> io::Result<SealedView> {
        let argument = EptViewSeal {
            mode: match seal.mode {
                ViewMode::Fast => VIEW_MODE_FAST,
                ViewMode::Strict => VIEW_MODE_STRICT,
            },
            entry_gva: seal.entry_gva,
            data_gva: seal.data_gva,
            data_size: seal.data_size,
            caller: seal.caller,
            ..EptViewSeal::default()
        };
        ioctl::seal(&self.0, &argument)?;
        Ok(SealedView(self.0))
    }
}

impl From<OwnedFd> for View {
    fn from(fd: OwnedFd) -> View {
        View(fd)
    }
}

/// A complete view, which any vCPU can be given. Its descriptor can be passed to another process.
#[derive(Debug)]
pub struct SealedView(OwnedFd);

impl From<OwnedFd> for SealedView {
    /// The sealed view behind a descriptor that another process has passed. KVM looks when it is
    /// attached: a descriptor of anything else is refused then.
    fn from(fd: OwnedFd) -> SealedView {
        SealedView(fd)
    }
}

impl From<SealedView> for OwnedFd {
    fn from(view: SealedView) -> OwnedFd {
        view.0
    }
}

impl AsFd for SealedView {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
