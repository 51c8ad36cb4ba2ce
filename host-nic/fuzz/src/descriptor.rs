//! One record with any header, on a switch with policies, VLANs and features.
//!
//! Input: features of sender and receiver, policies of the three ports, the header's two words, then
//! the frame.
#![forbid(unsafe_code)]

use postern_abi::service::{OP_FEATURES, OP_TX, TX_BELL, TX_MORE};
use postern_abi::window::{FEATURES, Geometry, RecordHeader, record_size};
use postern_fuzz_input::Bytes;
use postern_nic_owner::installed_policies::Policies;

use super::nic::{FuzzNic, port};
use super::policies::policy;

const RING: u32 = 32 << 10;
/// Ports of the NIC; the last one agrees on nothing.
const PORTS: u32 = 3;

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let (features, choices) = (input.u8(), [0; PORTS as usize].map(|_: u8| input.u16()));
    let header = RecordHeader::from_words(input.u64(), input.u64());
    let frame = input.0;
    let mut nic = FuzzNic::new(Geometry::new(PORTS, 1, RING, RING).unwrap());
    let mut all = Policies::default();
    for (number, choice) in (0..PORTS).zip(choices) {
        let policy = policy(choice);
        // A port that would mirror to itself is refused, and keeps its policy.
        let wrong = policy.mirror == Some(number);
        let set = all.set(&nic.switch(), port(number), policy);
        assert_eq!(set.is_err(), wrong, "{set:?}");
    }
    let mut receivers: Vec<_> = (1..PORTS)
        .map(|number| nic.receiver(number, 0).unwrap())
        .collect();
    nic.call(
        0,
        0,
        OP_FEATURES,
        u64::from(features & 15) & u64::from(FEATURES),
        0,
    );
    nic.call(
        1,
        0,
        OP_FEATURES,
        u64::from(features >> 4) & u64::from(FEATURES),
        0,
    );
    let length = frame.len().min(100_000);
    // Half of the time the length is true.
    let header = match header.length & 1 {
        0 => RecordHeader {
            length: length as u32,
            ..header
        },
        _ => header,
    };
    let mut bytes = frame[..length].to_vec();
    bytes.resize(bytes.len().next_multiple_of(16), 0xee);
    let mut words = vec![header.words().0, header.words().1];
    words.extend(
        bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap())),
    );
    nic.append(0, 0, &words, record_size(length as u32) as u32);
    let taken = nic.call(0, 0, OP_TX, 4, 0);
    assert!(taken & !(TX_MORE | TX_BELL) <= 4);
    let geometry = nic.geometry;
    for (number, receiver) in (1..).zip(&mut receivers) {
        let received = receiver.receive(usize::MAX, |frame| {
            let mut copy = vec![0; frame.len()];
            frame.copy_to(&mut copy);
            let header = frame.header();
            if number == PORTS - 1 {
                let rest = RecordHeader {
                    length: 0,
                    ..header
                };
                assert_eq!(rest, RecordHeader::default(), "it agreed on nothing");
                assert!(header.length <= geometry.max_frame() + 4, "{header:?}");
            }
            if header.flags != 0 {
                let end = u32::from(header.csum_start) + u32::from(header.csum_offset) + 2;
                assert!(end <= header.length, "{header:?}");
            }
            assert!(header.gso_type == 0 || header.gso_size != 0, "{header:?}");
        });
        assert_eq!(received.malformed, 0);
    }
}
