//! TAPs: network interfaces of a Linux host whose other side is a file that a program reads and
//! writes frames by (Linux kernel documentation, "Universal TUN/TAP device driver"; `tun_chr_ioctl`
//! in drivers/net/tun.c).
//!
//! [`Tap`] is one queue of a TAP; [`Interface`] is the side that `ip link` shows.
#![deny(missing_debug_implementations)]

pub mod batch;
mod error;
mod frame;
mod interface;
mod macvtap;
mod netlink;
mod tap;
mod traffic;
pub mod virtio_net;
pub mod work;

pub use error::TapError;
pub use frame::{BATCH, Flushed, Frame, Received, Unusable};
pub use interface::{Interface, check_name, request};
pub use tap::{Kind, Tap, offload};
