//! Who still has a port's memory: locks that live as long as what a tenant was given.
//!
//! A tenant gets memfds by open file descriptions of its own, and each of these has a lock (an
//! "open file description lock", fcntl(2)) on one byte that stands for the port. The kernel removes
//! the lock when the description goes, that is when the last descriptor of it is closed and the
//! last mapping made by one is gone, in whatever process: in the tenant, in one that it left them
//! to, or in a message that nobody has read. So the lock tells the end of a port's use also where
//! the tenant's process has handed on what it had. A process that takes the lock away itself, or
//! opens the memory anew, is not found out; its own end is waited for besides.
#![deny(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use postern_abi::window::PortId;

/// Opens a memfd anew, for reading and writing, as nobody else has it.
fn reopen(memory: BorrowedFd<'_>) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    File::options().read(true).write(true).open(path)
}

/// A lock for writing on the byte of a port.
fn lock_of(port: PortId) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: port.number().into(),
        l_len: 1,
        l_pid: 0,
    }
}

#[allow(unsafe_code, reason = "rustix has no locks of open file descriptions")]
fn fcntl_lock(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: both commands read and write the structure, which is borrowed throughout.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor of a memfd to give to a tenant of a port: [`is_possessed`] until nobody has it.
///
/// # Errors
///
/// The system refuses, or somebody has one already.
pub(super) fn hand_out(memory: BorrowedFd<'_>, port: PortId) -> io::Result<OwnedFd> {
    let file = reopen(memory)?;
    fcntl_lock(&file, libc::F_OFD_SETLK, &mut lock_of(port))?;
    Ok(file.into())
}

/// Whether somebody still has a descriptor of a memfd that was handed out to a tenant of a port, or
/// memory that was mapped by one.
///
/// # Errors
///
/// The system does not tell.
pub(super) fn is_possessed(memory: BorrowedFd<'_>, port: PortId) -> io::Result<bool> {
    let mut lock = lock_of(port);
    fcntl_lock(&reopen(memory)?, libc::F_OFD_GETLK, &mut lock)?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use postern_nic_client::mapping::Mapping;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn memory_is_possessed_until_the_last_descriptor_and_mapping_are_gone() {
        let memory = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, 4096).unwrap();
        let [one, other] = [1, 255].map(|number| PortId::new(number).unwrap());
        let possessed = || [one, other].map(|port| is_possessed(memory.as_fd(), port).unwrap());
        assert_eq!(possessed(), [false, false]);
        let first = hand_out(memory.as_fd(), one).unwrap();
        assert_eq!(possessed(), [true, false]);
        assert!(hand_out(memory.as_fd(), one).is_err(), "one at a time");
        let second = hand_out(memory.as_fd(), other).unwrap();
        let copy = first.try_clone().unwrap();
        drop(first);
        assert_eq!(possessed(), [true, true]);
        let mapping = Mapping::reserve(4096).unwrap();
        mapping.map(0, 4096, &copy, 0).unwrap();
        drop((copy, second));
        assert_eq!(possessed(), [true, false], "it is mapped");
        drop(mapping);
        assert_eq!(possessed(), [false, false]);
    }
}
