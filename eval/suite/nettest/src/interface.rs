//! Calls of network interfaces and packet sockets that no library has.

use std::ffi::{c_char, c_short};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The most frames of one call.
pub const MAX_BATCH: usize = 64;

/// The longest frame in bytes, and one more.
const ROOM: usize = 9100;

/// A packet socket for frames of one protocol on one interface.
pub struct Packets {
    socket: OwnedFd,
    buffers: Vec<[u8; ROOM]>,
}

impl Packets {
    /// The protocol: the first that IEEE 802 has set aside for experiments.
    pub const PROTOCOL: u16 = 0x88b5;

    /// Opens a socket whose calls wait for at most so long.
    pub fn open(name: &str, patience: Duration) -> Result<Packets> {
        let socket = socket(libc::AF_PACKET, Self::PROTOCOL.to_be().into())
            .context("opening a packet socket")?;
        // SAFETY: all zeros is a valid value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = Self::PROTOCOL.to_be();
        address.sll_ifindex = index(name)?;
        let wait = libc::timeval {
            tv_sec: patience.as_secs() as i64,
            tv_usec: 0,
        };
        let size = |bytes: usize| bytes as libc::socklen_t;
        // SAFETY: both calls read a structure of that size at the pointer.
        let done = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size(size_of_val(&address)),
            ) == 0
                && libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const wait).cast(),
                    size(size_of_val(&wait)),
                ) == 0
        };
        ensure!(done, "binding to {name}: {}", io::Error::last_os_error());
        Ok(Packets {
            socket,
            buffers: vec![[0; ROOM]; MAX_BATCH],
        })
    }

    /// Sends all frames.
    pub fn send(&self, frames: &[Vec<u8>]) -> Result<()> {
        let mut vectors: Vec<libc::iovec> = frames
            .iter()
            .map(|frame| libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let mut messages: Vec<_> = vectors.iter_mut().map(message).collect();
        let mut rest = messages.as_mut_slice();
        while !rest.is_empty() {
            // SAFETY: there are as many messages, each with one vector of bytes that live; the call
            // reads the bytes.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as u32,
                    0,
                )
            };
            if sent < 0 {
                return Err(io::Error::last_os_error()).context("sending");
            }
            rest = &mut rest[sent as usize..];
        }
        Ok(())
    }

    /// Waits for frames, and gives those that are there; of each at most the first `most` bytes.
    pub fn receive(&mut self, most: usize) -> Result<impl Iterator<Item = &[u8]>> {
        ensure!(most <= ROOM, "no frame has {most} bytes");
        let mut vectors: Vec<libc::iovec> = self
            .buffers
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: most,
            })
            .collect();
        let mut messages: Vec<_> = vectors.iter_mut().map(message).collect();
        // SAFETY: there are as many messages, each with one vector of a buffer with room for `most`
        // bytes; nobody else has the buffers.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error()).context("receiving");
        }
        let lengths: Vec<usize> = messages
            .iter()
            .take(count as usize)
            .map(|message| message.msg_len as usize)
            .collect();
        let buffers = self.buffers.iter();
        Ok(buffers.zip(lengths).map(|(buffer, len)| &buffer[..len]))
    }
}

/// A message of one vector.
fn message(vector: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
    message.msg_hdr.msg_iov = vector;
    message.msg_hdr.msg_iovlen = 1;
    message
}

fn socket(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    let kind = match family {
        libc::AF_PACKET => libc::SOCK_RAW,
        _ => libc::SOCK_DGRAM,
    };
    // SAFETY: the call takes three numbers, and touches no memory of this process.
    match unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor was just made, and is nobody else's.
        socket => Ok(unsafe { OwnedFd::from_raw_fd(socket) }),
    }
}

fn index(name: &str) -> Result<i32> {
    let path = format!("/sys/class/net/{name}/ifindex");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.trim().parse().context("an index of an interface")
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = libc::IFNAMSIZ - 1;
    for (to, &byte) in request.ifr_name.iter_mut().zip(name.as_bytes()).take(room) {
        *to = byte as c_char;
    }
    request
}

/// Makes a TAP of one queue that is there until somebody removes it.
pub fn make_tap(name: &str) -> Result<()> {
    let path = "/dev/net/tun";
    let file = File::options().read(true).write(true).open(path);
    let file = file.with_context(|| format!("opening {path}"))?;
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as c_short;
    // SAFETY: the first request takes a `struct ifreq`, the second a number.
    let done = unsafe {
        libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) == 0
            && libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1) == 0
    };
    ensure!(done, "making TAP {name}: {}", io::Error::last_os_error());
    Ok(())
}

/// Brings an interface up.
pub fn bring_up(name: &str) -> Result<()> {
    let socket = socket(libc::AF_INET, 0).context("opening a socket")?;
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
    let number = libc::SIOCSIFFLAGS as libc::Ioctl;
    // SAFETY: the request reads a `struct ifreq`.
    match unsafe { libc::ioctl(socket.as_raw_fd(), number, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("bringing {name} up")),
    }
}
