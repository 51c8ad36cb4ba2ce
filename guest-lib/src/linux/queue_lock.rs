//! Locks of a port's queues, between all processes of the VM.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use postern_abi::nic_device::BAR_WINDOW;
use postern_abi::window::Geometry;

use super::device::Device;
use super::error::Error;

/// The lock of some of a port's queues: a write lock of the open file (`fcntl`, F_OFD_SETLK) on the
/// bytes of the device's memory that have the queues' numbers in the whole NIC. It ends with the
/// value or the process.
#[derive(Debug)]
pub struct QueueLock {
    _file: File,
}

impl QueueLock {
    /// Locks `count` queues of the device's port from `first` on.
    ///
    /// # Errors
    ///
    /// [`Error::QueueInUse`] with `first`, or the kernel's refusal.
    pub fn new(
        device: &Device,
        geometry: Geometry,
        first: u32,
        count: u32,
    ) -> Result<QueueLock, Error> {
        let file = device.open_memory()?;
        // SAFETY: all bytes zero is a valid value of this structure of integers.
        let mut range: libc::flock = unsafe { std::mem::zeroed() };
        range.l_type = libc::F_WRLCK as libc::c_short;
        range.l_whence = libc::SEEK_SET as libc::c_short;
        range.l_start = geometry.rx_queue(device.description().port, first).into();
        range.l_len = count.into();
        // SAFETY: the descriptor is open, and the kernel reads the structure during the call alone.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range) };
        if result == 0 {
            return Ok(QueueLock { _file: file });
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Err(Error::QueueInUse(first)),
            _ => Err(Error::of(
                "lock a queue",
                device.resource(BAR_WINDOW),
                error,
            )),
        }
    }
}
