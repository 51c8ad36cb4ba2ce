//! The guest side of Postern: how a VM calls a service of the host without leaving guest mode, and
//! how it sends and receives packets that way.
//!
//! | module | object |
//! | --- | --- |
//! | [`gate`] | the guest's pages of the gate area, and a call through them |
//! | [`service`] | a request to the host, whichever path carries it |
//! | [`ring`] | the guest's ends of the rings in its window |
//! | [`nic`] | a port: bursts of frames out and in |
//!
//! The library is `no_std`, allocates nothing and starts no thread; it suits a kernel, a user
//! program and bare metal alike.
#![cfg_attr(not(test), no_std)]

pub mod gate;
pub mod nic;
pub mod ring;
pub mod service;
