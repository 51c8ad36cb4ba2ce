//! The guest side of Postern: how a VM calls a service of the host without leaving guest mode, and
//! how it sends and receives packets that way.
//!
//! | module | object |
//! | --- | --- |
//! | [`gate`] | the guest's pages of the gate area, and a call through them |
//!
//! The library is `no_std`, allocates nothing and starts no thread; it suits a kernel, a user
//! program and bare metal alike.
#![no_std]

pub mod gate;
