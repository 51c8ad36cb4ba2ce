//! One queue of a TAP.
//!
//! A TAP that was made by `ip tuntap add` keeps what its last user has set, also after that user's
//! end: the size and byte order of the header before each frame, offloads, an address filter, a
//! socket filter, eBPF programs that filter frames and choose queues. [`Tap::reset`] sets all of
//! these, and the limit of the send buffer. What `ip link` shows of a TAP is its administrator's: MTU,
//! queueing discipline, XDP program ([`Interface::xdp_notice`]).

use std::ffi::{CStr, c_int, c_short, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::error::TapError;
use crate::interface::{Interface, check, request};

/// What the reader of a TAP takes unfinished: flags of `TUNSETOFFLOAD` (linux/if_tun.h).
pub mod offload {
    /// Frames whose checksum is to be filled in.
    pub const CSUM: u32 = 0x01;
    /// Large TCP segments over IPv4; needs [`CSUM`].
    pub const TSO4: u32 = 0x02;
    /// Large TCP segments over IPv6; needs [`CSUM`].
    pub const TSO6: u32 = 0x04;
    /// Large TCP segments with the ECN bit; needs [`TSO4`] or [`TSO6`].
    pub const TSO_ECN: u32 = 0x08;
    /// Large UDP segments over IPv4, from Linux 6.2; needs [`USO6`].
    pub const USO4: u32 = 0x20;
    /// Large UDP segments over IPv6, from Linux 6.2; needs [`USO4`].
    pub const USO6: u32 = 0x40;
}

/// Whether a TAP is made for one queue or for several. One that exists is opened as what it is made
/// for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One queue: one open file.
    OneQueue,
    /// A file for each queue (`IFF_MULTI_QUEUE`).
    MultiQueue,
}

impl Kind {
    fn flag(self) -> c_int {
        match self {
            Kind::OneQueue => 0,
            Kind::MultiQueue => libc::IFF_MULTI_QUEUE,
        }
    }
}

/// One queue of a TAP: each read and write is one frame, behind a `struct virtio_net_hdr`. Reads and
/// writes do not wait. A TAP that was made by opening it is gone when its last queue is closed.
#[derive(Debug)]
pub struct Tap {
    file: OwnedFd,
    name: String,
    /// Whether it is a queue of a macvtap, which has fewer settings.
    macvtap: bool,
}

impl Tap {
    /// Makes the TAP `name`, or opens the persistent one of that name; which, and which name it has
    /// got, says the kernel.
    ///
    /// # Errors
    ///
    /// The name is taken or impossible, or the kernel refuses.
    pub fn open(name: &str, kind: Kind) -> Result<Tap, TapError> {
        check(name)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open("/dev/net/tun", flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => TapError::NoDriver {
                name: name.into(),
                source: errno.into(),
            },
            _ => TapError::new("open /dev/net/tun for TAP", name, errno.into()),
        })?;
        let mut request = request(name);
        // Without IFF_NOFILTER the kernel would look for a former user's socket filter in the memory of
        // this process (`tun_attach`).
        let flags =
            libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_NOFILTER | kind.flag();
        request.ifr_ifru.ifru_flags = flags as c_short;
        // SAFETY: the request takes a `struct ifreq`.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result != 0 {
            return Err(refused(name, io::Error::last_os_error()));
        }
        // SAFETY: the kernel leaves a name that ends in zero.
        let actual = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
        Ok(Tap {
            file,
            name: actual.to_string_lossy().into_owned(),
            macvtap: false,
        })
    }

    /// The queue of a macvtap that an open file is.
    pub(crate) fn of_macvtap(file: OwnedFd, name: &str) -> Result<Tap, TapError> {
        let mut request = request(name);
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        request.ifr_ifru.ifru_flags = flags as c_short;
        // SAFETY: the request takes a `struct ifreq`.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result != 0 {
            return Err(refused(name, io::Error::last_os_error()));
        }
        let name = name.to_owned();
        Ok(Tap {
            file,
            name,
            macvtap: true,
        })
    }

    /// Opens `queues` queues of the TAP `name`, which nobody else has open. One queue is also opened
    /// of a TAP that is made for several.
    ///
    /// # Errors
    ///
    /// As [`Tap::open`]; also when the TAP exists and is made for one queue only.
    pub fn open_queues(name: &str, queues: usize) -> Result<Vec<Tap>, TapError> {
        // The kernel lets any number of programs open queues of one TAP.
        if Interface::new(name)?.carrier() {
            return Err(TapError::Busy { name: name.into() });
        }
        if queues > 1 {
            let opened = (0..queues).map(|_| Tap::open(name, Kind::MultiQueue));
            return opened.collect::<Result<_, _>>().map_err(|error| {
                let one = || Tap::open(name, Kind::OneQueue).is_ok();
                match error {
                    TapError::OtherKind { name: n, .. } if one() => {
                        TapError::OneQueue { name: n, queues }
                    }
                    error => error,
                }
            });
        }
        match Tap::open(name, Kind::OneQueue) {
            Ok(tap) => Ok(vec![tap]),
            Err(error @ TapError::OtherKind { .. }) => match Tap::open(name, Kind::MultiQueue) {
                Ok(tap) => Ok(vec![tap]),
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The name that the TAP has got.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets what a former user of the TAP may have left behind. From then on each frame has a header
    /// of `header` bytes before it, 10 or more, in the host's byte order, of which the kernel reads
    /// and writes the first 10; the kernel finishes all frames itself.
    ///
    /// # Errors
    ///
    /// The kernel's: the TAP is gone, or this is a queue of one that the process may not set up.
    pub fn reset(&self, header: usize) -> io::Result<()> {
        self.set_int(libc::TUNSETVNETHDRSZ, header as c_int)?;
        // Not every kernel knows these, and one that does not has nothing to reset.
        let _ = self.set_int(libc::TUNSETVNETBE, 0);
        if self.macvtap {
            self.set_int(libc::TUNSETSNDBUF, c_int::MAX)?;
            return self.set_offloads(0);
        }
        let _ = self.set_int(libc::TUNSETFILTEREBPF, -1);
        let _ = self.set_int(libc::TUNSETSTEERINGEBPF, -1);
        self.set_int(libc::TUNSETSNDBUF, c_int::MAX)?;
        // `struct tun_filter` without addresses: every frame passes.
        let filter = [0u16; 2];
        // SAFETY: the request reads a `struct tun_filter`, two 16-bit numbers if the second is zero.
        unsafe { self.ioctl(libc::TUNSETTXFILTER, (&raw const filter).cast()) }?;
        // SAFETY: the request does not look at its argument.
        unsafe { self.ioctl(libc::TUNDETACHFILTER, ptr::null()) }?;
        self.set_offloads(0)
    }

    /// Tells the kernel which kinds of unfinished frames are read, as flags of [`offload`]; it
    /// finishes the others itself.
    ///
    /// # Errors
    ///
    /// The kernel does not know one of them, or one needs another.
    pub fn set_offloads(&self, flags: u32) -> io::Result<()> {
        let argument = ptr::without_provenance(flags as usize);
        // SAFETY: the argument of this request is a number.
        unsafe { self.ioctl(libc::TUNSETOFFLOAD, argument) }
    }

    /// Has the kernel put frames into this queue, or not, if the TAP has several.
    ///
    /// # Errors
    ///
    /// The kernel's: this is so already, or the TAP has one queue only.
    pub fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        let mut request = request(&self.name);
        let flag = match enabled {
            true => libc::IFF_ATTACH_QUEUE,
            false => libc::IFF_DETACH_QUEUE,
        };
        request.ifr_ifru.ifru_flags = flag as c_short;
        // SAFETY: the request reads a `struct ifreq`.
        unsafe { self.ioctl(libc::TUNSETQUEUE, (&raw const request).cast()) }
    }

    /// Has the interface stay when the last queue is closed, or not.
    ///
    /// # Errors
    ///
    /// The kernel's: the TAP is gone.
    pub fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        let argument = ptr::without_provenance(persistent.into());
        // SAFETY: the argument of this request is a number.
        unsafe { self.ioctl(libc::TUNSETPERSIST, argument) }
    }

    fn set_int(&self, request: libc::Ioctl, value: c_int) -> io::Result<()> {
        // SAFETY: the requests of this module that are made so read an int.
        unsafe { self.ioctl(request, (&raw const value).cast()) }
    }

    /// Makes a request.
    ///
    /// # Safety
    ///
    /// The argument is what the request takes, and the request writes nothing.
    unsafe fn ioctl(&self, request: libc::Ioctl, argument: *const c_void) -> io::Result<()> {
        // SAFETY: the caller vouches for the argument.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Tap {
    /// Has the kernel finish all frames again: who opens a persistent TAP next may not know of
    /// offloads.
    fn drop(&mut self) {
        // The only TAPs that refuse are gone.
        let _ = self.set_offloads(0);
    }
}

fn refused(name: &str, source: io::Error) -> TapError {
    match source.raw_os_error() {
        Some(libc::EBUSY) => TapError::Busy { name: name.into() },
        Some(libc::EINVAL | libc::EEXIST) => TapError::OtherKind {
            name: name.into(),
            source,
        },
        _ => TapError::new("make or open TAP", name, source),
    }
}
