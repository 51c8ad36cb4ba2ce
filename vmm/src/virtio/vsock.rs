//! Sockets between host and guest: virtio-vsock, served by the host's kernel (virtio 1.2, "Socket
//! Device"; vhost-vsock).
#![deny(unsafe_code)]

use std::fmt;
use std::io;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;

use postern_confine::Kind;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::device::read_space;
use super::poll::Poll;
use super::relay::{Relay, event};
use super::vhost::{self, Vhost};
use super::{ActivateError, Activation, DeviceStatus, VirtioDevice};

/// The smallest address of a guest: those below are the hypervisor's and the host's (vsock(7)).
const MIN_CID: u32 = 3;

/// The largest one; the one above means any.
const MAX_CID: u32 = u32::MAX - 1;

/// Size of each queue: that of QEMU's.
const QUEUE_SIZE: u16 = 128;

/// Queues that the kernel serves: to receive and to transmit. The third one, of events, is for
/// migration alone.
const SERVED: usize = 2;

/// `VIRTIO_VSOCK_F_SEQPACKET` ("Socket Device", "Feature bits").
const SEQPACKET: u64 = 1 << 1;

/// Features that the kernel must know of.
const OF_BACKEND: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | SEQPACKET;

/// A virtio-vsock device: as text `cid=N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct VsockConfig {
    cid: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    cid: u32,
}

/// Why a text describes no vsock device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VsockConfigError {
    /// It is not `cid=N`.
    #[error("'{0}' is not known: give cid=N, the guest's address")]
    Unknown(String),
    /// No number.
    #[error("cid={0} is no number")]
    Number(String, #[source] ParseIntError),
    /// No guest can have it.
    #[error("cid={0} is no address of a guest: they are {MIN_CID} to {MAX_CID}")]
    Reserved(u32),
}

impl VsockConfig {
    /// A device for a guest of that address (CID).
    ///
    /// # Errors
    ///
    /// No guest can have it.
    pub fn new(cid: u32) -> Result<VsockConfig, VsockConfigError> {
        match cid {
            MIN_CID..=MAX_CID => Ok(VsockConfig { cid }),
            _ => Err(VsockConfigError::Reserved(cid)),
        }
    }

    /// The guest's address.
    pub fn cid(self) -> u32 {
        self.cid
    }
}

impl TryFrom<Fields> for VsockConfig {
    type Error = VsockConfigError;

    fn try_from(fields: Fields) -> Result<VsockConfig, VsockConfigError> {
        VsockConfig::new(fields.cid)
    }
}

impl From<VsockConfig> for Fields {
    fn from(config: VsockConfig) -> Fields {
        Fields { cid: config.cid }
    }
}

impl FromStr for VsockConfig {
    type Err = VsockConfigError;

    fn from_str(text: &str) -> Result<VsockConfig, VsockConfigError> {
        let number = text
            .strip_prefix("cid=")
            .ok_or_else(|| VsockConfigError::Unknown(text.to_owned()))?;
        let cid = number
            .parse()
            .map_err(|error| VsockConfigError::Number(number.to_owned(), error))?;
        VsockConfig::new(cid)
    }
}

impl fmt::Display for VsockConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cid={}", self.cid)
    }
}

/// Why there is no vsock device.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The kernel has no vhost-vsock.
    #[error(
        "cannot have a vsock device: there is no {path}; load the kernel module (modprobe \
         vhost_vsock)",
        path = vhost::VSOCK
    )]
    NoVhost(#[source] io::Error),
    /// It may not be used.
    #[error(
        "cannot open {path}: not permitted; run as root or as one who may read and write it \
         (ls -l {path})",
        path = vhost::VSOCK
    )]
    Denied(#[source] io::Error),
    /// Another VM has the address.
    #[error("cid={0} is another VM's; give this one another")]
    Busy(u32),
    /// The kernel refused.
    #[error("cannot {0} vhost-vsock")]
    Vhost(&'static str, #[source] io::Error),
}

impl VsockError {
    /// Whether it is a matter of what was asked for, or of the host's set-up, and not of the VMM.
    pub fn is_configuration(&self) -> bool {
        !matches!(self, VsockError::Vhost(..))
    }
}

/// A virtio-vsock device.
pub struct Vsock {
    cid: u32,
    vhost: Vhost,
    features: u64,
    running: Option<(EventFd, JoinHandle<()>)>,
}

impl fmt::Debug for Vsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vsock")
            .field("cid", &self.cid)
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}

impl Vsock {
    /// Opens vhost-vsock, and takes the address.
    ///
    /// # Errors
    ///
    /// There is no vhost-vsock, or the address is another VM's.
    pub fn open(config: VsockConfig) -> Result<Vsock, VsockError> {
        let vhost = Vhost::open(vhost::VSOCK).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => VsockError::NoVhost(source),
            Some(libc::EACCES | libc::EPERM) => VsockError::Denied(source),
            _ => VsockError::Vhost("open", source),
        })?;
        let backend = vhost
            .prepare(&GuestMemoryMmap::new())
            .map_err(|source| VsockError::Vhost("prepare", source))?;
        vhost
            .set_guest_cid(config.cid.into())
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EADDRINUSE) => VsockError::Busy(config.cid),
                _ => VsockError::Vhost("give the guest's address to", source),
            })?;
        Ok(Vsock {
            cid: config.cid,
            vhost,
            features: backend & OF_BACKEND,
            running: None,
        })
    }

    fn start(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            features,
            queues,
            config_changed: _,
            status,
        } = activation;
        let fail = |what: &str, source| ActivateError {
            what: format!("{what} vhost-vsock"),
            source,
        };
        self.vhost
            .set_up(&memory, features & OF_BACKEND)
            .map_err(|source| fail("set up", source))?;
        let mut relay = Relay::default();
        for (index, active) in queues.iter().take(SERVED).enumerate() {
            let Some(active) = active else {
                return Err(fail("start", io::ErrorKind::InvalidInput.into()));
            };
            relay
                .add(&self.vhost, &memory, (index, index), active)
                .map_err(|source| fail("give a queue to", source))?;
        }
        let stop = event().map_err(|source| fail("stop", source))?;
        let stopping = stop.try_clone().map_err(|source| fail("stop", source))?;
        let poll = Poll::new().map_err(|source| fail("watch", source))?;
        poll.add(&stopping, 0, false)
            .and_then(|()| relay.watch(&poll, 1))
            .map_err(|source| fail("watch", source))?;
        let run = move || {
            let _stopping = stopping;
            look_after(&relay, &poll, &status);
        };
        let thread = postern_confine::spawn(Kind::Net, "vsock", run)
            .map_err(|source| fail("start a thread for", source))?;
        self.running = Some((stop, thread));
        self.vhost
            .set_running(true)
            .map_err(|source| fail("start", source))
    }
}

/// Passes on what the kernel cannot tell the driver, until the event 0.
fn look_after(relay: &Relay, poll: &Poll, status: &Arc<dyn DeviceStatus>) {
    let (mut stopped, mut fault) = (false, None);
    while !stopped && fault.is_none() {
        let waited = poll.changes(true, &mut |change| match change.number.checked_sub(1) {
            None => stopped = true,
            Some(number) => {
                if let Err(error) = relay.pass_on(number) {
                    fault = Some(error.to_string());
                }
            }
        });
        if let Err(error) = waited {
            fault = Some(format!("the host refused to wait ({error})"));
        }
    }
    if let (false, Some(fault)) = (stopped, fault) {
        status.needs_reset(&fault);
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u16 {
        VIRTIO_ID_VSOCK as u16
    }

    fn features(&self) -> u64 {
        self.features & !(1 << VIRTIO_F_VERSION_1)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; SERVED + 1]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let started = self.start(activation);
        if started.is_err() {
            self.reset();
        }
        started
    }

    fn reset(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            // It refuses only what was not begun.
            let _ = self.vhost.set_running(false);
            // The counter of an event that is written once cannot be full.
            let _ = stop.write(1);
            // A thread that panicked touches nothing any more either.
            let _ = thread.join();
        }
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written() {
        let config: VsockConfig = "cid=3".parse().unwrap();
        assert_eq!((config.cid(), config.to_string()), (3, "cid=3".to_owned()));
        let toml = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<VsockConfig>(&toml).unwrap(), config);
        for (text, part) in [
            ("3", "'3' is not known"),
            ("cid=", "cid= is no number"),
            ("cid=2", "they are 3 to 4294967294"),
            ("cid=4294967295", "they are 3 to 4294967294"),
            ("cid=4294967296", "is no number"),
        ] {
            let error = text.parse::<VsockConfig>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = toml::from_str::<VsockConfig>("cid = 1").unwrap_err();
        assert!(
            error.to_string().contains("no address of a guest"),
            "{error}"
        );
    }

    #[test]
    fn a_kernel_without_it_is_named() {
        match Vsock::open(VsockConfig::new(3).unwrap()) {
            Ok(device) => {
                let mut config = [0xff; 9];
                device.read_config(0, &mut config);
                assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0]);
                let second = Vsock::open(VsockConfig::new(3).unwrap()).unwrap_err();
                assert!(second.to_string().contains("another VM's"), "{second}");
            }
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.contains("modprobe") || text.contains("not permitted"),
                    "{text}"
                );
            }
        }
    }
}
