//! What is before each frame in a queue and in a TAP.
#![deny(unsafe_code)]

/// Size in bytes of `struct virtio_net_hdr_mrg_rxbuf`: in virtio 1 it always has `num_buffers`
/// (virtio 1.2, "Network Device", "Device Operation").
pub const HEADER: usize = 12;

/// Offset of `num_buffers` in it.
pub const NUM_BUFFERS: usize = 10;
