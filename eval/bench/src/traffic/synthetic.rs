//! Frames of one size, for measurements that vary nothing but the path.

use etherparse::PacketBuilder;

use super::{Frame, HEADER_LEN, MAX_JUMBO, MIN_WIRE_LEN};

/// Address of the station that sends: locally administered.
const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
/// Address of the station that receives.
const RECEIVER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];

/// `count` UDP datagrams in frames of `len` bytes. The first eight bytes of each payload are its
/// number, so no two frames are the same.
pub fn frames(len: usize, count: usize) -> Vec<Frame> {
    assert!(
        (MIN_WIRE_LEN..=MAX_JUMBO).contains(&len),
        "a frame of {len} bytes is not within {MIN_WIRE_LEN} and {MAX_JUMBO}"
    );
    let headers = HEADER_LEN + 20 + 8;
    let mut payload = vec![0; len - headers];
    for (n, byte) in payload.iter_mut().enumerate() {
        *byte = n as u8;
    }
    (0..count as u64)
        .map(|number| {
            payload[..8].copy_from_slice(&number.to_be_bytes());
            let builder = PacketBuilder::ethernet2(SENDER, RECEIVER)
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(4000, 4001);
            let mut frame = Vec::with_capacity(len);
            builder
                .write(&mut frame, &payload)
                .expect("a vector takes any frame, and the length fits UDP and IPv4");
            frame.into_boxed_slice()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn frames_have_the_asked_length_and_differ() {
        for len in [MIN_WIRE_LEN, 64, MAX_JUMBO] {
            let frames = frames(len, 500);
            assert!(frames.iter().all(|frame| frame.len() == len));
            assert_eq!(frames.iter().collect::<HashSet<_>>().len(), 500);
        }
    }
}
