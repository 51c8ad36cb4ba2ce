//! A TAP: the host's network stack is the other side.

use std::ffi::{CStr, c_short};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, write};

use super::arena::Arena;
use super::error::{UplinkError, failed};
use super::link::{self, Link};
use super::{BATCH, Device, Flushed, MAX_FRAME, MIN_FRAME, Received};

const NEEDS: &str = "CAP_NET_ADMIN";

/// A TAP, up, with whole frames: no packet information, no offloads, so that the kernel completes
/// checksums, cuts segments and puts VLAN tags in before a frame is read.
#[derive(Debug)]
pub struct Tap {
    link: Link,
    file: OwnedFd,
    read: Arena,
    staged: Arena,
}

impl Tap {
    /// Makes the TAP `name`, or opens the persistent one of that name, brings it up and sets its MTU
    /// to `mtu` bytes if given. One that is made here is gone when this value is.
    ///
    /// # Errors
    /// When the name is taken or impossible, or the kernel refuses.
    pub fn open(name: &str, mtu: Option<u32>) -> Result<Tap, UplinkError> {
        link::check_name(name)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open("/dev/net/tun", flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => UplinkError::Unsupported {
                step: "make TAP",
                interface: name.into(),
                remedy: "there is no /dev/net/tun; load the kernel module tun",
                source: errno.into(),
            },
            _ => failed("open /dev/net/tun for TAP", name, NEEDS, errno.into()),
        })?;
        let mut request = link::request(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as c_short;
        // SAFETY: the request takes a `struct ifreq`.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result != 0 {
            return Err(refused(name, io::Error::last_os_error()));
        }
        // SAFETY: the kernel leaves a name that ends in zero.
        let actual = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
        let mut link = Link::find(&actual.to_string_lossy())?;
        if let Some(mtu) = mtu {
            link.set_mtu(mtu)?;
        }
        link.bring_up()?;
        link.check()?;
        Ok(Tap {
            link,
            file,
            read: Arena::new(),
            staged: Arena::new(),
        })
    }
}

fn refused(name: &str, source: io::Error) -> UplinkError {
    let step = "make or open TAP";
    match source.raw_os_error() {
        Some(libc::EBUSY) => UplinkError::Busy {
            step,
            interface: name.into(),
            remedy: "end the program that uses it, or take another name",
        },
        Some(libc::EINVAL | libc::EEXIST) => UplinkError::Unsupported {
            step,
            interface: name.into(),
            remedy: "an interface of this name exists and is no TAP of this kind (a TUN, or one with \
                     several queues); take another name",
            source,
        },
        _ => failed(step, name, NEEDS, source),
    }
}

impl Device for Tap {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn receive(&mut self, deliver: &mut dyn FnMut(&[&[u8]])) -> Result<Received, UplinkError> {
        let mut found = Received::default();
        self.read.clear();
        for _ in 0..BATCH {
            let Some(slot) = self.read.next() else { break };
            match read(&self.file, &mut slot[..]) {
                // The whole length even of a frame that was cut to the size of the buffer, at least
                // of one byte more than the longest.
                Ok(length) if length > MAX_FRAME => found.too_long += 1,
                Ok(length) if length < MIN_FRAME => found.too_short += 1,
                Ok(length) => self.read.add(length),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.link.broken("read from TAP", errno.into())),
            }
        }
        if !self.read.is_empty() {
            let mut list: [&[u8]; BATCH] = [&[]; BATCH];
            let count = self.read.list(&mut list);
            found.frames = count as u64;
            deliver(list.get(..count).unwrap_or_default());
        }
        Ok(found)
    }

    fn room(&mut self) -> usize {
        self.staged.room()
    }

    fn stage(&mut self, frame: &[u8]) {
        self.staged.push(frame);
    }

    fn flush(&mut self) -> Result<Flushed, UplinkError> {
        let mut done = Flushed::default();
        while let Some(frame) = self.staged.front() {
            match write(&self.file, frame) {
                Ok(length) => {
                    done.frames += 1;
                    done.bytes += length as u64;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(Errno::INVAL | Errno::NOMEM | Errno::NOBUFS) => done.refused += 1,
                Err(errno) => return Err(self.link.broken("write to TAP", errno.into())),
            }
            self.staged.pop();
        }
        Ok(done)
    }

    fn waits_to_send(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Always 0: the interface's own counter (`tx_dropped` in `ip -s link`) has them, and also those
    /// of its time before this process.
    fn missed(&mut self) -> u64 {
        0
    }
}
