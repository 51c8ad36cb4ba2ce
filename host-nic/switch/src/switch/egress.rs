//! Egress: a frame as it leaves through a port, with its tag changed, or cut from a large segment.

use postern_abi::window::{RecordHeader, record_size};

use super::records::store;
use crate::copy;
use crate::policy::headers::{Headers, SNAPSHOT_WORDS};
use crate::policy::vlan::Egress;

/// What happens to a frame's customer tag where the frame leaves through a port (IEEE 802.1Q
/// "Egress").
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tagging {
    /// The tag, or its absence, stays as it is.
    Keep,
    /// The tag is taken out.
    Strip,
    /// A tag with this tag control information is put in.
    Insert(u16),
    /// The tag gets this tag control information.
    Replace(u16),
}

impl Tagging {
    /// What happens to the tag of a frame with these headers at a port with this rule for its VLAN,
    /// or nothing if the frame does not leave there.
    #[inline]
    pub fn of(headers: &Headers, egress: Egress) -> Option<Tagging> {
        let vid = headers.vlan;
        match (egress, headers.vlan_tag()) {
            (Egress::Drop, _) => None,
            (Egress::Tagged, None) => Some(Tagging::Insert(vid)),
            (Egress::Tagged, Some(tag)) if tag.vid() == vid => Some(Tagging::Keep),
            (Egress::Tagged, Some(tag)) => Some(Tagging::Replace(tag.tci() & 0xf000 | vid)),
            (Egress::Untagged, None) => Some(Tagging::Keep),
            // The next bridge would go by the second tag.
            (Egress::Untagged, Some(_)) if headers.has_further_tag() => None,
            (Egress::Untagged, Some(_)) => Some(Tagging::Strip),
        }
    }

    /// Number of bytes by which the frame becomes longer.
    #[inline]
    pub const fn shift(self) -> i32 {
        match self {
            Tagging::Keep | Tagging::Replace(_) => 0,
            Tagging::Strip => -4,
            Tagging::Insert(_) => 4,
        }
    }
}

/// Number of 8-byte words of a head, which has room for a snapshot and a tag.
const HEAD_WORDS: usize = SNAPSHOT_WORDS + 1;

/// A frame as it is to leave: its head as words, and the rest where the sender wrote it.
pub struct EgressFrame {
    /// The first bytes of the frame, first byte lowest.
    head: [u64; HEAD_WORDS],
    /// Number of bytes of the head.
    known: u32,
    /// First byte of the rest of the frame.
    rest: *const u8,
    /// Number of bytes of the rest.
    rest_length: u32,
}

/// The four bytes of a customer tag, its type and its control information, as the upper half of a
/// word.
const fn tag_bits(tci: u16) -> u64 {
    (0x0081 | (tci.swap_bytes() as u64) << 16) << 32
}

impl EgressFrame {
    /// The frame whose first `known` bytes are in `words`, with zeros behind them, and whose other
    /// `rest_length` bytes are at `rest`, with its tag changed.
    #[inline(never)]
    pub fn new(
        words: &[u64; SNAPSHOT_WORDS],
        known: u32,
        rest: *const u8,
        rest_length: u32,
        tagging: Tagging,
    ) -> EgressFrame {
        let mut frame = EgressFrame {
            head: [0; HEAD_WORDS],
            known: known.wrapping_add_signed(tagging.shift()),
            rest,
            rest_length,
        };
        let head = &mut frame.head;
        let low = words[1] & 0xffff_ffff;
        head[0] = words[0];
        match tagging {
            Tagging::Keep | Tagging::Replace(_) => {
                for (to, word) in head[1..].iter_mut().zip(&words[1..]) {
                    *to = *word;
                }
                if let Tagging::Replace(tci) = tagging {
                    head[1] = low | tag_bits(tci);
                }
            }
            Tagging::Insert(tci) => {
                head[1] = low | tag_bits(tci);
                let mut carry = words[1] >> 32;
                for (to, word) in head[2..].iter_mut().zip(&words[2..]) {
                    *to = carry | *word << 32;
                    carry = *word >> 32;
                }
                head[HEAD_WORDS - 1] = carry;
            }
            Tagging::Strip => {
                let mut last = low;
                for (to, word) in head[1..].iter_mut().zip(&words[2..]) {
                    *to = last | *word << 32;
                    last = *word >> 32;
                }
                head[SNAPSHOT_WORDS - 1] = last;
            }
        }
        frame
    }

    /// Length of the frame in bytes.
    #[inline]
    pub const fn length(&self) -> u32 {
        self.known.wrapping_add(self.rest_length)
    }

    /// Writes the frame as a record with this header, whose length is filled in. The last 16 bytes
    /// of the record have zeros behind the frame.
    ///
    /// # Safety
    ///
    /// `to` is aligned to 16 bytes and valid for writes of a record of [`EgressFrame::length`]
    /// bytes in shared memory. The bytes that [`EgressFrame::new`] was given as the rest are
    /// readable, and do not overlap with the record.
    #[inline(never)]
    pub unsafe fn write(&self, to: *mut u8, header: RecordHeader) {
        let header = RecordHeader {
            length: self.length(),
            ..header
        };
        let (first, second) = header.words();
        let last = record_size(self.length()) as usize - 16;
        let words = (self.known as usize).div_ceil(8);
        // SAFETY: all stores lie in the caller's record. The head has whole words, of which the
        // last one is followed by the rest or lies in the record's last 16 bytes. The rest is
        // readable, as the caller promises.
        unsafe {
            store(to.add(last), 0);
            store(to.add(last + 8), 0);
            store(to, first);
            store(to.add(8), second);
            for (word, index) in self.head.iter().zip(0..words) {
                store(to.add(16 + index * 8), *word);
            }
            let rest = to.add(16 + self.known as usize);
            copy::bytes(self.rest, rest, self.rest_length as usize);
        }
    }
}
