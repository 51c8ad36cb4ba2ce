//! Progress: how far a call has come, and how much work it has done.
#![forbid(unsafe_code)]
use postern_abi::service::{MAX_TX_BYTES, MAX_TX_COPIES};

use super::records::{Frame, Records};
use super::sets::PortSet;

/// The point up to which the frame at the head of a TX queue was delivered, where it had more
/// destinations than one call serves.
#[derive(Clone, Copy)]
pub struct Paused {
    /// The first port that was not considered as a destination; 256 if all were.
    pub port: u32,
    /// The mirrors that are still to get a copy.
    pub mirrors: PortSet,
}

impl Paused {
    /// Bit of the word that says that a frame is paused.
    const VALID: u64 = 1 << 63;

    /// The word for a frame of this length at a position of its ring: position, port (9 bits),
    /// length (17 bits).
    pub const fn word(self, position: u32, length: u32) -> u64 {
        Paused::VALID
            | (length as u64 & 0x1_ffff) << 41
            | (self.port as u64 & 0x1ff) << 32
            | position as u64
    }

    /// The port of a word for the frame of this length at this position. A frame of which either has
    /// changed is another frame.
    pub fn port(word: u64, position: u32, length: u32) -> Option<u32> {
        let port = (word >> 32) as u32 & 0x1ff;
        let mirrors = PortSet::default();
        (word == Paused { port, mirrors }.word(position, length)).then_some(port)
    }
}

/// The progress of a call: the frames that it has taken, and those that it may still take.
pub struct Progress {
    /// Number of the TX queue.
    pub queue: u32,
    /// Number of frames that may still be taken.
    pub budget: u32,
    /// Number of looks at records that are left. Each frame takes one look, and so does padding. More
    /// are needed only where the guest changes a frame between two looks, which must not keep the call
    /// from ending.
    pub looks: u32,
    /// Number of frames that were taken.
    pub taken: u32,
    /// Number of bytes of the frames that were taken.
    pub bytes: u64,
    /// Number of bytes of frames that were copied to destinations, or more than a call may copy if
    /// the copies are as many as a call may make.
    pub copied: u64,
    /// Number of copies of frames with several destinations, and of segments.
    pub copies: u32,
    /// What is to be noted of the frame at the head of the queue.
    pub note: Note,
}

/// What a call notes for the next one, after it has published its copies.
#[derive(Clone, Copy)]
pub enum Note {
    /// Nothing.
    Nothing,
    /// The frame that was paused has been taken.
    Taken,
    /// The call ends with a frame of this length, which came this far.
    Paused(u32, Paused),
}

impl Progress {
    /// The progress of a call that may take `budget` frames of a TX queue.
    #[inline]
    pub const fn new(queue: u32, budget: u32) -> Progress {
        Progress {
            queue,
            budget,
            looks: budget.wrapping_mul(2).wrapping_add(4),
            taken: 0,
            bytes: 0,
            copied: 0,
            copies: 0,
            note: Note::Nothing,
        }
    }

    /// Counts copies, and ends the call if they are too many for it to take another frame.
    #[inline]
    pub fn count_copies(&mut self, copies: u32) {
        self.copies = self.copies.wrapping_add(copies);
        if self.copies >= MAX_TX_COPIES {
            self.copied |= MAX_TX_BYTES;
        }
    }

    /// Whether the call has done as much as a call may.
    #[inline]
    pub const fn is_spent(&self) -> bool {
        self.copied >= MAX_TX_BYTES
    }

    /// Number of frames, one or more, that may be copied to so many ports each.
    #[inline]
    pub const fn frames_to(&self, ports: u32) -> u32 {
        // The build for the host's kernel has no division: the ports are taken for a power of two.
        let shift = u32::BITS - ports.saturating_sub(1).leading_zeros();
        let frames = MAX_TX_COPIES.saturating_sub(self.copies) >> (shift & 31);
        if frames == 0 { 1 } else { frames }
    }

    /// Whether another record may be looked at, which counts as one look.
    #[inline]
    pub fn goes_on(&mut self) -> bool {
        let goes_on = self.budget != 0 && self.looks != 0 && !self.is_spent();
        self.looks = self.looks.wrapping_sub(1);
        goes_on
    }

    /// Counts one frame of `length` bytes as taken.
    #[inline]
    pub fn count_taken(&mut self, length: u32) {
        self.budget = self.budget.wrapping_sub(1);
        self.taken = self.taken.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(length.into());
    }

    /// Takes a frame out of its ring, delivered or not.
    #[inline]
    pub fn take(&mut self, records: &mut Records, frame: &Frame) {
        records.advance(frame.size() as u32);
        self.count_taken(frame.length as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_abi::window::MAX_SEGMENT;

    #[test]
    fn a_call_is_spent_by_copies_or_bytes() {
        let mut progress = Progress::new(0, 256);
        for copies in 1..=MAX_TX_COPIES {
            progress.count_copies(1);
            assert_eq!(progress.is_spent(), copies == MAX_TX_COPIES);
        }
        let mut progress = Progress::new(0, 256);
        progress.copied = MAX_TX_BYTES - 1;
        assert!(!progress.is_spent());
        progress.copied += 1;
        assert!(progress.is_spent());
    }

    #[test]
    fn several_frames_are_copied_as_long_as_their_copies_are_few() {
        let mut progress = Progress::new(0, 256);
        for ports in 0..=255 {
            let most = progress.frames_to(ports) * ports;
            assert!(most <= MAX_TX_COPIES, "{ports} ports: {most} copies");
            assert!(
                most * 2 >= MAX_TX_COPIES || ports < 2,
                "{ports} ports: {most} copies"
            );
        }
        progress.copies = MAX_TX_COPIES - 1;
        assert_eq!([1, 2, 255].map(|ports| progress.frames_to(ports)), [1; 3]);
        progress.copies = MAX_TX_COPIES + 255;
        assert_eq!([1, 2, 255].map(|ports| progress.frames_to(ports)), [1; 3]);
    }

    #[test]
    fn a_pause_is_that_of_one_frame() {
        let mirrors = PortSet::default();
        for port in [0, 1, 255, 256] {
            let word = Paused { port, mirrors }.word(0xffff_fff0, MAX_SEGMENT);
            let parse = |position, length| Paused::port(word, position, length);
            assert_eq!(parse(0xffff_fff0, MAX_SEGMENT), Some(port));
            assert!(parse(0xffff_ffe0, MAX_SEGMENT).is_none());
            assert!(parse(0xffff_fff0, MAX_SEGMENT - 1).is_none());
        }
        assert!(Paused::port(0, 0, 0).is_none());
    }
}
