//! The conventional way to the network: virtio-net over a TAP (virtio 1.2, "Network Device").
//!
//! ```text
//!   driver   transmit queue, receive queue (a pair or several)         control queue
//!               |  kick: ioeventfd       ^  call: irqfd                     |
//!               v                        |                                  v
//!   vhost-net, in the kernel, or a thread of the VMM for each pair    control thread
//!               |                        ^
//!               v                        |
//!   TAP      a queue for each pair, with offloads
//! ```
//!
//! | module | object |
//! | --- | --- |
//! | `config` | a device as people describe it: `--net`, and the same in a topology |
//! | `device`, `features` | the device: what it offers, how it begins and ends to work |
//! | `control`, `tap_commands` | commands of the driver, and what they do to a TAP |
//! | `user`, `receive`, `transmit`, `ring` | the backend in user space; that in the kernel is shared with other devices |
//! | `once` | the queues, served once without threads |
//! | `fault` | why a device stops until its driver resets it |
//!
//! The backend in user space knows neither KVM nor TAPs: it moves packets between descriptors and
//! [`vm_memory`].

mod config;
mod control;
mod control_thread;
mod device;
mod error;
mod fault;
mod features;
mod header;
mod once;
mod receive;
mod ring;
mod tap_commands;
mod transmit;
mod user;

#[cfg(test)]
mod tests;

pub use config::{Backend, MAX_QUEUE_PAIRS, MIN_MTU, NetConfig, NetConfigError};
pub use device::Net;
pub use error::NetError;
pub use once::serve_once;
