//! A batch of frames, copied side by side.

use super::{BATCH, MAX_FRAME};

/// Bytes for one frame: one more than the longest, so that a longer one shows.
pub(super) const SLOT: usize = (MAX_FRAME + 1).next_multiple_of(64);

/// Where a frame of a batch is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// In the memory of the device.
    Whole(&'a [u8]),
    /// The next one of an arena.
    Copied,
}

/// At most [`BATCH`] frames, first in first out.
#[derive(Debug)]
pub(super) struct Arena {
    slots: Box<[[u8; SLOT]]>,
    lengths: Box<[usize; BATCH]>,
    first: usize,
    end: usize,
}

impl Arena {
    pub(super) fn new() -> Arena {
        Arena {
            slots: vec![[0; SLOT]; BATCH].into_boxed_slice(),
            lengths: Box::new([0; BATCH]),
            first: 0,
            end: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.first = 0;
        self.end = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// How many frames can still be added.
    pub(super) fn room(&self) -> usize {
        BATCH - self.end
    }

    /// The memory of the next frame, until [`Arena::add`]; `None` without room.
    pub(super) fn next(&mut self) -> Option<&mut [u8; SLOT]> {
        self.slots.get_mut(self.end)
    }

    /// Adds the frame whose first `length` bytes were written to [`Arena::next`].
    pub(super) fn add(&mut self, length: usize) {
        if let Some(slot) = self.lengths.get_mut(self.end) {
            *slot = length.min(SLOT);
            self.end += 1;
        }
    }

    /// Adds a copy of `frame`; `false` without room or when it is too long.
    pub(super) fn push(&mut self, frame: &[u8]) -> bool {
        let Some(part) = self.next().and_then(|slot| slot.get_mut(..frame.len())) else {
            return false;
        };
        part.copy_from_slice(frame);
        self.add(frame.len());
        true
    }

    /// Forgets the first frame.
    pub(super) fn pop(&mut self) {
        if !self.is_empty() {
            self.first += 1;
        }
        if self.is_empty() {
            self.clear();
        }
    }

    /// The first frame.
    pub(super) fn front(&self) -> Option<&[u8]> {
        self.frames().next()
    }

    /// The frames in order.
    pub(super) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let range = self.first..self.end;
        let lengths = self.lengths.get(range.clone()).unwrap_or_default();
        let slots = self.slots.get(range).unwrap_or_default();
        slots
            .iter()
            .zip(lengths)
            .map(|(slot, &length)| &slot[..length])
    }

    /// Puts the frames of `places` in order into `list`, those that were copied being the frames here; how
    /// many.
    pub(super) fn resolve<'a>(
        &'a self,
        places: [Option<Place<'a>>; BATCH],
        list: &mut [&'a [u8]; BATCH],
    ) -> usize {
        let mut copied = self.frames();
        let frames = places
            .into_iter()
            .flatten()
            .filter_map(|place| match place {
                Place::Whole(frame) => Some(frame),
                Place::Copied => copied.next(),
            });
        let mut count = 0;
        for (entry, frame) in list.iter_mut().zip(frames) {
            *entry = frame;
            count += 1;
        }
        count
    }

    /// Puts the frames in order into `list`; how many.
    pub(super) fn list<'a>(&'a self, list: &mut [&'a [u8]; BATCH]) -> usize {
        let mut count = 0;
        for (place, frame) in list.iter_mut().zip(self.frames()) {
            *place = frame;
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
        let mut arena = Arena::new();
        for number in 0..BATCH {
            assert!(arena.push(&[number as u8; 60]));
        }
        assert_eq!(arena.room(), 0);
        assert!(!arena.push(&[0; 60]), "full");
        for number in 0..BATCH {
            assert_eq!(arena.front(), Some(&[number as u8; 60][..]));
            arena.pop();
        }
        assert!(arena.is_empty());
        assert_eq!(arena.room(), BATCH);
        assert!(!arena.push(&[0; SLOT + 1]), "too long");
        assert!(arena.push(&[7; MAX_FRAME]));
        assert_eq!(arena.front().map(<[u8]>::len), Some(MAX_FRAME));
    }
}
