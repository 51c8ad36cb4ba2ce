//! Uplinks: a port of the NIC joined to a network interface of the host.
//!
//! ```text
//!   interface  <-->  Device (TAP, packet socket, XDP socket)  <-->  Pump (one thread)  <-->  port
//! ```
//!
//! | device | interface | frames and the host itself | needs |
//! | --- | --- | --- | --- |
//! | [`tap`] | a new or persistent TAP | it is the other side | `/dev/net/tun`, CAP_NET_ADMIN |
//! | [`packet`] | any Ethernet interface | it receives them, too | CAP_NET_RAW |
//! | [`xdp`] | one receive queue of any | it no longer receives them | Linux 6.6, CAP_* |
//!
//! An AF_PACKET uplink adds up to 1 ms of latency, the others add none. AF_XDP needs the
//! capabilities CAP_NET_ADMIN, CAP_BPF and CAP_NET_RAW.
//!
//! # Offloads of the interface
//!
//! An uplink is a port like any other: it tells the NIC which kinds of unfinished frames it takes
//! and sends, and those pass with the `virtio_net_hdr` of the interface as the header of their
//! record. So a large TCP segment of the host's stack reaches a guest that takes large segments in
//! one piece, and the other way round. For a guest that has agreed to nothing the switch completes
//! checksums and cuts segments.
//!
//! | device | unfinished frames from the interface | to the interface |
//! | --- | --- | --- |
//! | [`tap`] | checksums, TCP and UDP segments (UDP from Linux 6.2 on) | the same |
//! | [`packet`] | whatever arrives so | the same (UDP segments from Linux 6.2 on) |
//! | [`xdp`] | unknown: an AF_XDP socket is not told | none |
//!
//! Finished frames of 14 ([`MIN_FRAME`]) to 9018 ([`MAX_FRAME`]) bytes pass, and large segments
//! whose parts are no longer; longer ones are dropped and counted as `too_long`. Work that a header
//! cannot express (SCTP checksums, segments in tunnels), and headers that contradict the frame, are
//! dropped and counted as `offload`.
//!
//! Segments are cut before they come to the port where its NIC has rings too small for them
//! ([`Geometry::max_segment`]), and while a port has a rate limit whose burst is smaller than a
//! segment, which could never pass it.
//!
//! # Links that come and go
//!
//! An interface that goes down, or loses its carrier, is still an uplink's: frames to it are dropped
//! and counted (`link_down`) while it is down, and the stations that were learned behind the port are
//! forgotten (IEEE 802.1Q, fdbFlush; MAC_Operational of IEEE 802.1AC), so that they are found where
//! they can be reached now. One that is removed ends its [`Pump`]; the server opens the interface of
//! the same name when there is one.
//!
//! # What others have set
//!
//! A device is set up when it is opened, whatever its last user has left: [`postern_tap::Tap::reset`]
//! lists what of a TAP. Left alone is what belongs to the interface's administrator: its MTU (unless
//! the configuration has one), its queueing discipline and filters, and an XDP program, which sees
//! the frames first.
//!
//! Checksums that the sender left to hardware arrive unfinished at an AF_XDP socket, and stripped
//! VLAN tags are lost, so there use
//!
//! ```text
//! ethtool -K eth0 gro off lro off rxvlan off
//! ethtool -K veth-peer tx off tso off gso off txvlan off
//! ethtool -L eth0 combined 1      (or steer with ethtool -N: an AF_XDP uplink serves one queue)
//! ```
//!
//! [`MIN_FRAME`]: postern_abi::window::MIN_FRAME
//! [`MAX_FRAME`]: postern_abi::window::MAX_FRAME
//! [`Geometry::max_segment`]: postern_abi::window::Geometry::max_segment
//!
//! Sources: Linux kernel documentation, "Universal TUN/TAP device driver", "Packet MMAP" and
//! "AF_XDP"; packet(7).

mod config;
mod counters;
mod device;
mod error;
mod link;
mod map;
pub mod packet;
mod pump;
pub mod tap;
pub mod xdp;

use std::os::fd::BorrowedFd;

use crate::frame_port::Frame;

pub use config::UplinkConfig;
pub use counters::{DirectionCounters, UplinkCounters, UplinkSnapshot};
pub use device::{Device, Flushed, Received};
pub use error::UplinkError;
pub use link::{Link, LinkState};
pub use pump::{Pump, PumpThread, PumpWait, Stop};

/// An open device of any of the three kinds.
#[derive(Debug)]
pub enum Uplink {
    /// A TAP.
    Tap(tap::TapDevice),
    /// An AF_PACKET socket.
    Packet(packet::PacketSocket),
    /// An AF_XDP socket.
    Xdp(Box<xdp::XdpSocket>),
}

impl Uplink {
    /// Opens the device that `config` names.
    ///
    /// # Errors
    ///
    /// There is no such interface, it is down or not Ethernet, or the kernel refuses.
    pub fn open(config: &UplinkConfig) -> Result<Uplink, UplinkError> {
        Ok(match config {
            UplinkConfig::Tap { name, mtu } => Uplink::Tap(tap::TapDevice::open(name, *mtu)?),
            UplinkConfig::Packet { interface } => {
                Uplink::Packet(packet::PacketSocket::open(interface)?)
            }
            UplinkConfig::Xdp {
                interface,
                queue,
                mode,
            } => Uplink::Xdp(Box::new(xdp::XdpSocket::open(interface, *queue, *mode)?)),
        })
    }

    /// Opens the device that `config` names if its interface is there: does not make a TAP.
    ///
    /// # Errors
    ///
    /// As [`Uplink::open`]; also when there is no TAP of this name.
    pub fn open_existing(config: &UplinkConfig) -> Result<Uplink, UplinkError> {
        Link::find(config.interface())?;
        Uplink::open(config)
    }
}

macro_rules! each {
    ($self:ident, $device:ident => $call:expr) => {
        match $self {
            Uplink::Tap($device) => $call,
            Uplink::Packet($device) => $call,
            Uplink::Xdp($device) => $call,
        }
    };
}

impl Device for Uplink {
    fn link(&mut self) -> &mut Link {
        each!(self, device => device.link())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        each!(self, device => device.descriptor())
    }

    fn longest(&self) -> usize {
        each!(self, device => device.longest())
    }

    fn features(&self) -> u32 {
        each!(self, device => device.features())
    }

    fn accept(&mut self, features: u32) -> Result<(), UplinkError> {
        each!(self, device => device.accept(features))
    }

    fn receive(&mut self, deliver: &mut dyn FnMut(&[Frame<'_>])) -> Result<Received, UplinkError> {
        each!(self, device => device.receive(deliver))
    }

    fn room(&mut self) -> usize {
        each!(self, device => device.room())
    }

    fn stage(&mut self, frame: Frame<'_>) {
        each!(self, device => device.stage(frame));
    }

    fn flush(&mut self) -> Result<Flushed, UplinkError> {
        each!(self, device => device.flush())
    }

    fn discard(&mut self) -> u64 {
        each!(self, device => device.discard())
    }

    fn waits_to_send(&self) -> bool {
        each!(self, device => device.waits_to_send())
    }

    fn missed(&mut self) -> u64 {
        each!(self, device => device.missed())
    }
}
