//! The VM's port of the shared NIC: where its memory lies in the guest, and how requests reach it.
//!
//! | path | in the guest's memory | requests |
//! | --- | --- | --- |
//! | `elisa`, `elisa-strict` | the port's window | VMFUNC into a view, attached to each vCPU |
//! | `exit-kernel` | the port's window | VMCALL, served by the module with the same data |
//! | `exit-user` | the port's window | OUT, served here, in a mapping of the NIC's whole memory |
//! | `direct` | all of it | none leave the guest |
//!
//! What the guest sees is BAR 2 of a PCI function ([`Ivshmem`](crate::pci::Ivshmem)). It begins at
//! `platform::NIC_GPA` (`postern_abi`), if it has room below 4 GiB, until the guest moves it.
//!
//! The NIC keeps apart what different vCPUs of a port send, by KVM's number of the vCPU, as far as
//! the port has queues. So a VM has at most as many vCPUs as that; on the path `direct` the guest
//! chooses the numbers itself.
#![deny(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::path;
use std::sync::Arc;
use std::thread::JoinHandle;

use postern_abi::nic_device::NicDevice;
use postern_abi::platform::CallPath;
use postern_abi::window::{Geometry, MAX_QUEUES};
use postern_confine::Kind;
use postern_kvm::{Grant, Right};
use postern_nic_client::memory::{Memory, MemoryError};
use postern_nic_client::protocol::AccessFds;
use postern_nic_client::request::{self, ClientError, EndReason, Tenancy};
use postern_switch::credentials::Credentials;
use postern_switch::layout::window_offset;
use serde_json::{Value, json};
use vm_memory::{FileOffset, MmapRegion};

use crate::devices::{Bells, RequestPort};
use crate::event;
use crate::pci::{BarMemory, Peers};
use crate::view::NicAccess;

/// Why a VM has no NIC port.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The owner of the NIC gives no port.
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
        /// The error of the mapping.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// The NIC cannot tell so many vCPUs apart.
    #[error(
        "each port of the NIC has queues for {queues} vCPUs, not {vcpus}: {} or give the VM fewer \
         vCPUs",
        remedy(*.vcpus)
    )]
    TooManyVcpus {
        /// Number of vCPUs of the VM.
        vcpus: usize,
        /// Queues of each port.
        queues: u32,
    },
    /// The process has no descriptor left.
    #[error("cannot keep the descriptors that the NIC gave")]
    Descriptors(#[source] io::Error),
}

/// How a NIC is made that has queues for so many vCPUs.
fn remedy(vcpus: usize) -> String {
    match u32::try_from(vcpus) {
        Ok(queues @ ..=MAX_QUEUES) => {
            format!("start the NIC with --queues {queues} (in a file: queues = {queues}),")
        }
        _ => format!("start the NIC with more queues, {MAX_QUEUES} at most,"),
    }
}

/// Checks that the NIC can tell the vCPUs of a VM apart that calls it on a path.
///
/// # Errors
///
/// When there are more vCPUs than a port has queues.
pub fn check_vcpus(vcpus: usize, geometry: Geometry, path: CallPath) -> Result<(), Error> {
    let queues = geometry.queues();
    if path != CallPath::Direct && vcpus > queues as usize {
        return Err(Error::TooManyVcpus { vcpus, queues });
    }
    Ok(())
}

/// The part of the NIC's memory that this process has mapped.
enum Mapped {
    Window(Arc<MmapRegion>, Grant),
    Whole(Arc<Memory>),
}

/// A port of a NIC, given back when the value is dropped.
pub struct NicPort {
    tenancy: Tenancy,
    mapped: Mapped,
    /// The bells of all RX queues of the NIC, by number.
    bells: Bells,
}

impl fmt::Debug for NicPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NicPort")
            .field("tenancy", &self.tenancy)
            .finish_non_exhaustive()
    }
}

impl NicPort {
    /// Asks the NIC at `socket` for a port.
    ///
    /// # Errors
    ///
    /// When it is refused, or cannot be mapped.
    pub fn connect(socket: &path::Path, port: u32, path: CallPath) -> Result<NicPort, Error> {
        let mut tenancy = request::port(socket, port, path)?;
        let geometry = tenancy.geometry();
        let mapped = match &mut tenancy.fds.access {
            AccessFds::View { grant, window } => {
                let size = geometry.window_size();
                let file = File::from(window.try_clone().map_err(Error::Descriptors)?);
                let region = MmapRegion::from_file(FileOffset::new(file, 0), size as usize)
                    .map_err(|source| Error::Window { port, size, source })?;
                let grant = grant.try_clone().map_err(Error::Descriptors)?;
                Mapped::Window(Arc::new(region), Grant::from(grant))
            }
            AccessFds::Memory { state, windows } => {
                let state = state.try_clone().map_err(Error::Descriptors)?;
                Mapped::Whole(Arc::new(Memory::open(state, std::mem::take(windows))?))
            }
        };
        let bells = std::mem::take(&mut tenancy.fds.bells).into_iter();
        let bells = bells.map(event::from_fd).map(Arc::new).collect();
        Ok(NicPort {
            tenancy,
            mapped,
            bells,
        })
    }

    /// How requests reach the NIC.
    pub fn path(&self) -> CallPath {
        self.tenancy.path
    }

    /// The port's number.
    pub fn port(&self) -> u32 {
        self.caller().port().number()
    }

    fn caller(&self) -> Credentials {
        self.tenancy.credentials
    }

    /// What the guest is told of the port: where requests go, and how much it sees of the NIC's
    /// memory. With a doorbell the device has an interrupt vector for each of the port's queues.
    pub fn device(&self, doorbell: bool) -> NicDevice {
        let caller = self.caller();
        let geometry = caller.geometry();
        NicDevice {
            path: self.path(),
            port: caller.port(),
            size: match self.path() {
                CallPath::Direct => caller.size(),
                _ => geometry.window_size(),
            },
            vectors: if doorbell {
                geometry.queues() as u16
            } else {
                0
            },
        }
    }

    /// The bells of all ports' queues, as the port's device has them.
    pub fn peers(&self) -> Peers {
        let queues = self.caller().geometry().queues();
        let ports = self.bells.chunks(queues as usize).map(<[_]>::to_vec);
        (0..).zip(ports).collect()
    }

    /// Checks that the NIC can tell the VM's vCPUs apart.
    ///
    /// # Errors
    ///
    /// When there are more of them than a port has queues.
    pub fn check_vcpus(&self, vcpus: usize) -> Result<(), Error> {
        check_vcpus(vcpus, self.caller().geometry(), self.path())
    }

    /// The memory that the guest sees.
    pub fn memory(&self) -> BarMemory {
        let size = self.device(false).size;
        match &self.mapped {
            Mapped::Window(region, _) => BarMemory {
                name: "the NIC's window",
                host: region.as_ptr() as usize,
                size,
                owner: region.clone(),
            },
            Mapped::Whole(memory) => {
                let (name, offset) = match self.path() {
                    CallPath::Direct => ("the NIC's memory", 0),
                    _ => {
                        let caller = self.caller();
                        let offset = window_offset(caller.geometry(), caller.port());
                        ("the NIC's window", offset)
                    }
                };
                BarMemory {
                    name,
                    host: memory.base().as_ptr() as usize + offset as usize,
                    size,
                    owner: memory.clone(),
                }
            }
        }
    }

    /// What each vCPU is attached by, if the path needs that.
    pub fn access(&self, exit_on_abort: bool) -> Option<NicAccess<'_>> {
        let right = match self.path() {
            CallPath::Elisa => Right::Fast,
            CallPath::ElisaStrict => Right::Strict,
            CallPath::ExitKernel => Right::Hypercall,
            CallPath::ExitUser | CallPath::Direct => return None,
        };
        match &self.mapped {
            Mapped::Window(_, grant) => Some(NicAccess {
                grant,
                right,
                // No view is entered by a hypercall.
                exit_on_abort: exit_on_abort && right != Right::Hypercall,
            }),
            Mapped::Whole(_) => None,
        }
    }

    /// Tells on another thread when the NIC takes the port back, or its owner goes.
    ///
    /// # Errors
    ///
    /// When no descriptor or no thread is left.
    pub fn watch(&self, tell: impl FnOnce(&NicEnd) + Send + 'static) -> io::Result<NicWatch> {
        let end = self.tenancy.end()?;
        // Closing one side is what the other one waits for.
        let (stopped, stop) = io::pipe()?;
        let port = self.port();
        let wait = move || {
            let reason = end.wait(stopped.as_fd()).ok()??;
            let end = NicEnd { port, reason };
            tell(&end);
            Some(end)
        };
        Ok(NicWatch {
            stop: Some(stop),
            thread: Some(postern_confine::spawn(Kind::NicEnd, "nic-end", wait)?),
        })
    }

    /// The device that serves requests of the vCPU of that number, on the path `exit-user`.
    pub fn request_port(&self, vcpu: usize) -> Option<RequestPort> {
        match (self.path(), &self.mapped) {
            (CallPath::ExitUser, Mapped::Whole(memory)) => Some(RequestPort::new(
                Arc::clone(memory),
                Arc::clone(&self.bells),
                self.caller(),
                vcpu as u32,
            )),
            _ => None,
        }
    }
}

/// What has become of a VM's port while the VM ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicEnd {
    port: u32,
    reason: EndReason,
}

impl NicEnd {
    /// Whether the port is the VM's no more.
    pub fn is_revoked(&self) -> bool {
        matches!(self.reason, EndReason::Revoked(_))
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        json!({
            "revoked": self.is_revoked(),
            "message": self.to_string(),
        })
    }
}

impl fmt::Display for NicEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.reason {
            EndReason::Revoked(text) => write!(
                f,
                "the VM has lost its port of the NIC ({text}); it goes on without: calls of the \
                 NIC are aborted or refused"
            ),
            EndReason::OwnerGone => write!(
                f,
                "the NIC's owner has gone; port {port} goes on as long as its VM, with nobody to \
                 administer it"
            ),
        }
    }
}

/// A thread that waits for the end of a port's tenancy.
#[derive(Debug)]
pub struct NicWatch {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<Option<NicEnd>>>,
}

impl NicWatch {
    /// Waits no longer; gives what has become of the port until now.
    pub fn finish(mut self) -> Option<NicEnd> {
        self.join()
    }

    fn join(&mut self) -> Option<NicEnd> {
        self.stop = None;
        self.thread.take()?.join().unwrap_or(None)
    }
}

impl Drop for NicWatch {
    fn drop(&mut self) {
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_beyond_the_queues_are_refused_with_the_remedy() {
        let geometry = Geometry::new(2, 2, 1 << 16, 1 << 16).unwrap();
        for path in CallPath::ALL {
            assert!(check_vcpus(2, geometry, path).is_ok());
            assert_eq!(
                check_vcpus(3, geometry, path).is_ok(),
                path == CallPath::Direct,
                "{}",
                path.name()
            );
        }
        let message = |vcpus| {
            let refused = check_vcpus(vcpus, geometry, CallPath::Elisa);
            refused.unwrap_err().to_string()
        };
        let three = message(3);
        assert!(
            three.contains("not 3") && three.contains("--queues 3"),
            "{three}"
        );
        let many = message(200);
        assert!(
            many.contains("8 at most") && !many.contains("--queues"),
            "{many}"
        );
    }
}
