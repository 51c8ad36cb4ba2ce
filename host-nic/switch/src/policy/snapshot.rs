//! Snapshots: the first bytes of a frame, read once from hostile memory.

/// Number of words of 8 bytes of a snapshot.
pub const SNAPSHOT_WORDS: usize = 16;
/// Number of bytes of a snapshot.
pub const SNAPSHOT_BYTES: u32 = 8 * SNAPSHOT_WORDS as u32;

/// A snapshot of a frame: its first [`SNAPSHOT_BYTES`] bytes, and its length. Bytes behind the
/// frame are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    words: [u64; SNAPSHOT_WORDS],
    length: u32,
}

impl Snapshot {
    /// Reads the snapshot of a frame of `length` bytes. `word(i)` is called at most once for each
    /// `i`, in order, and returns bytes `8 * i..8 * i + 8` of the frame, first byte lowest. It is
    /// not called for words that lie behind the frame.
    #[inline(always)]
    pub fn read(length: u32, mut word: impl FnMut(usize) -> u64) -> Snapshot {
        let known = length.min(SNAPSHOT_BYTES);
        let (whole, rest) = ((known >> 3) as usize, 8 * (known & 7));
        let mut snapshot = Snapshot {
            words: [0; SNAPSHOT_WORDS],
            length,
        };
        for (index, place) in snapshot.words.iter_mut().enumerate() {
            if index < whole {
                *place = word(index);
            } else if index == whole && rest != 0 {
                *place = word(index) & ((1 << rest) - 1);
            } else {
                break;
            }
        }
        snapshot
    }

    /// The snapshot of a frame of `length` bytes that begins with these words. Bytes behind the
    /// frame's end are dropped.
    #[inline]
    pub fn from_words(words: &[u64; SNAPSHOT_WORDS], length: u32) -> Snapshot {
        Snapshot::read(length, |index| words[index & (SNAPSHOT_WORDS - 1)])
    }

    /// The words, first byte of the frame lowest.
    #[inline]
    pub const fn words(&self) -> &[u64; SNAPSHOT_WORDS] {
        &self.words
    }

    /// The words, without the length.
    #[inline]
    pub const fn into_words(self) -> [u64; SNAPSHOT_WORDS] {
        self.words
    }

    /// Length of the frame in bytes.
    #[inline]
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Number of bytes of the frame that the snapshot holds.
    #[inline]
    pub const fn known(&self) -> u32 {
        if self.length < SNAPSHOT_BYTES {
            self.length
        } else {
            SNAPSHOT_BYTES
        }
    }

    /// Eight bytes from an offset on, the first one lowest. The offset wraps at the end of the
    /// snapshot.
    #[inline]
    pub const fn load(&self, at: u32) -> u64 {
        let index = (at >> 3) as usize;
        let shift = (at & 7) * 8;
        let low = self.words[index & (SNAPSHOT_WORDS - 1)];
        let high = self.words[index.wrapping_add(1) & (SNAPSHOT_WORDS - 1)];
        low >> shift | (high << 1) << (63 - shift)
    }

    /// One byte. The offset wraps as for [`Snapshot::load`].
    #[inline]
    pub const fn byte(&self, at: u32) -> u8 {
        let word = self.words[(at >> 3) as usize & (SNAPSHOT_WORDS - 1)];
        (word >> ((at & 7) * 8)) as u8
    }

    /// Two bytes in network order. The offset wraps as for [`Snapshot::load`].
    #[inline]
    pub const fn be16(&self, at: u32) -> u16 {
        (self.load(at) as u16).swap_bytes()
    }

    /// Four bytes in network order. The offset wraps as for [`Snapshot::load`].
    #[inline]
    pub const fn be32(&self, at: u32) -> u32 {
        (self.load(at) as u32).swap_bytes()
    }

    /// Eight bytes in network order. The offset wraps as for [`Snapshot::load`].
    #[inline]
    pub const fn be64(&self, at: u32) -> u64 {
        self.load(at).swap_bytes()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A word of a frame. Bytes behind the frame are noise, as they may be in a guest's memory.
    pub(crate) fn word(frame: &[u8], index: usize) -> u64 {
        let mut bytes = [0xa5; 8];
        for (byte, value) in bytes.iter_mut().zip(frame.iter().skip(8 * index)) {
            *byte = *value;
        }
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn snapshot(frame: &[u8]) -> Snapshot {
        Snapshot::read(frame.len() as u32, |index| word(frame, index))
    }

    #[test]
    fn bytes_are_those_of_the_frame_and_zero_behind() {
        let frame: Vec<u8> = (1..=200).collect();
        for length in 0..frame.len() {
            let frame = &frame[..length];
            let mut read = 0;
            let snapshot = Snapshot::read(length as u32, |index| {
                assert_eq!(index, read, "each once, in order");
                read += 1;
                word(frame, index)
            });
            assert_eq!(read, length.min(128).div_ceil(8));
            assert_eq!(
                (snapshot.length(), snapshot.known()),
                (length as u32, length.min(128) as u32)
            );
            let bytes: Vec<u8> = (0..128).map(|at| snapshot.byte(at)).collect();
            let known = length.min(128);
            assert_eq!(&bytes[..known], &frame[..known]);
            assert!(bytes[known..].iter().all(|byte| *byte == 0));
            for at in 0..120 {
                let eight = <[u8; 8]>::try_from(&bytes[at..at + 8]).unwrap();
                assert_eq!(snapshot.be64(at as u32), u64::from_be_bytes(eight));
            }
            assert_eq!(
                snapshot,
                Snapshot::from_words(snapshot.words(), length as u32)
            );
        }
    }
}
