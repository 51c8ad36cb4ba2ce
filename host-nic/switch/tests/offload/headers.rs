//! Records whose headers ask for features that were not agreed on, or contradict their frames.

use postern_abi::service::{ERR_BAD_REQUEST, OP_FEATURES};
use postern_abi::window::{
    FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, FEATURES, GSO_ECN, GSO_TCPV4, GSO_TCPV6,
    GSO_UDP_L4, RecordHeader,
};
use postern_switch::state::Cause;

use crate::ports::packet::{Flow, KINDS, Kind, payload};
use crate::ports::{Guest, Net, mac, port, secret};

/// Sends a record that is to be refused, to receivers that could take it.
fn refused(net: &Net, guests: &mut [Guest<'_>], header: RecordHeader, bytes: &[u8]) {
    let before = net.drops(0, Cause::BadDescriptor);
    guests[0].send_with(header, bytes);
    assert_eq!(guests[1].take(), [], "{header:?}");
    assert_eq!(net.drops(0, Cause::BadDescriptor), before + 1, "{header:?}");
}

#[test]
fn what_was_not_agreed_on_is_refused() {
    let net = Net::new(2);
    let mut guests = net.guests();
    guests[1].agree(FEATURES);
    let features = [FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO];
    for kind in KINDS {
        let flow = Flow::new(kind, mac(1), mac(0));
        let data = payload(3000, 1);
        let needed = match kind {
            Kind::Tcp4 => FEATURE_TSO4,
            Kind::Tcp6 => FEATURE_TSO6,
            Kind::Udp4 | Kind::Udp6 => FEATURE_USO,
        };
        for set in 0..16 {
            let agreed = features.iter().enumerate();
            let agreed = agreed.filter(|(bit, _)| set >> bit & 1 != 0);
            let agreed = agreed.fold(0, |all, (_, feature)| all | feature);
            guests[0].agree(agreed);
            for (header, bytes, needed) in [
                {
                    let (header, bytes) = flow.partial(&data);
                    (header, bytes, FEATURE_CSUM)
                },
                {
                    let (header, bytes) = flow.large(&data, 1000);
                    (header, bytes, FEATURE_CSUM | needed)
                },
            ] {
                if agreed & needed == needed {
                    guests[0].send_with(header, &bytes);
                    assert_eq!(guests[1].take().len(), 1);
                } else {
                    refused(&net, &mut guests, header, &bytes);
                }
            }
        }
    }
    // The next tenant has agreed on no feature.
    guests[0].agree(FEATURES);
    net.memory.switch().admit(port(0), 9, secret(9), mac(0));
    guests[0] = net.guest(0);
    let (header, bytes) = Flow::new(Kind::Tcp4, mac(1), mac(0)).partial(&[1, 2, 3]);
    refused(&net, &mut guests, header, &bytes);
}

#[test]
fn features_that_do_not_exist_are_refused() {
    let net = Net::new(2);
    let guest = net.guest(0);
    for (a, b) in [(16, 0), (u64::MAX, 0), (1 << 32, 0), (1, 1)] {
        let result = net.memory.serve(
            &guest.caller,
            0,
            guest.caller.secret().request(OP_FEATURES),
            a,
            b,
        );
        assert_eq!(result, ERR_BAD_REQUEST, "{a:#x} {b:#x}");
    }
}

#[test]
fn headers_that_contradict_the_frame_are_refused() {
    let net = Net::new(2);
    let mut guests = net.guests();
    guests.iter().for_each(|guest| guest.agree(FEATURES));
    for kind in KINDS {
        let flow = Flow::new(kind, mac(1), mac(0));
        let (good, bytes) = flow.large(&payload(5000, 1), 1000);
        let types = [
            GSO_TCPV4,
            GSO_TCPV6,
            GSO_UDP_L4,
            2,
            3,
            6,
            0x7f,
            GSO_ECN,
            GSO_ECN | GSO_UDP_L4,
        ];
        let allowed = |gso_type: u8| {
            gso_type == good.gso_type || (gso_type == good.gso_type | GSO_ECN && flow.is_tcp())
        };
        for gso_type in types.into_iter().chain([good.gso_type | GSO_ECN]) {
            let header = RecordHeader { gso_type, ..good };
            if !allowed(gso_type) {
                refused(&net, &mut guests, header, &bytes);
            }
        }
        for flags in [0, 2, 3, 4, 0xff, 0xfe] {
            refused(&net, &mut guests, RecordHeader { flags, ..good }, &bytes);
        }
        for gso_size in [0, 1, 19] {
            refused(&net, &mut guests, RecordHeader { gso_size, ..good }, &bytes);
        }
        for by in [-14, -2, -1, 1, 2, 6, 20] {
            let csum_start = good.csum_start.wrapping_add_signed(by);
            refused(
                &net,
                &mut guests,
                RecordHeader { csum_start, ..good },
                &bytes,
            );
        }
        for csum_offset in [0, 1, 4, 5, 7, 15, 17, 60, u16::MAX] {
            refused(
                &net,
                &mut guests,
                RecordHeader {
                    csum_offset,
                    ..good
                },
                &bytes,
            );
        }
        // The length in the header of IP is not the frame's.
        let at = if matches!(kind, Kind::Tcp4 | Kind::Udp4) {
            17
        } else {
            19
        };
        for wrong in [1, 2, 0x80] {
            let mut bytes = bytes.clone();
            bytes[at] ^= wrong;
            refused(&net, &mut guests, good, &bytes);
        }
        guests[0].send_with(good, &bytes);
        assert_eq!(guests[1].take().len(), 1);
    }
    // The kind of the record is unknown.
    let flow = Flow::new(Kind::Udp4, mac(1), mac(0)).whole(&[1, 2, 3]);
    for kind in [2, 0x100, u16::MAX] {
        let header = RecordHeader {
            kind,
            ..RecordHeader::default()
        };
        refused(&net, &mut guests, header, &flow);
    }
    // Flags are unknown, without a large segment.
    for flags in [2, 4, 0x80] {
        let header = RecordHeader {
            flags,
            ..RecordHeader::default()
        };
        refused(&net, &mut guests, header, &flow);
    }
}

/// A refused frame takes no other one with it: the frames around it arrive.
#[test]
fn frames_around_a_refused_one_arrive() {
    let net = Net::new(2);
    let mut guests = net.guests();
    let flow = Flow::new(Kind::Tcp4, mac(1), mac(0));
    let (bad, large) = flow.large(&payload(5000, 1), 1000);
    let frames: Vec<_> = (0..6).map(|seed| flow.whole(&payload(100, seed))).collect();
    for frame in &frames {
        guests[0].put(frame);
        guests[0].put_on(0, bad, &large);
    }
    assert_eq!(guests[0].call(), 12);
    assert_eq!(guests[1].receive(), frames);
    assert_eq!(net.drops(0, Cause::BadDescriptor), 6);
}
