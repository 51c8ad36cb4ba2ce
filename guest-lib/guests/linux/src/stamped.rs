//! Stamped frames: every byte behind the addresses follows from the frame's stream, number and length,
//! so that a byte of another frame, or of an earlier one in the same place, is seen.
//!
//! ```text
//!   0   destination MAC    6 bytes
//!   6   source MAC         6 bytes
//!   12  EtherType          2 bytes, that of synthetic frames
//!   14  number             8 bytes, big endian, from 0 in each stream
//!   22  stream             2 bytes, big endian
//!   24  length             2 bytes, big endian, of the frame
//!   26  filling            SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number
//!                          Generators", OOPSLA 2014) from number and stream, little endian
//! ```

use std::fmt;

use postern_guest::frames::synthetic::ETHERTYPE;

/// Least length of a frame, in bytes: those before the filling.
pub const MIN_LENGTH: usize = 26;

/// Most streams of a receiver: a number that no 8 queues reach.
pub const MAX_STREAMS: u16 = 64;

/// Who a frame is: a stream (a sending thread) and its number in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// The stream, below [`MAX_STREAMS`].
    pub stream: u16,
    /// The number in the stream.
    pub number: u64,
}

/// The words of a frame's filling.
fn filling(stamp: Stamp) -> impl Iterator<Item = [u8; 8]> {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let seed = stamp.number ^ u64::from(stamp.stream) << 48;
    let states = (1..).map(move |at: u64| seed.wrapping_add(at.wrapping_mul(STEP)));
    states.map(|state| {
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    })
}

/// Writes a whole frame.
///
/// # Panics
///
/// The frame is shorter than [`MIN_LENGTH`] or longer than its length can say.
pub fn write(frame: &mut [u8], destination: [u8; 6], source: [u8; 6], stamp: Stamp) {
    let length = u16::try_from(frame.len()).expect("a frame has less than 64 KiB");
    let (head, tail) = frame.split_at_mut(MIN_LENGTH);
    head[..6].copy_from_slice(&destination);
    head[6..12].copy_from_slice(&source);
    head[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    head[14..22].copy_from_slice(&stamp.number.to_be_bytes());
    head[22..24].copy_from_slice(&stamp.stream.to_be_bytes());
    head[24..26].copy_from_slice(&length.to_be_bytes());
    for (bytes, word) in tail.chunks_mut(8).zip(filling(stamp)) {
        bytes.copy_from_slice(&word[..bytes.len()]);
    }
}

/// Checks every byte of a frame that was sent between these two stations, and gives its stamp.
///
/// # Errors
///
/// The first byte that is not as it was sent.
pub fn check(frame: &[u8], destination: [u8; 6], source: [u8; 6]) -> Result<Stamp, Damage> {
    let field = |at: usize, size: usize| {
        let bytes = frame.get(at..at + size)?;
        let fold = |value, &byte| value << 8 | u64::from(byte);
        Some(bytes.iter().fold(0, fold))
    };
    let (Some(number), Some(stream), Some(length)) = (field(14, 8), field(22, 2), field(24, 2))
    else {
        return Err(Damage::Length {
            said: None,
            length: frame.len(),
        });
    };
    let stamp = Stamp {
        stream: stream as u16,
        number,
    };
    if length != frame.len() as u64 {
        let said = Some(length as u16);
        return Err(Damage::Length {
            said,
            length: frame.len(),
        });
    }
    let mut expected = [0; MIN_LENGTH];
    expected[..6].copy_from_slice(&destination);
    expected[6..12].copy_from_slice(&source);
    expected[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    let (head, tail) = frame.split_at(MIN_LENGTH);
    if let Some(at) = (0..14).find(|&at| head[at] != expected[at]) {
        return Err(Damage::Byte { at, stamp });
    }
    for (index, (bytes, word)) in tail.chunks(8).zip(filling(stamp)).enumerate() {
        if *bytes != word[..bytes.len()] {
            let differs = (0..bytes.len()).find(|&at| bytes[at] != word[at]);
            let at = MIN_LENGTH + 8 * index + differs.unwrap_or(0);
            return Err(Damage::Byte { at, stamp });
        }
    }
    if stamp.stream >= MAX_STREAMS {
        return Err(Damage::Byte { at: 22, stamp });
    }
    Ok(stamp)
}

/// How a frame differs from what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It has another length than it says, or too few bytes to say it.
    Length {
        /// The length that it says.
        said: Option<u16>,
        /// The length that it has.
        length: usize,
    },
    /// A byte differs.
    Byte {
        /// The first that does.
        at: usize,
        /// Who the frame says it is.
        stamp: Stamp,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Length { said: None, length } => {
                write!(f, "a frame of {length} bytes is none of ours")
            }
            Damage::Length {
                said: Some(said),
                length,
            } => write!(f, "a frame of {length} bytes says that it has {said}"),
            Damage::Byte { at, stamp } => write!(
                f,
                "byte {at} of frame {} of stream {} is not what was sent",
                stamp.number, stamp.stream
            ),
        }
    }
}

impl std::error::Error for Damage {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TO: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const FROM: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn frame(length: usize, stamp: Stamp) -> Vec<u8> {
        let mut frame = vec![0; length];
        write(&mut frame, TO, FROM, stamp);
        frame
    }

    proptest! {
        #[test]
        fn each_changed_bit_is_seen(
            length in MIN_LENGTH + 8..2000,
            stream in 0..MAX_STREAMS,
            number: u64,
            at: usize,
            bit in 0..8,
        ) {
            let mut frame = frame(length, Stamp { stream, number });
            prop_assert_eq!(check(&frame, TO, FROM), Ok(Stamp { stream, number }));
            let at = at % length;
            frame[at] ^= 1u8 << bit;
            prop_assert!(check(&frame, TO, FROM).is_err());
        }

        #[test]
        fn bytes_of_another_frame_in_the_same_place_are_seen(
            length in MIN_LENGTH + 16..2000,
            number: u64,
            cut: usize,
        ) {
            let cut = MIN_LENGTH + cut % (length - MIN_LENGTH - 8);
            let stamp = |number| Stamp { stream: 0, number };
            let mut torn = frame(length, stamp(number));
            torn[cut..].copy_from_slice(&frame(length, stamp(number.wrapping_sub(1)))[cut..]);
            prop_assert!(check(&torn, TO, FROM).is_err());
        }

        #[test]
        fn short_and_strange_frames_are_refused(
            frame in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            prop_assert!(check(&frame, TO, FROM).is_err());
        }
    }

    #[test]
    fn damage_is_named() {
        let mut frame = frame(
            100,
            Stamp {
                stream: 3,
                number: 9,
            },
        );
        frame[40] ^= 1;
        let damage = check(&frame, TO, FROM).unwrap_err();
        assert_eq!(
            damage.to_string(),
            "byte 40 of frame 9 of stream 3 is not what was sent"
        );
        let cut = check(&frame[..99], TO, FROM).unwrap_err();
        assert_eq!(cut.to_string(), "a frame of 99 bytes says that it has 100");
    }
}
