//! Uplinks: a port of the NIC joined to a network interface of the host.
//!
//! ```text
//!   interface  <-->  Device (Tap, Packet, Xdp)  <-->  Pump (one thread)  <-->  Port of the NIC
//! ```
//!
//! | device | interface | the host itself | latency added | needs |
//! | --- | --- | --- | --- | --- |
//! | [`tap`] | a TAP that it makes, or a persistent one | is the other side | none | `/dev/net/tun`, CAP_NET_ADMIN |
//! | [`packet`] | any Ethernet interface | still receives every frame, too | up to 1 ms | CAP_NET_RAW |
//! | [`xdp`] | any Ethernet interface, one receive queue | no longer receives that queue's frames | none | Linux 6.6, CAP_NET_ADMIN, CAP_BPF, CAP_NET_RAW |
//!
//! # Offloads of the interface
//!
//! Frames of 14 ([`MIN_FRAME`]) to 9018 ([`MAX_FRAME`]) bytes pass; longer ones are dropped and counted as
//! `too_long`. What an interface or its driver has merged (GRO, LRO), or the other end of a veth has
//! left uncut (TSO), may be longer. Switch that off on an interface that is an uplink, or on that
//! other end:
//!
//! ```text
//! ethtool -K eth0 gro off lro off
//! ethtool -K veth-peer tso off gso off
//! ```
//!
//! A TAP gives finished frames. An AF_PACKET socket is told what is missing: checksums and VLAN tags
//! are completed here, large TCP segments and UDP datagrams are cut to the size that they were to have
//! (which costs time: the commands above still pay), and what cannot be completed (SCTP checksums, large
//! segments in tunnels) is dropped and counted as `offload`. An AF_XDP socket is told nothing:
//! checksums that the sender left to hardware arrive unfinished and stripped VLAN tags are lost, so
//! there also use
//!
//! ```text
//! ethtool -K eth0 rxvlan off
//! ethtool -K veth-peer tx off txvlan off
//! ethtool -L eth0 combined 1      (or steer with ethtool -N: an AF_XDP uplink serves one queue)
//! ```
//!
//! Sources: Linux kernel documentation, "Universal TUN/TAP device driver", "Packet MMAP" and
//! "AF_XDP"; packet(7).

use std::fmt;
use std::os::fd::BorrowedFd;
use std::str::FromStr;

mod arena;
mod checksum;
mod counters;
mod error;
mod link;
mod map;
pub mod packet;
mod pump;
pub mod tap;
pub mod xdp;

pub use counters::{Counters, Direction, Snapshot};
pub use error::UplinkError;
pub use link::Link;
pub use pump::{Bridge, Drive, Pump, Stop};

/// Longest frame that passes an uplink, in bytes without FCS: an MTU of 9000, an Ethernet header and
/// a VLAN tag.
pub const MAX_FRAME: usize = 9018;

/// Shortest frame, in bytes: an Ethernet header.
pub const MIN_FRAME: usize = 14;

/// Most frames in one request to a port or a device.
pub const BATCH: usize = 64;

/// A port of a NIC as this process uses it.
pub trait Port {
    /// Sends frames in order, one request; how many were taken.
    fn send(&mut self, frames: &[&[u8]]) -> usize;

    /// Gives at most `most` waiting frames to `sink`; how many.
    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize;
}

impl<P: Port + ?Sized> Port for &mut P {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        (**self).send(frames)
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        (**self).receive(most, sink)
    }
}

/// What one call of [`Device::receive`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Frames given to the caller.
    pub frames: u64,
    /// Dropped: longer than [`MAX_FRAME`], or cut by the kernel.
    pub too_long: u64,
    /// Dropped: shorter than [`MIN_FRAME`].
    pub too_short: u64,
    /// Dropped: an offload left something undone that cannot be completed here.
    pub offload: u64,
}

/// What one call of [`Device::flush`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Frames given to the kernel.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Dropped: longer than the interface sends.
    pub too_long: u64,
    /// Dropped: refused by the kernel for another reason (no memory, queue of the interface full).
    pub refused: u64,
}

/// A network interface as an uplink uses it. No call waits.
pub trait Device {
    /// The interface.
    fn link(&mut self) -> &mut Link;

    /// What becomes readable when a frame arrives.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Longest frame that [`Device::stage`] takes, in bytes.
    fn longest(&self) -> usize {
        MAX_FRAME
    }

    /// Gives at most [`BATCH`] waiting frames, in order and in place, to `deliver`, each of
    /// [`MIN_FRAME`] to [`MAX_FRAME`] bytes.
    ///
    /// # Errors
    /// When the interface is gone or down, or the kernel refuses.
    fn receive(&mut self, deliver: &mut dyn FnMut(&[&[u8]])) -> Result<Received, UplinkError>;

    /// How many frames can be staged now.
    fn room(&mut self) -> usize;

    /// Takes one frame for sending, of at most [`Device::longest`] bytes. Without room it is lost.
    fn stage(&mut self, frame: &[u8]);

    /// Sends what was staged, in order. What the kernel has no room for stays staged.
    ///
    /// # Errors
    /// When the interface is gone or down, or the kernel refuses.
    fn flush(&mut self) -> Result<Flushed, UplinkError>;

    /// Whether staged frames wait until the descriptor is writable.
    fn waits_to_send(&self) -> bool;

    /// Frames that the kernel dropped because they were not fetched in time, since the last call.
    fn missed(&mut self) -> u64;
}

/// Which device to use for which interface; as text `tap:NAME[,mtu=BYTES]`, `packet:INTERFACE` or
/// `xdp:INTERFACE[,queue=N][,mode=auto|copy|zero-copy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// A TAP.
    Tap {
        /// Its name.
        name: String,
        /// Its MTU in bytes; `None` leaves it as it is (1500 for a new one).
        mtu: Option<u32>,
    },
    /// An AF_PACKET socket.
    Packet {
        /// Name of the interface.
        interface: String,
    },
    /// An AF_XDP socket.
    Xdp {
        /// Name of the interface.
        interface: String,
        /// Its receive and transmit queue.
        queue: u32,
        /// How frames pass between driver and socket.
        mode: xdp::Mode,
    },
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Config::Tap { name, mtu: None } => write!(f, "tap:{name}"),
            Config::Tap {
                name,
                mtu: Some(mtu),
            } => write!(f, "tap:{name},mtu={mtu}"),
            Config::Packet { interface } => write!(f, "packet:{interface}"),
            Config::Xdp {
                interface,
                queue,
                mode,
            } => write!(f, "xdp:{interface},queue={queue},mode={mode}"),
        }
    }
}

impl FromStr for Config {
    type Err = UplinkError;

    fn from_str(text: &str) -> Result<Config, UplinkError> {
        let bad = |reason: &'static str| UplinkError::Config {
            text: text.into(),
            reason,
        };
        let (kind, rest) = text
            .split_once(':')
            .ok_or_else(|| bad("it has no colon after the kind"))?;
        let mut parts = rest.split(',');
        let interface = parts.next().unwrap_or_default().to_owned();
        link::check_name(&interface)?;
        let mut config = match kind {
            "tap" => Config::Tap {
                name: interface,
                mtu: None,
            },
            "packet" => Config::Packet { interface },
            "xdp" => Config::Xdp {
                interface,
                queue: 0,
                mode: xdp::Mode::Auto,
            },
            _ => return Err(bad("its kind is not tap, packet or xdp")),
        };
        for part in parts {
            match (&mut config, part.split_once('=')) {
                (Config::Tap { mtu, .. }, Some(("mtu", value))) => {
                    let bytes = value.parse().map_err(|_| bad("its mtu is no number"))?;
                    if !(68..=link::MAX_MTU).contains(&bytes) {
                        return Err(bad("its mtu is not 68 to 9000"));
                    }
                    *mtu = Some(bytes);
                }
                (Config::Xdp { queue, .. }, Some(("queue", value))) => {
                    *queue = value.parse().map_err(|_| bad("its queue is no number"))?;
                }
                (Config::Xdp { mode, .. }, Some(("mode", value))) => {
                    *mode = value
                        .parse()
                        .map_err(|()| bad("its mode is not auto, copy or zero-copy"))?;
                }
                _ => return Err(bad("it has an option that this kind does not know")),
            }
        }
        Ok(config)
    }
}

/// A device of any kind.
#[derive(Debug)]
pub enum Uplink {
    /// A TAP.
    Tap(tap::Tap),
    /// An AF_PACKET socket.
    Packet(packet::Packet),
    /// An AF_XDP socket.
    Xdp(Box<xdp::Xdp>),
}

impl Uplink {
    /// Opens the device that `config` names.
    ///
    /// # Errors
    /// When there is no such interface, it is down or not Ethernet, or the kernel refuses.
    pub fn open(config: &Config) -> Result<Uplink, UplinkError> {
        Ok(match config {
            Config::Tap { name, mtu } => Uplink::Tap(tap::Tap::open(name, *mtu)?),
            Config::Packet { interface } => Uplink::Packet(packet::Packet::open(interface)?),
            Config::Xdp {
                interface,
                queue,
                mode,
            } => Uplink::Xdp(Box::new(xdp::Xdp::open(interface, *queue, *mode)?)),
        })
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

    fn receive(&mut self, deliver: &mut dyn FnMut(&[&[u8]])) -> Result<Received, UplinkError> {
        each!(self, device => device.receive(deliver))
    }

    fn room(&mut self) -> usize {
        each!(self, device => device.room())
    }

    fn stage(&mut self, frame: &[u8]) {
        each!(self, device => device.stage(frame));
    }

    fn flush(&mut self) -> Result<Flushed, UplinkError> {
        each!(self, device => device.flush())
    }

    fn waits_to_send(&self) -> bool {
        each!(self, device => device.waits_to_send())
    }

    fn missed(&mut self) -> u64 {
        each!(self, device => device.missed())
    }
}
