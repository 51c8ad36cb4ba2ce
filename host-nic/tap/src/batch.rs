//! A batch of frames, copied one behind the other, each behind its `virtio_net_hdr`: the form in
//! which TAPs and packet sockets take and give frames.
#![forbid(unsafe_code)]

use postern_abi::window::{MAX_SEGMENT, RecordHeader};

use crate::frame::{BATCH, Frame};
use crate::virtio_net;

/// Bytes kept free for one frame: one more than the longest, so that a longer one shows.
const ROOM: usize = MAX_SEGMENT as usize + 1;
/// Bytes kept free for one frame and its header.
const ROOM_WITH_HEADER: usize = virtio_net::SIZE + ROOM;

/// A frame of a batch.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    header: RecordHeader,
    /// Offset of the frame.
    start: usize,
    /// Length of the frame.
    length: usize,
}

/// At most [`BATCH`] frames, first in first out.
#[derive(Debug)]
pub struct Batch {
    /// Room for the longest frames. Only the pages that frames lie in take memory.
    bytes: Box<[u8]>,
    entries: Box<[Entry; BATCH]>,
    first: usize,
    end: usize,
    /// Bytes of all frames and their headers, also of those that were removed.
    used: usize,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// A batch of no frames.
    pub fn new() -> Batch {
        Batch {
            bytes: vec![0; BATCH * ROOM_WITH_HEADER].into_boxed_slice(),
            entries: Box::new([Entry::default(); BATCH]),
            first: 0,
            end: 0,
            used: 0,
        }
    }

    /// Removes all frames.
    pub fn clear(&mut self) {
        self.first = 0;
        self.end = 0;
        self.used = 0;
    }

    /// Whether it has no frame.
    pub fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.end - self.first
    }

    /// Number of frames that can still be added.
    pub fn room(&self) -> usize {
        BATCH - self.end
    }

    /// The memory of the next frame and its header, until [`Batch::add`]; `None` without room.
    pub fn next_with_header(&mut self) -> Option<&mut [u8]> {
        if self.room() == 0 {
            return None;
        }
        self.bytes.get_mut(self.used..self.used + ROOM_WITH_HEADER)
    }

    /// The memory of the next frame, until [`Batch::add`]; `None` without room.
    pub fn next_frame(&mut self) -> Option<&mut [u8]> {
        self.next_with_header()?.get_mut(virtio_net::SIZE..)
    }

    /// Adds the frame of `length` bytes that was written to [`Batch::next_frame`].
    pub fn add(&mut self, header: RecordHeader, length: usize) {
        let Some(entry) = self.entries.get_mut(self.end) else {
            return;
        };
        let start = self.used + virtio_net::SIZE;
        let length = length.min(ROOM);
        *entry = Entry {
            header,
            start,
            length,
        };
        if let Some(place) = self.bytes.get_mut(self.used..start) {
            place.copy_from_slice(&virtio_net::encode(header));
        }
        self.used = start + length;
        self.end += 1;
    }

    /// Adds a copy of `frame`; `false` without room, or when it is too long.
    pub fn push(&mut self, frame: Frame<'_>) -> bool {
        let length = frame.bytes.len();
        let Some(part) = self.next_frame().and_then(|next| next.get_mut(..length)) else {
            return false;
        };
        part.copy_from_slice(frame.bytes);
        self.add(frame.header, length);
        true
    }

    /// Removes the first frame.
    pub fn pop(&mut self) {
        if !self.is_empty() {
            self.first += 1;
        }
        if self.is_empty() {
            self.clear();
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.entries.get(self.first..self.end);
        entries.unwrap_or_default().iter()
    }

    /// The bytes of the frames in order, each behind its header.
    pub fn with_headers(&self) -> impl Iterator<Item = &[u8]> {
        self.entries().map(|entry| {
            let (start, end) = (entry.start, entry.start + entry.length);
            let bytes = self.bytes.get(start - virtio_net::SIZE..end);
            bytes.unwrap_or_default()
        })
    }

    /// The bytes of the first frame, behind its header.
    pub fn front_with_header(&self) -> Option<&[u8]> {
        self.with_headers().next()
    }

    /// The first frame.
    pub fn front(&self) -> Option<Frame<'_>> {
        self.frames().next()
    }

    /// The frames in order.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.entries().map(|entry| {
            let bytes = self.bytes.get(entry.start..entry.start + entry.length);
            Frame {
                header: entry.header,
                bytes: bytes.unwrap_or_default(),
            }
        })
    }

    /// Puts the frames in order into `list`; gives their number.
    pub fn list<'a>(&'a self, list: &mut [Frame<'a>; BATCH]) -> usize {
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
            let with_header = batch.front_with_header();
            let expected = [&[0; virtio_net::SIZE][..], &[number as u8; 60]].concat();
            assert_eq!(with_header, Some(&expected[..]));
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
