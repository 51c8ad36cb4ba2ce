//! Progress: how far a call has come.
#![forbid(unsafe_code)]
use super::records::{Frame, Records};

/// The progress of a call: the frames that it has taken, and those that it may still take.
pub struct Progress {
    /// Number of frames that may still be taken.
    pub budget: u32,
    /// Number of frames that were taken.
    pub taken: u32,
    /// Number of bytes of the frames that were taken.
    pub bytes: u64,
    /// Number of bytes of frames that were copied to destinations.
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
