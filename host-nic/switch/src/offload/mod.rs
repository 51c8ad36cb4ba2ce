//! Offloads: work on frames that senders leave to the NIC, as `virtio_net_hdr` describes it (virtio
//! 1.2, "Device Operation" of the network device), done for receivers that did not agree to do it.
//!
//! | module | object |
//! | --- | --- |
//! | [`checksum`] | the Internet checksum of bytes in hostile memory, and partial checksums |
//! | [`segment`] | a large TCP segment or UDP datagram, cut into frames |
#![forbid(unsafe_code)]
pub mod checksum;
pub mod segment;
