//! Synthetic frames: each is made up and carries its number.
//!
//! ```text
//!   0   destination MAC    6 bytes
//!   6   source MAC         6 bytes
//!   12  EtherType          2 bytes, ETHERTYPE
//!   14  number             8 bytes, big endian, from 0
//!   22  filling            byte i of the frame has the value i modulo 256
//! ```

/// IEEE 802 local experimental EtherType 1.
pub const ETHERTYPE: u16 = 0x88b5;

/// Least size of a frame, in bytes: those before the filling.
pub const MIN_SIZE: usize = 22;

/// The bytes of a frame that hold its number.
const NUMBER: core::ops::Range<usize> = 14..22;

/// Writes all of a frame but its number.
///
/// # Panics
///
/// The frame is shorter than [`MIN_SIZE`].
pub fn prepare(frame: &mut [u8], destination: [u8; 6], source: [u8; 6]) {
    for (i, byte) in frame.iter_mut().enumerate() {
        *byte = i as u8;
    }
    frame[0..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
}

/// Writes the number of a frame.
///
/// # Panics
///
/// The frame is shorter than [`MIN_SIZE`].
#[inline]
pub fn set_number(frame: &mut [u8], number: u64) {
    frame[NUMBER].copy_from_slice(&number.to_be_bytes());
}

/// The number of a frame, if nothing but it and the addresses differs from what [`prepare`] writes.
pub fn number(frame: &[u8]) -> Option<u64> {
    let number = frame.get(NUMBER)?.try_into().ok()?;
    let mut filling = frame.iter().enumerate().skip(MIN_SIZE);
    let whole =
        frame[12..14] == ETHERTYPE.to_be_bytes() && filling.all(|(i, &byte)| byte == i as u8);
    whole.then(|| u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_has_the_documented_bytes() {
        let mut frame = [0; 25];
        prepare(&mut frame, [1; 6], [2; 6]);
        set_number(&mut frame, 0x0102_0304_0506_0708);
        assert_eq!(
            frame,
            [
                1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x88, 0xb5, 1, 2, 3, 4, 5, 6, 7, 8, 22, 23, 24
            ]
        );
    }

    proptest! {
        #[test]
        fn a_change_is_seen(size in MIN_SIZE..1514, at: usize, flip in 1u8.., n: u64) {
            let mut frame = vec![0; size];
            prepare(&mut frame, [0xff; 6], [2; 6]);
            set_number(&mut frame, n);
            prop_assert_eq!(number(&frame), Some(n));
            let at = at % size;
            frame[at] ^= flip;
            prop_assert_eq!(number(&frame) == Some(n), at < 12);
        }

        #[test]
        fn short_frames_have_no_number(frame in vec(any::<u8>(), 0..MIN_SIZE)) {
            prop_assert_eq!(number(&frame), None);
        }
    }
}
