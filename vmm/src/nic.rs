//! The VM's port of the shared NIC: where its memory lies in the guest, and how requests reach it.
//!
//! | path | in the guest's memory | requests |
//! | --- | --- | --- |
//! | `elisa`, `elisa-strict` | the port's window | VMFUNC into a view, attached to each vCPU |
//! | `exit-kernel` | the port's window | VMCALL, served by the module with the same view's data |
//! | `exit-user` | the port's window | OUT, served here, in a mapping of the NIC's whole memory |
//! | `direct` | all of it | none leave the guest |
//!
//! The window lies where it would be in the NIC's whole memory, from [`machine::NIC_GPA`] on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path;
use std::sync::Arc;

use postern_abi::machine::{self, Path};
use postern_nic::caller::{Caller, window_offset};
use postern_nic::client::{self, Attachment, ClientError, Resources};
use postern_nic::memory::{Memory, MemoryError};
use vm_memory::{FileOffset, GuestAddress, MmapRegion};

use crate::devices::RequestPort;
use crate::memory::{self, Slots};
use crate::view::Use;

/// Why a VM has no NIC port.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The NIC does not give it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What the NIC gave cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The window cannot be mapped.
    #[error("cannot map the window of port {port} ({size:#x} bytes)")]
    Window {
        /// The port.
        port: u32,
        /// Size of the window in bytes.
        size: u64,
        /// Why not.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// No descriptor is left.
    #[error("cannot keep the descriptors that the NIC gave")]
    Descriptors(#[source] io::Error),
}

/// What of the NIC's memory this process has mapped.
enum Mapped {
    Window(Arc<MmapRegion>),
    Whole(Arc<Memory>),
}

/// A port of a NIC, given back when the value is dropped.
pub struct NicPort {
    attachment: Attachment,
    mapped: Mapped,
}

impl NicPort {
    /// Asks the NIC at `socket` for a port.
    ///
    /// # Errors
    ///
    /// When it is refused, or cannot be mapped.
    pub fn connect(socket: &path::Path, port: u32, path: Path) -> Result<NicPort, Error> {
        let mut attachment = client::attach(socket, port, path)?;
        let geometry = attachment.geometry();
        let mapped = match &mut attachment.resources {
            Resources::View { window, .. } => {
                let size = geometry.window_size();
                let file = File::from(window.try_clone().map_err(Error::Descriptors)?);
                let region = MmapRegion::from_file(FileOffset::new(file, 0), size as usize)
                    .map_err(|source| Error::Window { port, size, source })?;
                Mapped::Window(Arc::new(region))
            }
            Resources::Memory { state, windows } => {
                let state = state.try_clone().map_err(Error::Descriptors)?;
                Mapped::Whole(Arc::new(Memory::open(state, std::mem::take(windows))?))
            }
        };
        Ok(NicPort { attachment, mapped })
    }

    /// How requests reach the NIC.
    pub fn path(&self) -> Path {
        self.attachment.path
    }

    /// The port's number.
    pub fn port(&self) -> u32 {
        self.caller().port.number()
    }

    fn caller(&self) -> Caller {
        self.attachment.caller
    }

    /// Guest-physical address and size in bytes of what the guest sees of the NIC's memory.
    pub fn place(&self) -> (GuestAddress, u64) {
        let caller = self.caller();
        match self.path() {
            Path::Direct => (GuestAddress(machine::NIC_GPA), caller.memory_size()),
            _ => {
                let offset = window_offset(caller.geometry, caller.port);
                (
                    GuestAddress(machine::NIC_GPA + offset),
                    caller.geometry.window_size(),
                )
            }
        }
    }

    /// The word of the command line that describes the port to the guest.
    pub fn cmdline_word(&self) -> String {
        let (gpa, size) = self.place();
        format!(
            "{}{},{},{:#x},{size:#x}",
            machine::CMDLINE_NIC,
            self.path().name(),
            self.port(),
            gpa.0
        )
    }

    /// Adds the memory that the guest sees.
    ///
    /// # Errors
    ///
    /// When it does not fit below the platform's devices.
    pub fn add_slots(&self, slots: &mut Slots) -> Result<(), memory::Error> {
        let (gpa, size) = self.place();
        match &self.mapped {
            Mapped::Window(region) => {
                let host = region.as_ptr() as usize;
                slots.add("the NIC's window", gpa, size, host, region.clone())
            }
            Mapped::Whole(memory) => {
                let offset = gpa.0 - machine::NIC_GPA;
                let host = memory.base().as_ptr() as usize + offset as usize;
                slots.add("the NIC's memory", gpa, size, host, memory.clone())
            }
        }
    }

    /// The view to attach to each vCPU, if the path has one, and how it is used.
    pub fn view(&self, exit_on_abort: bool) -> Option<(BorrowedFd<'_>, Use)> {
        let usage = match self.path() {
            Path::Elisa | Path::ElisaStrict => Use::Enter { exit_on_abort },
            Path::ExitKernel => Use::Hypercall,
            Path::ExitUser | Path::Direct => return None,
        };
        match &self.attachment.resources {
            Resources::View { view, .. } => Some((view.as_fd(), usage)),
            Resources::Memory { .. } => None,
        }
    }

    /// The device that serves requests, on the path `exit-user`.
    pub fn request_port(&self) -> Option<RequestPort> {
        match (self.path(), &self.mapped) {
            (Path::ExitUser, Mapped::Whole(memory)) => {
                Some(RequestPort::new(Arc::clone(memory), self.caller()))
            }
            _ => None,
        }
    }
}
