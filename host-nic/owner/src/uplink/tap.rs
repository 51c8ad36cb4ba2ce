//! A TAP: the host's network stack is the other side.
//!
//! A TAP that was made by `ip tuntap add` keeps what its last user has set, also after that user's
//! end (Linux kernel documentation, "Universal TUN/TAP device driver"; `tun_chr_ioctl` in
//! drivers/net/tun.c): the size and byte order of the header before each frame, offloads, an
//! address filter, socket and eBPF filters, a limit of its send buffer. [`TapDevice::open`] sets
//! all of these.

use std::ffi::{CStr, c_int, c_short, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use postern_abi::window::{FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, write};

use super::batch::Batch;
use super::device::{Device, Flushed, Received};
use super::error::{UplinkError, failed};
use super::link::{self, Link};
use super::offload::{self, Unusable};
use super::virtio_net;
use crate::frame_port::{BATCH, Frame};

const NEEDS: &str = "CAP_NET_ADMIN";

// Flags of TUNSETOFFLOAD (linux/if_tun.h): what the reader takes unfinished.
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// The features of TAPs before Linux 6.2, which do not know large UDP segments.
const FEATURES_WITHOUT_USO: u32 = FEATURE_CSUM | FEATURE_TSO4 | FEATURE_TSO6;

/// A TAP, up.
#[derive(Debug)]
pub struct TapDevice {
    link: Link,
    file: OwnedFd,
    features: u32,
    read: Batch,
    staged: Batch,
}

impl TapDevice {
    /// Makes the TAP `name`, or opens the persistent one of that name, brings it up and sets its
    /// MTU to `mtu` bytes if given. One that is made here is gone when this value is.
    ///
    /// # Errors
    ///
    /// The name is taken or impossible, or the kernel refuses.
    pub fn open(name: &str, mtu: Option<u32>) -> Result<TapDevice, UplinkError> {
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
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as c_short;
        // SAFETY: the request takes a `struct ifreq`.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result != 0 {
            return Err(refused(name, io::Error::last_os_error()));
        }
        // SAFETY: the kernel leaves a name that ends in zero.
        let actual = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
        let mut link = Link::find(&actual.to_string_lossy())?;
        let features =
            reset(&file).map_err(|source| failed("set up TAP", link.name(), NEEDS, source))?;
        if let Some(mtu) = mtu {
            link.set_mtu(mtu)?;
        }
        link.bring_up()?;
        link.check()?;
        Ok(TapDevice {
            link,
            file,
            features,
            read: Batch::new(),
            staged: Batch::new(),
        })
    }
}

impl Drop for TapDevice {
    /// Has the kernel finish all frames again: who opens a persistent TAP next may not know of
    /// offloads.
    fn drop(&mut self) {
        // The only TAPs that refuse are gone.
        let _ = set_offloads(&self.file, 0);
    }
}

/// Sets what a former user of a TAP may have left behind; gives the features that it can have.
fn reset(file: &OwnedFd) -> io::Result<u32> {
    set_int(file, libc::TUNSETVNETHDRSZ, virtio_net::SIZE as c_int)?;
    // Not every kernel knows these two, and one that does not has nothing to reset.
    let _ = set_int(file, libc::TUNSETVNETBE, 0);
    let _ = set_int(file, libc::TUNSETFILTEREBPF, -1);
    set_int(file, libc::TUNSETSNDBUF, c_int::MAX)?;
    // `struct tun_filter` without addresses: every frame passes.
    let filter = [0u16; 2];
    // SAFETY: the request reads a `struct tun_filter`, two 16-bit numbers if the second is zero.
    unsafe { ioctl(file, libc::TUNSETTXFILTER, (&raw const filter).cast()) }?;
    // SAFETY: the request does not look at its argument.
    unsafe { ioctl(file, libc::TUNDETACHFILTER, ptr::null()) }?;
    let features = match set_offloads(file, FEATURES_WITHOUT_USO | FEATURE_USO) {
        Ok(()) => FEATURES_WITHOUT_USO | FEATURE_USO,
        Err(_) => FEATURES_WITHOUT_USO,
    };
    set_offloads(file, 0)?;
    Ok(features)
}

/// Tells the kernel which kinds of unfinished frames are read; it finishes the others itself.
fn set_offloads(file: &OwnedFd, features: u32) -> io::Result<()> {
    let flags = [
        (FEATURE_CSUM, TUN_F_CSUM),
        (FEATURE_TSO4, TUN_F_TSO4 | TUN_F_TSO_ECN),
        (FEATURE_TSO6, TUN_F_TSO6 | TUN_F_TSO_ECN),
        (FEATURE_USO, TUN_F_USO4 | TUN_F_USO6),
    ];
    let chosen = flags.iter().filter(|(feature, _)| features & feature != 0);
    let flags = chosen.fold(0, |flags, (_, flag)| flags | flag);
    // SAFETY: the argument of this request is a number.
    unsafe {
        ioctl(
            file,
            libc::TUNSETOFFLOAD,
            ptr::without_provenance(flags as usize),
        )
    }
}

fn set_int(file: &OwnedFd, request: libc::Ioctl, value: c_int) -> io::Result<()> {
    // SAFETY: the requests of this module that are called so read an int.
    unsafe { ioctl(file, request, (&raw const value).cast()) }
}

/// Makes a request of a TAP.
///
/// # Safety
///
/// The argument is what the request takes, and the request writes nothing.
unsafe fn ioctl(file: &OwnedFd, request: libc::Ioctl, argument: *const c_void) -> io::Result<()> {
    // SAFETY: the caller vouches for the argument.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
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
            remedy: "an interface of this name exists and is no TAP of this kind (a TUN, or one \
                     with several queues); take another name",
            source,
        },
        _ => failed(step, name, NEEDS, source),
    }
}

impl Device for TapDevice {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn features(&self) -> u32 {
        self.features
    }

    fn accept(&mut self, features: u32) -> Result<(), UplinkError> {
        set_offloads(&self.file, features)
            .map_err(|source| self.link.broken("set the offloads of TAP", source))
    }

    fn receive(&mut self, deliver: &mut dyn FnMut(&[Frame<'_>])) -> Result<Received, UplinkError> {
        let mut found = Received::default();
        self.read.clear();
        for _ in 0..BATCH {
            let Some(next) = self.read.next_with_header() else {
                break;
            };
            // The length is that of the whole frame, also of one that was cut to the memory's size,
            // which is at least one byte more than the longest frame.
            let length = match read(&self.file, &mut *next) {
                Ok(length) => length.saturating_sub(virtio_net::SIZE),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(self.link.broken("read from TAP", errno.into())),
            };
            let parts = next.split_first_chunk_mut();
            let checked = match parts.map(|(header, rest)| (header, rest.get_mut(..length))) {
                Some((header, Some(frame))) => offload::check(virtio_net::decode(*header), frame),
                _ => Err(Unusable::TooLong),
            };
            match checked {
                Ok(header) => self.read.add(header, length),
                Err(reason) => found.count(reason),
            }
        }
        if !self.read.is_empty() {
            let mut list = [Frame::default(); BATCH];
            let count = self.read.list(&mut list);
            found.frames = count as u64;
            deliver(list.get(..count).unwrap_or_default());
        }
        Ok(found)
    }

    fn room(&mut self) -> usize {
        self.staged.room()
    }

    fn stage(&mut self, frame: Frame<'_>) {
        self.staged.push(frame);
    }

    fn flush(&mut self) -> Result<Flushed, UplinkError> {
        let mut done = Flushed::default();
        while let Some(bytes) = self.staged.front_with_header() {
            match write(&self.file, bytes) {
                Ok(length) => {
                    done.frames += 1;
                    done.bytes += length.saturating_sub(virtio_net::SIZE) as u64;
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

    /// Always 0: the interface's own counter (`tx_dropped` in `ip -s link`) has them, and also
    /// those of its time before this process.
    fn missed(&mut self) -> u64 {
        0
    }
}
