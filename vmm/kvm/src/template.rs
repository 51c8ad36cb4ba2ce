//! Templates: empty, filled, sealed; and the grants of them.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use postern_abi::kvm::{
    EptViewBells, EptViewGrant, EptViewInfo, EptViewMap, EptViewRevoke, EptViewSeal, VIEW_EXEC,
    VIEW_READ, VIEW_WRITE,
};

use crate::ioctl;
use crate::rights::Rights;

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

/// The properties that a template gets when it is completed, besides its mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The rights that its grants can have.
    pub rights: Rights,
    /// Guest-virtual address of the service's entry, in pages that the view can run.
    pub entry_gva: u64,
    /// Guest-virtual address of the service's data, in pages that the view can write.
    pub data_gva: u64,
    /// Bytes of the data.
    pub data_size: u64,
}

/// A template that is being put together: EPT hierarchies that belong to no VM.
#[derive(Debug)]
pub struct Template(OwnedFd);

impl Template {
    /// Maps pages at the guest-virtual address `gva`. The template keeps them for as long as it or
    /// a grant of it lives, whatever becomes of this process.
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

    /// Gives the template its bells: the eventfds that KVM signals at the end of a hypercall for the
    /// RX queues that are asleep, in the order of their numbers in the whole NIC. The template keeps
    /// them for as long as it or a grant of it lives, whatever becomes of the descriptors.
    ///
    /// # Errors
    ///
    /// When there are none or more than [`Device::max_bells`](crate::Device::max_bells), one is no
    /// eventfd, or the template has bells.
    pub fn set_bells(&self, bells: &[BorrowedFd<'_>]) -> io::Result<()> {
        let fds: Vec<RawFd> = bells.iter().map(AsRawFd::as_raw_fd).collect();
        let argument = EptViewBells {
            fds: fds.as_ptr().addr() as u64,
            bells: fds.len().try_into().unwrap_or(u32::MAX),
            ..EptViewBells::default()
        };
        ioctl::bells(&self.0, &argument)
    }

    /// Completes the template: nothing of it changes from then on.
    ///
    /// # Errors
    ///
    /// [`SealError`], with the template as it was: addresses are not mapped as they must be, or a
    /// right is not permitted.
    pub fn seal(self, seal: &Seal) -> Result<SealedTemplate, SealError> {
        let argument = EptViewSeal {
            rights: seal.rights.bits(),
            entry_gva: seal.entry_gva,
            data_gva: seal.data_gva,
            data_size: seal.data_size,
            ..EptViewSeal::default()
        };
        match ioctl::seal(&self.0, &argument) {
            Ok(()) => Ok(SealedTemplate(self.0)),
            Err(source) => Err(SealError {
                template: self,
                source,
            }),
        }
    }
}

impl From<OwnedFd> for Template {
    fn from(fd: OwnedFd) -> Template {
        Template(fd)
    }
}

/// A template that KVM did not seal. It can be sealed with fewer rights.
#[derive(Debug)]
pub struct SealError {
    /// The template, as it was.
    pub template: Template,
    /// KVM's error.
    pub source: io::Error,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KVM did not seal the template")
    }
}

impl Error for SealError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl From<SealError> for io::Error {
    fn from(error: SealError) -> io::Error {
        error.source
    }
}

/// What a grant gives, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantTerms {
    /// What the grant is revoked by. Grants with the same number are revoked together.
    pub id: u64,
    /// The rights that it gives: some of the template's.
    pub rights: Rights,
    /// Number of vCPUs that can be attached at a time ([`postern_abi::kvm::MAX_MEMBERS`] at most).
    pub members: u32,
    /// What the service is told of its callers ([`postern_abi::view::CallPage::caller`]).
    pub caller: [u64; 8],
}

/// A complete template, which serves any number of grants. Its descriptor is for the owner of the
/// service alone: who has it can make any grant.
#[derive(Debug)]
pub struct SealedTemplate(OwnedFd);

impl SealedTemplate {
    /// Makes a grant, whose descriptor can be passed to another process.
    ///
    /// # Errors
    ///
    /// When the template lacks a right, or the number of members is none.
    pub fn grant(&self, terms: &GrantTerms) -> io::Result<Grant> {
        let argument = EptViewGrant {
            id: terms.id,
            rights: terms.rights.bits(),
            members: terms.members,
            caller: terms.caller,
            ..EptViewGrant::default()
        };
        ioctl::grant(&self.0, &argument).map(Grant)
    }

    /// Takes back all grants with that number, and gives how many there were. When it returns, no
    /// vCPU is in a view by one of them, and none can enter.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub fn revoke(&self, id: u64) -> io::Result<u32> {
        let argument = EptViewRevoke {
            id,
            ..EptViewRevoke::default()
        };
        ioctl::revoke(&self.0, &argument)
    }

    /// What the template costs, and who uses it.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub fn info(&self) -> io::Result<EptViewInfo> {
        ioctl::info(&self.0)
    }
}

impl From<OwnedFd> for SealedTemplate {
    /// The sealed template behind a descriptor that was kept. KVM looks when it is used: a
    /// descriptor of anything else is refused then.
    fn from(fd: OwnedFd) -> SealedTemplate {
        SealedTemplate(fd)
    }
}

impl From<SealedTemplate> for OwnedFd {
    fn from(template: SealedTemplate) -> OwnedFd {
        template.0
    }
}

impl AsFd for SealedTemplate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A grant: the right to attach so many vCPUs to a service, under one identity.
#[derive(Debug)]
pub struct Grant(OwnedFd);

impl From<OwnedFd> for Grant {
    /// The grant behind a descriptor that another process has passed. KVM looks when it is
    /// attached: a descriptor of anything else is refused then.
    fn from(fd: OwnedFd) -> Grant {
        Grant(fd)
    }
}

impl From<Grant> for OwnedFd {
    fn from(grant: Grant) -> OwnedFd {
        grant.0
    }
}

impl AsFd for Grant {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
