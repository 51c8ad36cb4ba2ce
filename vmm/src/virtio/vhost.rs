//! Devices whose queues the host's kernel serves (vhost: `VHOST_*` in linux/vhost.h).
//!
//! Of the crate `vhost` this uses all but its opening of devices, since a descriptor may also be
//! inherited.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::vhost_binding::{
    VHOST_NET_SET_BACKEND, VHOST_VSOCK_SET_GUEST_CID, VHOST_VSOCK_SET_RUNNING, vhost_vring_file,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;

/// The device for networks: one queue pair each time that it is opened.
pub(super) const NET: &str = "/dev/vhost-net";

/// The device for sockets between host and guest.
pub(super) const VSOCK: &str = "/dev/vhost-vsock";

/// An open vhost device.
pub(super) struct Vhost {
    file: File,
}

/// What the device and the driver have in one of its two queues.
pub(super) struct Vring<'a> {
    /// The rings.
    pub(super) queue: &'a Queue,
    /// Notifications of the driver.
    pub(super) kick: &'a EventFd,
    /// Notifications to the driver.
    pub(super) call: &'a EventFd,
    /// Written when the driver breaks the queue.
    pub(super) error: &'a EventFd,
}

/// The device together with the guest's memory.
struct WithMemory<'a> {
    device: &'a Vhost,
    memory: &'a GuestMemoryMmap,
}

impl Vhost {
    /// Opens a device.
    ///
    /// # Errors
    ///
    /// There is none, or it may not be opened.
    pub(super) fn open(path: &str) -> io::Result<Vhost> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.custom_flags(libc::O_CLOEXEC).open(path)?;
        Ok(Vhost { file })
    }

    /// The device of an inherited descriptor.
    ///
    /// # Errors
    ///
    /// There is no such descriptor.
    pub(super) fn inherit(descriptor: RawFd) -> io::Result<Vhost> {
        // SAFETY: F_GETFD takes any number, and touches no memory.
        if descriptor < 0 || unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: it was open just now, and nothing closes it while it is borrowed: descriptors that
        // the process inherited have no owner in it.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let file = borrowed.try_clone_to_owned()?.into();
        Ok(Vhost { file })
    }

    /// Makes this process the one whose memory and threads the device works with; gives the features
    /// that it has.
    ///
    /// # Errors
    ///
    /// It is no vhost device, or somebody else's.
    pub(super) fn prepare(&self, memory: &GuestMemoryMmap) -> io::Result<u64> {
        let device = self.with(memory);
        let features = device.get_features().map_err(plain)?;
        device.set_owner().map_err(plain)?;
        Ok(features)
    }

    /// Gives the device its features and the guest's memory.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn set_up(&self, memory: &GuestMemoryMmap, features: u64) -> io::Result<()> {
        let device = self.with(memory);
        device.set_features(features).map_err(plain)?;
        let regions: Vec<_> = memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo {
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
                ..Default::default()
            })
            .collect();
        device.set_mem_table(&regions).map_err(plain)?;
        Ok(())
    }

    /// Gives the device queue `index`, in both kinds of devices 0 to receive and 1 to transmit.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn set_vring(
        &self,
        memory: &GuestMemoryMmap,
        index: usize,
        vring: &Vring<'_>,
    ) -> io::Result<()> {
        let device = self.with(memory);
        let queue = vring.queue;
        let config = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: queue.desc_table(),
            used_ring_addr: queue.used_ring(),
            avail_ring_addr: queue.avail_ring(),
            log_addr: None,
        };
        device.set_vring_num(index, queue.size()).map_err(plain)?;
        device
            .set_vring_base(index, queue.next_avail())
            .map_err(plain)?;
        device.set_vring_addr(index, &config).map_err(plain)?;
        device.set_vring_err(index, vring.error).map_err(plain)?;
        device.set_vring_call(index, vring.call).map_err(plain)?;
        device.set_vring_kick(index, vring.kick).map_err(plain)
    }

    /// Has queue `index` of a device for networks work with a TAP, or with nothing: then the kernel has stopped when this
    /// returns (`vhost_net_set_backend`).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn set_backend(&self, index: usize, tap: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let file = vhost_vring_file {
            index: index as u32,
            fd: tap.map_or(-1, |tap| tap.as_raw_fd()),
        };
        // SAFETY: the request reads a `struct vhost_vring_file`.
        match unsafe { ioctl_with_ref(&self.file, VHOST_NET_SET_BACKEND(), &file) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Gives a device for sockets the guest's address.
    ///
    /// # Errors
    ///
    /// Another VM has it, or no guest can.
    pub(super) fn set_guest_cid(&self, cid: u64) -> io::Result<()> {
        // SAFETY: the request reads a 64-bit number.
        match unsafe { ioctl_with_ref(&self.file, VHOST_VSOCK_SET_GUEST_CID(), &cid) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has a device for sockets begin to work, or stop: then the kernel has stopped when this returns
    /// (`vhost_vsock_stop`).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn set_running(&self, running: bool) -> io::Result<()> {
        let running = c_int::from(running);
        // SAFETY: the request reads an int.
        match unsafe { ioctl_with_ref(&self.file, VHOST_VSOCK_SET_RUNNING(), &running) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn with<'a>(&'a self, memory: &'a GuestMemoryMmap) -> WithMemory<'a> {
        WithMemory {
            device: self,
            memory,
        }
    }
}

impl AsRawFd for WithMemory<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.device.file.as_raw_fd()
    }
}

impl<'a> VhostKernBackend for WithMemory<'a> {
    type AS = &'a GuestMemoryMmap;

    fn mem(&self) -> &Self::AS {
        &self.memory
    }

    /// The transport has checked the rings.
    fn is_valid(&self, _: &VringConfigData) -> bool {
        true
    }
}

/// The system's error in one of the crate `vhost`.
fn plain(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::IoctlError(error)
        | vhost::Error::IOError(error)
        | vhost::Error::VhostOpen(error) => error,
        other => io::Error::other(other),
    }
}
