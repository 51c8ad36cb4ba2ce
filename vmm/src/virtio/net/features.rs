//! What the device offers (virtio 1.2, "Network Device", "Feature bits").
#![deny(unsafe_code)]

use postern_tap::offload;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// The bit of a feature.
pub const fn bit(number: u32) -> u64 {
    1 << number
}

/// What TAPs finish or leave unfinished, both ways.
const OFFLOADS: u64 = bit(net::VIRTIO_NET_F_CSUM)
    | bit(net::VIRTIO_NET_F_HOST_TSO4)
    | bit(net::VIRTIO_NET_F_HOST_TSO6)
    | bit(net::VIRTIO_NET_F_HOST_ECN)
    | GUEST_OFFLOADS;

/// What the driver takes unfinished, and may turn off while it works.
pub const GUEST_OFFLOADS: u64 = bit(net::VIRTIO_NET_F_GUEST_CSUM)
    | bit(net::VIRTIO_NET_F_GUEST_TSO4)
    | bit(net::VIRTIO_NET_F_GUEST_TSO6)
    | bit(net::VIRTIO_NET_F_GUEST_ECN);

/// What the control queue and the configuration space are for.
const ADMINISTRATION: u64 = bit(net::VIRTIO_NET_F_MAC)
    | bit(net::VIRTIO_NET_F_STATUS)
    | bit(net::VIRTIO_NET_F_CTRL_VQ)
    | bit(net::VIRTIO_NET_F_CTRL_RX)
    | bit(net::VIRTIO_NET_F_CTRL_MAC_ADDR)
    | bit(net::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);

/// What whoever moves the packets must know of: rings, and the form of received packets.
pub const OF_BACKEND: u64 = bit(VIRTIO_F_VERSION_1)
    | bit(VIRTIO_RING_F_EVENT_IDX)
    | bit(VIRTIO_RING_F_INDIRECT_DESC)
    | bit(net::VIRTIO_NET_F_MRG_RXBUF);

/// What a device offers whose backend has the features `backend`.
pub fn offered(backend: u64, several_queues: bool, mtu: bool) -> u64 {
    let mut features = OFFLOADS | ADMINISTRATION | OF_BACKEND & backend;
    if several_queues {
        features |= bit(net::VIRTIO_NET_F_MQ);
    }
    if mtu {
        features |= bit(net::VIRTIO_NET_F_MTU);
    }
    features & !bit(VIRTIO_F_VERSION_1)
}

/// What the TAP gives unfinished to a driver that accepted these features.
pub fn tap_offloads(features: u64) -> u32 {
    let flag = |number, flag| match features & bit(number) {
        0 => 0,
        _ => flag,
    };
    let csum = flag(net::VIRTIO_NET_F_GUEST_CSUM, offload::CSUM);
    let large = flag(net::VIRTIO_NET_F_GUEST_TSO4, offload::TSO4)
        | flag(net::VIRTIO_NET_F_GUEST_TSO6, offload::TSO6);
    // The kernel refuses one without what it needs; so should a driver ("Driver Requirements").
    match (csum, large) {
        (0, _) => 0,
        (csum, 0) => csum,
        (csum, large) => csum | large | flag(net::VIRTIO_NET_F_GUEST_ECN, offload::TSO_ECN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_limits_what_is_offered() {
        let none = offered(0, false, false);
        assert_eq!(none & OF_BACKEND, 0);
        assert_eq!(none & bit(net::VIRTIO_NET_F_MQ), 0);
        let all = offered(u64::MAX, true, true);
        assert_ne!(all & bit(net::VIRTIO_NET_F_MRG_RXBUF), 0);
        assert_ne!(all & bit(net::VIRTIO_NET_F_MQ), 0);
        assert_ne!(all & bit(net::VIRTIO_NET_F_MTU), 0);
        for absent in [
            net::VIRTIO_NET_F_HOST_UFO,
            net::VIRTIO_NET_F_GUEST_UFO,
            net::VIRTIO_NET_F_CTRL_VLAN,
            VIRTIO_F_VERSION_1,
        ] {
            assert_eq!(all & bit(absent), 0, "feature {absent}");
        }
    }

    #[test]
    fn offloads_have_what_they_need() {
        let (csum, tso4) = (net::VIRTIO_NET_F_GUEST_CSUM, net::VIRTIO_NET_F_GUEST_TSO4);
        let ecn = net::VIRTIO_NET_F_GUEST_ECN;
        assert_eq!(tap_offloads(bit(tso4) | bit(ecn)), 0);
        assert_eq!(tap_offloads(bit(csum) | bit(ecn)), offload::CSUM);
        assert_eq!(
            tap_offloads(bit(csum) | bit(tso4) | bit(ecn)),
            offload::CSUM | offload::TSO4 | offload::TSO_ECN
        );
    }
}
