//! A frame between a TAP and a port, and what became of many.
#![forbid(unsafe_code)]

use postern_abi::window::RecordHeader;

/// Most frames in one request to a port or to a device.
pub const BATCH: usize = 64;

/// A frame, with the work on it that its sender has left to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The work, as `struct virtio_net_hdr` describes it; the field `length` means nothing here.
    pub header: RecordHeader,
    /// The frame, from its destination address on, without FCS.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// A frame on which nothing is left to do.
    pub fn finished(bytes: &'a [u8]) -> Frame<'a> {
        Frame {
            header: RecordHeader::default(),
            bytes,
        }
    }
}

/// The reason why a frame is dropped on its way to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The frame, or a segment of it, is longer than [`MAX_FRAME`](postern_abi::window::MAX_FRAME).
    TooLong,
    /// The frame is shorter than [`MIN_FRAME`](postern_abi::window::MIN_FRAME).
    TooShort,
    /// The work that is left to do cannot be expressed, or is not what its headers say.
    Offload,
}

/// Numbers of frames that were found when an interface was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Frames given to the caller.
    pub frames: u64,
    /// Frames dropped: longer than [`MAX_FRAME`](postern_abi::window::MAX_FRAME) (a large segment:
    /// its parts), or cut by the kernel.
    pub too_long: u64,
    /// Frames dropped: shorter than [`MIN_FRAME`](postern_abi::window::MIN_FRAME).
    pub too_short: u64,
    /// Frames dropped: an offload left work undone that no header of a record can express.
    pub offload: u64,
}

impl Received {
    /// Counts a frame that is dropped.
    pub fn count(&mut self, reason: Unusable) {
        match reason {
            Unusable::TooLong => self.too_long += 1,
            Unusable::TooShort => self.too_short += 1,
            Unusable::Offload => self.offload += 1,
        }
    }
}

/// Numbers of frames that were dealt with when an interface was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Frames given to the kernel.
    pub frames: u64,
    /// Bytes of the frames given to the kernel.
    pub bytes: u64,
    /// Frames dropped: longer than the interface sends.
    pub too_long: u64,
    /// Frames dropped: refused by the kernel for another reason (no memory, queue of the interface
    /// full).
    pub refused: u64,
}
