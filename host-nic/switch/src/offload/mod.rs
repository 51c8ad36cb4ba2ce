//! Work that ports leave to the NIC, as `virtio_net_hdr` (virtio 1.2, "Device Operation" of the network
//! device) describes it, for receivers that did not agree to get it undone.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`checksum`] | the Internet checksum of hostile memory, and finishing a partial one |
//! | [`segment`] | cutting a large TCP segment or UDP datagram into frames |

pub mod checksum;
pub mod segment;
