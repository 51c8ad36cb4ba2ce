//! AF_XDP: frames of one queue of an interface, exchanged with its driver through memory (UMEM)
//! that this process and the kernel share.
//!
//! ```text
//! UMEM: | chunks for receiving (2048) | chunks for sending (2048) |        4 KiB each
//!
//!  fill ring        empty chunks -->  kernel
//!  receive ring                       kernel  --> chunks with frames
//!  transmit ring    chunks with frames --> kernel
//!  completion ring                    kernel  --> chunks that were sent
//! ```
//!
//! A frame that is longer than a chunk takes up to three (`XDP_USE_SG`, Linux 6.6), where interface
//! and driver can do that.
//!
//! The crates for AF_XDP were not used: those that wrap libxdp need clang and libelf to build, and
//! the one without them has no frames of several chunks and no way to attach a program.
//!
//! Sources: Linux kernel documentation, "AF_XDP"; include/uapi/linux/if_xdp.h.

mod bpf;
mod ring;
mod socket;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::slice;

use linux_raw_sys::xdp::xdp_desc;
use postern_abi::window::{MAX_FRAME, RecordHeader};
use postern_tap::batch::Batch;
use postern_tap::work;
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, set_xdp_umem_reg, xdp_mmap_offsets, xdp_options, xdp_statistics,
};
use rustix::net::xdp::{
    XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING,
    XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use self::bpf::Redirect;
use self::ring::Ring;
pub use self::socket::Mode;
use self::socket::{NEEDS, bind_to, open_socket};
use super::device::{Device, Flushed, Received};
use super::error::{UplinkError, failed};
use super::link::{Link, packet_socket, promiscuous};
use super::map::Map;
use crate::frame_port::{BATCH, Frame};

/// Size of a chunk in bytes.
const CHUNK: usize = 4096;
/// Number of chunks each way, and of entries of each ring.
const CHUNKS: u32 = 2048;
/// Length of the longest frame in bytes.
const LONGEST: usize = MAX_FRAME as usize;
/// Most chunks of a frame that is sent.
const PARTS: usize = LONGEST.div_ceil(CHUNK);
/// `XDP_PKT_CONTD`: the frame goes on in the next entry.
const CONTINUED: u32 = 1;
/// Number of entries that one system call sends in copy mode (`TX_BATCH_SIZE` in net/xdp/xsk.c).
const KICK: u32 = 32;

/// An AF_XDP socket on one queue of one interface, which it keeps in promiscuous mode.
#[derive(Debug)]
pub struct XdpSocket {
    // In the order in which they go: no frame is redirected any more before the socket closes.
    redirect: Redirect,
    link: Link,
    fill: Ring<u64>,
    received: Ring<xdp_desc>,
    transmit: Ring<xdp_desc>,
    completed: Ring<u64>,
    socket: OwnedFd,
    _promiscuous: OwnedFd,
    umem: Map,
    /// The received frames that had several chunks, put together.
    joined: Batch,
    /// The free chunks for sending, as offsets in the UMEM.
    free: Vec<u64>,
    /// Numbers of frames and bytes pushed since the last flush.
    pushed: Flushed,
    longest: usize,
    zero_copy: bool,
    /// Number of frames that [`Device::missed`] has reported.
    missed: u64,
}

impl XdpSocket {
    /// Opens `queue` of the interface, which must be up.
    ///
    /// # Errors
    ///
    /// There is no such interface or queue, it is down, not Ethernet or in use, or the kernel
    /// or driver cannot do what `mode` asks for.
    pub fn open(interface: &str, queue: u32, mode: Mode) -> Result<XdpSocket, UplinkError> {
        let mut link = Link::open(interface)?;
        let failed = |step| move |errno: Errno| failed(step, interface, NEEDS, errno.into());
        let socket = open_socket(interface)?;
        let umem = Map::anonymous(2 * CHUNKS as usize * CHUNK)
            .map_err(failed("reserve memory for frames of"))?;
        let region = XdpUmemReg {
            addr: umem.base() as u64,
            len: umem.size() as u64,
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        set_xdp_umem_reg(&socket, region).map_err(|errno| match errno {
            Errno::NOBUFS => UplinkError::Unsupported {
                step: "lock memory for frames of",
                interface: interface.into(),
                remedy: "16 MiB are over the limit of locked memory; raise it (`ulimit -l`) or \
                         give the program CAP_IPC_LOCK",
                source: errno.into(),
            },
            _ => failed("register memory for frames of")(errno),
        })?;
        set_xdp_umem_fill_ring_size(&socket, CHUNKS).map_err(failed("make the fill ring of"))?;
        set_xdp_umem_completion_ring_size(&socket, CHUNKS)
            .map_err(failed("make the completion ring of"))?;
        set_xdp_rx_ring_size(&socket, CHUNKS).map_err(failed("make the receive ring of"))?;
        set_xdp_tx_ring_size(&socket, CHUNKS).map_err(failed("make the transmit ring of"))?;
        let at = xdp_mmap_offsets(&socket).map_err(failed("find the rings of"))?;
        let step = failed("map the rings of");
        let mut fill =
            Ring::map(&socket, XDP_UMEM_PGOFF_FILL_RING, &at.fr, CHUNKS).map_err(step)?;
        let completed =
            Ring::map(&socket, XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, CHUNKS).map_err(step)?;
        let received = Ring::map(&socket, XDP_PGOFF_RX_RING, &at.rx, CHUNKS).map_err(step)?;
        let transmit = Ring::map(&socket, XDP_PGOFF_TX_RING, &at.tx, CHUNKS).map_err(step)?;
        for chunk in 0..u64::from(CHUNKS) {
            fill.push(chunk * CHUNK as u64);
        }
        fill.publish();
        let several = bind_to(&mut link, &socket, queue, mode)?;
        let zero_copy = xdp_options(&socket)
            .map_err(failed("read the mode of"))?
            .contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        let membership = packet_socket(interface)?;
        promiscuous(&membership, link.index()).map_err(|source| {
            super::error::failed("set promiscuous mode of", interface, NEEDS, source)
        })?;
        let redirect = Redirect::attach(&mut link, queue, &socket)?;
        Ok(XdpSocket {
            redirect,
            link,
            fill,
            received,
            transmit,
            completed,
            socket,
            _promiscuous: membership,
            umem,
            joined: Batch::new(),
            free: (CHUNKS..2 * CHUNKS)
                .map(|chunk| u64::from(chunk) * CHUNK as u64)
                .collect(),
            pushed: Flushed::default(),
            longest: if several { LONGEST } else { CHUNK },
            zero_copy,
            missed: 0,
        })
    }

    /// Whether the interface itself reads and writes the frames' memory.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Whether the driver runs the XDP program, not the network stack (generic XDP).
    pub fn is_native(&self) -> bool {
        self.redirect.is_native()
    }

    /// The bytes of one entry of the receive ring, if the kernel gave sensible ones.
    ///
    /// The slice lives as long as the chunk is not given back, which is up to the caller.
    fn part<'a>(&self, entry: xdp_desc) -> Option<&'a [u8]> {
        let length = entry.len as usize;
        let start = usize::try_from(entry.addr).ok()?;
        if start % CHUNK + length > CHUNK {
            return None;
        }
        let start = self.umem.at(start, length)?;
        // SAFETY: it lies in the UMEM, in a chunk that the kernel does not touch before it is given
        // back; `receive` does that after the last use.
        Some(unsafe { slice::from_raw_parts(start, length) })
    }

    /// Takes back the chunks that were sent.
    fn reap(&mut self) {
        let count = self.completed.waiting();
        for ahead in 0..count {
            let chunk = self.completed.peek(ahead) & !(CHUNK as u64 - 1);
            if self.free.len() < CHUNKS as usize {
                self.free.push(chunk);
            }
        }
        if count != 0 {
            self.completed.release(count);
        }
    }

    /// Has the kernel send what the transmit ring holds.
    fn kick(&mut self) -> Result<(), UplinkError> {
        // Each call sends at least one entry or says why not.
        for _ in 0..CHUNKS.div_ceil(KICK) + 1 {
            let before = self.transmit.held();
            if before == 0 || !self.transmit.needs_wakeup() {
                break;
            }
            match send(&self.socket, &[], SendFlags::DONTWAIT) {
                Ok(_) | Err(Errno::INTR) => {}
                // More than one call sends, the interface is busy, or it completed nothing yet.
                Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS) => {
                    if self.transmit.held() == before {
                        break;
                    }
                }
                Err(errno) => return Err(self.link.broken("send to", errno.into())),
            }
        }
        Ok(())
    }
}

/// The place of a received frame.
enum Source<'a> {
    /// In a chunk of the UMEM.
    Chunk(&'a [u8]),
    /// In [`XdpSocket::joined`], as its next one.
    Joined,
}

impl Device for XdpSocket {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn longest(&self) -> usize {
        self.longest
    }

    fn receive(&mut self, deliver: &mut dyn FnMut(&[Frame<'_>])) -> Result<Received, UplinkError> {
        let mut found = Received::default();
        let waiting = self.received.waiting();
        if waiting == 0 {
            if self.fill.needs_wakeup() {
                // Nothing is received by it; it has the driver look at the fill ring.
                let _ = recv(&self.socket, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
            }
            return Ok(found);
        }
        let mut sources = [const { None }; BATCH];
        self.joined.clear();
        let mut used = 0;
        for source in &mut sources {
            let mut parts = 0;
            let complete = loop {
                if used + parts == waiting {
                    break false;
                }
                parts += 1;
                if self.received.peek(used + parts - 1).options & CONTINUED == 0 {
                    break true;
                }
            };
            // The rest of a frame that is still being written comes with the next call, unless it
            // fills the ring, which no frame does.
            if !complete && parts < CHUNKS {
                break;
            }
            let mut length = 0;
            let mut sound = complete;
            for ahead in used..used + parts {
                let Some(part) = self.part(self.received.peek(ahead)) else {
                    sound = false;
                    continue;
                };
                if parts == 1 {
                    *source = Some(Source::Chunk(part));
                } else if let Some(next) = self.joined.next_frame()
                    && let Some(rest) = next.get_mut(length..length + part.len())
                {
                    rest.copy_from_slice(part);
                }
                length += part.len();
            }
            used += parts;
            if !sound {
                found.offload += 1;
                *source = None;
            } else if let Err(reason) = work::check_length(length) {
                found.count(reason);
                *source = None;
            } else if parts > 1 {
                self.joined.add(RecordHeader::default(), length);
                *source = Some(Source::Joined);
            }
        }
        let mut list = [Frame::default(); BATCH];
        let mut count = 0;
        let mut joined = self.joined.frames();
        let frames = sources
            .into_iter()
            .flatten()
            .filter_map(|source| match source {
                Source::Chunk(bytes) => Some(Frame::finished(bytes)),
                Source::Joined => joined.next(),
            });
        for (entry, frame) in list.iter_mut().zip(frames) {
            *entry = frame;
            count += 1;
        }
        if count != 0 {
            found.frames = count as u64;
            deliver(list.get(..count).unwrap_or_default());
        }
        for ahead in 0..used {
            let chunk = self.received.peek(ahead).addr & !(CHUNK as u64 - 1);
            self.fill.push(chunk);
        }
        self.fill.publish();
        self.received.release(used);
        if self.fill.needs_wakeup() {
            let _ = recv(&self.socket, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
        }
        Ok(found)
    }

    fn room(&mut self) -> usize {
        self.reap();
        self.free.len().min(self.transmit.free() as usize) / PARTS
    }

    fn stage(&mut self, frame: Frame<'_>) {
        let frame = frame.bytes;
        let parts = frame.len().div_ceil(CHUNK);
        if self.free.len() < parts || (self.transmit.free() as usize) < parts {
            return;
        }
        let mut left = parts;
        for part in frame.chunks(CHUNK) {
            let Some(chunk) = self.free.pop() else { return };
            let Some(to) = self.umem.at(chunk as usize, part.len()) else {
                return;
            };
            // SAFETY: it lies in the UMEM, in a chunk for sending that the kernel does not have.
            unsafe { to.copy_from_nonoverlapping(part.as_ptr(), part.len()) };
            left -= 1;
            self.transmit.push(xdp_desc {
                addr: chunk,
                len: part.len() as u32,
                options: if left == 0 { 0 } else { CONTINUED },
            });
        }
        self.pushed.frames += 1;
        self.pushed.bytes += frame.len() as u64;
    }

    fn flush(&mut self) -> Result<Flushed, UplinkError> {
        let done = self.pushed;
        self.pushed = Flushed::default();
        if done.frames != 0 {
            self.transmit.publish();
        }
        self.kick()?;
        Ok(done)
    }

    /// Always `false`: the socket counts as writable before a busy driver takes more, and every
    /// flush tries again.
    fn waits_to_send(&self) -> bool {
        false
    }

    fn missed(&mut self) -> u64 {
        let Ok(statistics) = xdp_statistics(&self.socket) else {
            return 0;
        };
        let total = statistics
            .rx_dropped
            .saturating_add(statistics.rx_ring_full.unwrap_or(0));
        let new = total.saturating_sub(self.missed);
        self.missed = total;
        new
    }
}
