//! A batch of frames, copied one behind the other.
#![forbid(unsafe_code)]

use postern_abi::window::{MAX_SEGMENT, RecordHeader};

use crate::frame_port::{BATCH, Frame};

/// Bytes kept free for one frame: one more than the longest, so that a longer one shows.
const ROOM: usize = MAX_SEGMENT as usize + 1;

/// A frame of a batch.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    header: RecordHeader,
    start: usize,
    length: usize,
}

/// At most [`BATCH`] frames, first in first out.
#[derive(Debug)]
pub(super) struct Batch {
    /// Room for the longest frames. Only the pages that frames lie in take memory.
    bytes: Box<[u8]>,
    entries: Box<[Entry; BATCH]>,
    first: usize,
    end: usize,
    /// Bytes of all frames, also of those that were removed.
    used: usize,
}

impl Batch {
    pub(super) fn new() -> Batch {
        Batch {
            bytes: vec![0; BATCH * ROOM].into_boxed_slice(),
            entries: Box::new([Entry::default(); BATCH]),
            first: 0,
            end: 0,
            used: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.first = 0;
        self.end = 0;
        self.used = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// Number of frames that can still be added.
    pub(super) fn room(&self) -> usize {
        BATCH - self.end
    }

    /// The memory of the next frame, until [`Batch::add`]; `None` without room.
    pub(super) fn next(&mut self) -> Option<&mut [u8]> {
        if self.room() == 0 {
            return None;
        }
        self.bytes.get_mut(self.used..self.used + ROOM)
    }

    /// Adds the frame whose first `length` bytes were written to [`Batch::next`].
    pub(super) fn add(&mut self, header: RecordHeader, length: usize) {
        if let Some(entry) = self.entries.get_mut(self.end) {
            let start = self.used;
            let length = length.min(ROOM);
            *entry = Entry {
                header,
                start,
                length,
            };
            self.used += length;
            self.end += 1;
        }
    }

    /// Adds a copy of `frame`; `false` without room, or when it is too long.
    pub(super) fn push(&mut self, frame: Frame<'_>) -> bool {
        let length = frame.bytes.len();
        let Some(part) = self.next().and_then(|next| next.get_mut(..length)) else {
            return false;
        };
        part.copy_from_slice(frame.bytes);
        self.add(frame.header, length);
        true
    }

    /// Removes the first frame.
    pub(super) fn pop(&mut self) {
        if !self.is_empty() {
            self.first += 1;
        }
        if self.is_empty() {
            self.clear();
        }
    }

    /// The first frame.
    pub(super) fn front(&self) -> Option<Frame<'_>> {
        self.frames().next()
    }

    /// The frames in order.
    pub(super) fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        let entries = self.entries.get(self.first..self.end).unwrap_or_default();
        entries.iter().map(|entry| {
            let bytes = self.bytes.get(entry.start..entry.start + entry.length);
            Frame {
                header: entry.header,
                bytes: bytes.unwrap_or_default(),
            }
        })
    }

    /// Puts the frames in order into `list`; gives their number.
    pub(super) fn list<'a>(&'a self, list: &mut [Frame<'a>; BATCH]) -> usize {
        let mut count = 0;
        for (entry, frame) in list.iter_mut().zip(self.frames()) {
            *entry = frame;
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_order_and_room_is_bounded() {
        let mut batch = Batch::new();
        for number in 0..BATCH {
            assert!(batch.push(Frame::finished(&[number as u8; 60])));
        }
        assert_eq!(batch.room(), 0);
        assert!(!batch.push(Frame::finished(&[0; 60])), "full");
        for number in 0..BATCH {
            let front = batch.front().map(|frame| frame.bytes);
            assert_eq!(front, Some(&[number as u8; 60][..]));
            batch.pop();
        }
        assert!(batch.is_empty());
        assert_eq!(batch.room(), BATCH);
        let too_long = [0; ROOM + 1];
        assert!(!batch.push(Frame::finished(&too_long)), "too long");
        for _ in 0..BATCH {
            assert!(batch.push(Frame::finished(&too_long[..ROOM])));
        }
        let lengths: Vec<_> = batch.frames().map(|frame| frame.bytes.len()).collect();
        assert_eq!(lengths, [ROOM; BATCH]);
    }
}
