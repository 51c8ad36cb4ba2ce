//! An input of a fuzzer as numbers, for all fuzz targets. Behind its end there are zeros.
//!
//! ```
//! use postern_fuzz_input::Bytes;
//!
//! let mut input = Bytes(&[1, 2, 3]);
//! assert_eq!((input.u8(), input.u32()), (1, 0x302));
//! assert!(input.is_empty());
//! ```
#![forbid(unsafe_code)]

/// The rest of an input.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most so many bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let taken = self.take(N);
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes, lowest first.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes, lowest first.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes, lowest first.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}
