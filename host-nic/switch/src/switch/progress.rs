//! How far a call has come.

use super::records::{Frame, Records};

/// What a call has taken so far, and may still take.
pub struct Progress {
    /// Frames that may still be taken.
    pub budget: u32,
    /// Frames that were taken.
    pub taken: u32,
    /// Bytes of the frames that were taken.
    pub bytes: u64,
    /// Bytes that were copied to destinations.
    pub copied: u64,
}

impl Progress {
    /// Counts one frame of `length` bytes as taken.
    pub fn count_taken(&mut self, length: u32) {
        self.budget = self.budget.wrapping_sub(1);
        self.taken = self.taken.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(length.into());
    }

    /// Takes a frame out of its ring, delivered or not.
    pub fn take(&mut self, records: &mut Records, frame: &Frame) {
        records.advance(frame.size() as u32);
        self.count_taken(frame.length as u32);
    }
}
