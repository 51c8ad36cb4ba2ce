//! Opening and binding AF_XDP sockets.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::super::error::{UplinkError, failed};
use super::super::link::Link;

/// Capabilities that an AF_XDP uplink needs.
pub(super) const NEEDS: &str = "CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF";

/// For how long a queue that is in use may be one whose socket has ended.
const RELEASE: Duration = Duration::from_secs(1);

/// The way of frames between the driver and the UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Zero-copy if the driver can do it, else copied.
    Auto,
    /// The kernel copies: every driver.
    Copy,
    /// The interface reads and writes the UMEM: some drivers of hardware.
    ZeroCopy,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Auto => "auto",
            Mode::Copy => "copy",
            Mode::ZeroCopy => "zero-copy",
        })
    }
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Mode, ()> {
        match text {
            "auto" => Ok(Mode::Auto),
            "copy" => Ok(Mode::Copy),
            "zero-copy" => Ok(Mode::ZeroCopy),
            _ => Err(()),
        }
    }
}

/// Opens an AF_XDP socket, bound to nothing.
pub(super) fn open_socket(interface: &str) -> Result<OwnedFd, UplinkError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::XDP, SocketType::RAW, flags, None).map_err(|errno| match errno {
        Errno::AFNOSUPPORT => UplinkError::Unsupported {
            step: "open an AF_XDP socket for",
            interface: interface.into(),
            remedy: "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS); use packet:INTERFACE",
            source: errno.into(),
        },
        _ => failed("open an AF_XDP socket for", interface, NEEDS, errno.into()),
    })
}

/// Binds the socket. The kernel frees the queue of a socket some time after its end, so one that is
/// in use is tried again.
fn bind_when_free(socket: &OwnedFd, address: &SocketAddrXdp) -> Result<(), Errno> {
    let start = Instant::now();
    loop {
        match bind(socket, address) {
            Err(Errno::BUSY) if start.elapsed() < RELEASE => thread::sleep(RELEASE / 100),
            result => return result,
        }
    }
}

/// Binds the socket; whether frames may have several chunks.
pub(super) fn bind_to(
    link: &mut Link,
    socket: &OwnedFd,
    queue: u32,
    mode: Mode,
) -> Result<bool, UplinkError> {
    let how = match mode {
        Mode::Auto => SocketAddrXdpFlags::empty(),
        Mode::Copy => SocketAddrXdpFlags::XDP_COPY,
        Mode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
    } | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    let mut refusal = Errno::OPNOTSUPP;
    for several in [SocketAddrXdpFlags::XDP_USE_SG, SocketAddrXdpFlags::empty()] {
        let address = SocketAddrXdp::new(how | several, link.index(), queue);
        match bind_when_free(socket, &address) {
            Ok(()) => return Ok(!several.is_empty()),
            Err(errno) => refusal = errno,
        }
        if refusal == Errno::BUSY {
            break;
        }
    }
    let step = "bind an AF_XDP socket to";
    let interface = link.name().to_owned();
    let unsupported = |remedy| {
        Err(UplinkError::Unsupported {
            step,
            interface: interface.clone(),
            remedy,
            source: refusal.into(),
        })
    };
    match refusal {
        Errno::BUSY => Err(UplinkError::Busy {
            step,
            interface,
            remedy: "another AF_XDP socket has this queue; end its owner or take another queue",
        }),
        Errno::OPNOTSUPP | Errno::PROTONOSUPPORT if mode == Mode::ZeroCopy => {
            unsupported("its driver has no zero-copy; use mode=auto or mode=copy")
        }
        Errno::INVAL => unsupported(
            "it has no such queue, or its driver no such mode; take a queue that `ethtool -l` \
             shows, counted from 0, and mode=copy",
        ),
        _ => Err(link.broken(step, io::Error::from(refusal))),
    }
}
