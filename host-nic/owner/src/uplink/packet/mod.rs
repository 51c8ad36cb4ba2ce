//! AF_PACKET: frames of any Ethernet interface, received from a ring that the kernel fills
//! (TPACKET_V3) and sent many to a system call.
//!
//! ```text
//! ring:  | block 0 | block 1 | ... | block 31 |       each 256 KiB, passed to and fro as a whole
//! block: | block header | packet | packet | ... |
//! packet:| tpacket3_hdr | sockaddr_ll | gap | virtio_net_hdr (10) | frame |
//!                                            ^ tp_mac - 10          ^ tp_mac
//! ```
//!
//! The kernel passes a block when it is full or a millisecond old. A `virtio_net_hdr` before each
//! frame (`PACKET_VNET_HDR`), both ways, says what work on it is left to do; it becomes the header
//! of a record. A VLAN tag that the kernel took out is put back in place, where the header was.
//!
//! Sources: packet(7); Linux kernel documentation, "Packet MMAP"; `tpacket_rcv` in
//! net/packet/af_packet.c.

mod block;

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::if_packet::{
    PACKET_IGNORE_OUTGOING, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_VNET_HDR,
    TP_STATUS_KERNEL, TP_STATUS_USER, tpacket_block_desc, tpacket_req3, tpacket_stats_v3,
    tpacket_versions,
};
use postern_abi::window::{FEATURE_USO, FEATURES};
use postern_tap::batch::Batch;
use rustix::io::Errno;

use self::block::{BLOCK, packet};
use super::device::{Device, Flushed, Received};
use super::error::{UplinkError, failed};
use super::link::{Link, packet_socket, promiscuous, set_option};
use super::map::Map;
use crate::frame_port::{BATCH, Frame};

const NEEDS: &str = "CAP_NET_RAW";
/// Number of blocks of the ring.
const BLOCKS: usize = 32;
/// Size of a frame that the kernel reckons with, in bytes. With TPACKET_V3 frames may have any size
/// that fits a block.
const FRAME_SIZE: usize = 2048;
/// Time after which the kernel passes a block that is not full, in milliseconds.
const RETIRE: u32 = 1;
/// First release of Linux whose packet sockets take large segments of UDP.
const USO_RELEASE: (u32, u32) = (6, 2);

/// An AF_PACKET socket on one interface, which it keeps in promiscuous mode. What this host sends
/// there, this socket included, is not received.
#[derive(Debug)]
pub struct PacketSocket {
    link: Link,
    socket: OwnedFd,
    features: u32,
    ring: Map,
    /// Number of the block that is read now, or next.
    block: usize,
    /// Number of packets left in it and where the next one is; `None` when the kernel may still
    /// have it.
    open: Option<(u32, usize)>,
    staged: Batch,
}

impl PacketSocket {
    /// Opens the interface, which must be up.
    ///
    /// # Errors
    ///
    /// There is no such interface, it is down or not Ethernet, or the kernel refuses.
    pub fn open(interface: &str) -> Result<PacketSocket, UplinkError> {
        let link = Link::open(interface)?;
        let socket = packet_socket(interface)?;
        let option = |step, name: u32, value: u32| {
            // SAFETY: these options take an int.
            unsafe { set_option(&socket, libc::SOL_PACKET, name, &value) }
                .map_err(|source| failed(step, interface, NEEDS, source))
        };
        let version = tpacket_versions::TPACKET_V3 as u32;
        option("use TPACKET_V3 on", PACKET_VERSION, version)?;
        option("ask for offload headers on", PACKET_VNET_HDR, 1)?;
        option("ignore outgoing frames on", PACKET_IGNORE_OUTGOING, 1)?;
        let request = tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: FRAME_SIZE as u32,
            tp_frame_nr: (BLOCK / FRAME_SIZE * BLOCKS) as u32,
            tp_retire_blk_tov: RETIRE,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        // SAFETY: with TPACKET_V3 the option takes a `struct tpacket_req3`.
        unsafe { set_option(&socket, libc::SOL_PACKET, PACKET_RX_RING, &request) }
            .map_err(|source| failed("make the receive ring of", interface, NEEDS, source))?;
        let ring = Map::ring(&socket, 0, BLOCK * BLOCKS)
            .map_err(|errno| failed("map the receive ring of", interface, NEEDS, errno.into()))?;
        promiscuous(&socket, link.index())
            .map_err(|source| failed("set promiscuous mode of", interface, NEEDS, source))?;
        bind(&socket, link.index())
            .map_err(|source| failed("bind a packet socket to", interface, NEEDS, source))?;
        Ok(PacketSocket {
            link,
            socket,
            features: features(),
            ring,
            block: 0,
            open: None,
            staged: Batch::new(),
        })
    }

    /// The status word of the current block.
    fn status(&self) -> &AtomicU32 {
        let offset = mem::offset_of!(tpacket_block_desc, hdr);
        // SAFETY: `block` is below BLOCKS, so the header lies in the ring, aligned; its first
        // member is this word, which the kernel and this process access as one.
        unsafe { AtomicU32::from_ptr(self.ring.base().add(self.block * BLOCK + offset).cast()) }
    }

    /// Packets in the current block and where the first one is, once the kernel has passed it.
    fn open_block(&mut self) -> Option<(u32, usize)> {
        if self.open.is_none() {
            if self.status().load(Ordering::Acquire) & TP_STATUS_USER == 0 {
                return None;
            }
            let header = self.ring.base().wrapping_add(self.block * BLOCK);
            // SAFETY: the header lies in the ring and the kernel no longer writes to this block.
            let header = unsafe { ptr::read(header.cast::<tpacket_block_desc>()) };
            // SAFETY: the union has this one member, plain integers of which every value is valid.
            let header = unsafe { header.hdr.bh1 };
            self.open = Some((header.num_pkts, header.offset_to_first_pkt as usize));
        }
        self.open
    }

    /// Passes the current block back to the kernel.
    fn close_block(&mut self) {
        self.status().store(TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % BLOCKS;
        self.open = None;
    }
}

/// The features that packet sockets of this kernel have.
fn features() -> u32 {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= USO_RELEASE => FEATURES,
        _ => FEATURES & !FEATURE_USO,
    }
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let size = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the pointer and size are those of `address`.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends frames, each behind its header, with one system call; gives the number of those, in order,
/// that the kernel took.
fn send<'a>(socket: &OwnedFd, frames: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
    let empty = libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    };
    let mut parts = [empty; BATCH];
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    let mut count = 0;
    for ((part, message), frame) in parts.iter_mut().zip(&mut messages).zip(frames) {
        part.iov_base = frame.as_ptr().cast_mut().cast();
        part.iov_len = frame.len();
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `count` messages are filled in; what they point to is alive and only read.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, flags as _) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(sent as usize)
}

impl Device for PacketSocket {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn features(&self) -> u32 {
        self.features
    }

    fn receive(&mut self, deliver: &mut dyn FnMut(&[Frame<'_>])) -> Result<Received, UplinkError> {
        let mut found = Received::default();
        let Some((mut left, mut offset)) = self.open_block() else {
            return Ok(found);
        };
        let block = self.ring.base().wrapping_add(self.block * BLOCK);
        let mut list = [Frame::default(); BATCH];
        let mut count = 0;
        while left != 0
            && let Some(entry) = list.get_mut(count)
        {
            // SAFETY: the kernel passed this block, and it is passed back below after the last use
            // of the frames; each packet is met once.
            let Some(packet) = (unsafe { packet(block, offset) }) else {
                // The kernel does not do this; the rest of the block cannot be found.
                found.offload += u64::from(left);
                left = 0;
                break;
            };
            match packet.frame {
                Ok(frame) => {
                    *entry = frame;
                    count += 1;
                }
                Err(reason) => found.count(reason),
            }
            left -= 1;
            offset = offset.saturating_add(packet.next);
        }
        if count != 0 {
            found.frames = count as u64;
            deliver(list.get(..count).unwrap_or_default());
        }
        self.open = Some((left, offset));
        if left == 0 {
            self.close_block();
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
        while !self.staged.is_empty() {
            match send(&self.socket, self.staged.with_headers()) {
                Ok(sent) => {
                    for _ in 0..sent {
                        done.frames += 1;
                        let front = self.staged.front();
                        done.bytes += front.map_or(0, |frame| frame.bytes.len() as u64);
                        self.staged.pop();
                    }
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => break,
                    Some(Errno::INTR) => {}
                    Some(Errno::MSGSIZE) => {
                        done.too_long += 1;
                        self.staged.pop();
                    }
                    Some(Errno::NOBUFS | Errno::NOMEM | Errno::INVAL) => {
                        done.refused += 1;
                        self.staged.pop();
                    }
                    _ => return Err(self.link.broken("send to", error)),
                },
            }
        }
        Ok(done)
    }

    fn discard(&mut self) -> u64 {
        let count = self.staged.len();
        self.staged.clear();
        count as u64
    }

    fn waits_to_send(&self) -> bool {
        !self.staged.is_empty()
    }

    fn missed(&mut self) -> u64 {
        let mut statistics = tpacket_stats_v3 {
            tp_packets: 0,
            tp_drops: 0,
            tp_freeze_q_cnt: 0,
        };
        let mut size = size_of::<tpacket_stats_v3>() as u32;
        // SAFETY: with TPACKET_V3 the option gives a `struct tpacket_stats_v3`. Reading it resets
        // it.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS as i32,
                (&raw mut statistics).cast(),
                &raw mut size,
            )
        };
        if result == 0 {
            u64::from(statistics.tp_drops)
        } else {
            0
        }
    }
}
