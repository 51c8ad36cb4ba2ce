//! Beacons: the broadcast frame by which a receiver says that it is ready. No measured frame looks
//! like it.
//!
//! A sender waits for a beacon, so that it sends no frame to a port that nobody has opened yet, and
//! learns the receiver's address from it. A beacon counts neither as sent nor as received.

use super::synthetic::ETHERTYPE;

/// Length of a beacon in bytes.
pub const SIZE: usize = 60;

/// Payload of a beacon, behind the Ethernet header; zeros follow.
const TEXT: &[u8; 25] = b"Postern: ready to receive";

/// The beacon of the station with this MAC address.
pub fn frame(source: [u8; 6]) -> [u8; SIZE] {
    let mut frame = [0; SIZE];
    frame[0..6].fill(0xff);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[14..14 + TEXT.len()].copy_from_slice(TEXT);
    frame
}

/// The MAC address of the station that sent the frame, if the frame is a beacon.
pub fn source(received: &[u8]) -> Option<[u8; 6]> {
    let source = received.get(6..12)?.try_into().ok()?;
    (received == frame(source)).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beacon_is_known_by_every_byte() {
        let mut good = frame([2, 0, 0, 0, 0, 9]);
        assert_eq!(source(&good), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(source(&good[..59]), None);
        for at in (0..6).chain(12..SIZE) {
            good[at] ^= 1;
            assert_eq!(source(&good), None);
            good[at] ^= 1;
        }
    }
}
