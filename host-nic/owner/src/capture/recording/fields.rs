//! Numbers in a part of a file, in the byte order of the machine that wrote it.
#![forbid(unsafe_code)]

/// A byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

/// A part of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) order: Order,
}

impl Fields<'_> {
    fn chunk<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = *self.bytes.get(at..)?.first_chunk()?;
        if self.order == Order::Big {
            bytes.reverse();
        }
        Some(bytes)
    }

    /// The number in two bytes; `None` behind the end.
    pub(super) fn u16(&self, at: usize) -> Option<u16> {
        self.chunk(at).map(u16::from_le_bytes)
    }

    /// The number in four bytes; `None` behind the end.
    pub(super) fn u32(&self, at: usize) -> Option<u32> {
        self.chunk(at).map(u32::from_le_bytes)
    }

    /// The number in eight bytes; `None` behind the end.
    pub(super) fn i64(&self, at: usize) -> Option<i64> {
        self.chunk(at).map(i64::from_le_bytes)
    }
}
