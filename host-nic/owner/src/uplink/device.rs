//! A network interface as an uplink uses it.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use postern_abi::window::MAX_FRAME;

use super::error::UplinkError;
use super::link::Link;
use crate::frame_port::Frame;

pub use postern_tap::{Flushed, Received};

/// A network interface as an uplink uses it. No call waits.
pub trait Device {
    /// The interface.
    fn link(&mut self) -> &mut Link;

    /// The descriptor that becomes readable when a frame arrives.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Length of the longest finished frame that [`Device::stage`] takes, in bytes.
    fn longest(&self) -> usize {
        MAX_FRAME as usize
    }

    /// The kinds of unfinished frames that [`Device::stage`] takes, `FEATURE_*` of
    /// [`postern_abi::window`].
    fn features(&self) -> u32 {
        0
    }

    /// Says which kinds of unfinished frames, out of [`Device::features`], the port takes. The
    /// device may still receive others, as far as its kernel does not finish them.
    ///
    /// # Errors
    ///
    /// The interface is gone, or the kernel refuses.
    fn accept(&mut self, _features: u32) -> Result<(), UplinkError> {
        Ok(())
    }

    /// Gives at most [`BATCH`](crate::frame_port::BATCH) waiting frames, in order and in place, to
    /// `deliver`. Each has been checked against its header.
    ///
    /// # Errors
    ///
    /// The interface is gone or down, or the kernel refuses.
    fn receive(&mut self, deliver: &mut dyn FnMut(&[Frame<'_>])) -> Result<Received, UplinkError>;

    /// Number of frames that can be staged now.
    fn room(&mut self) -> usize;

    /// Takes one frame for sending. Without room it is lost.
    fn stage(&mut self, frame: Frame<'_>);

    /// Sends the staged frames in order. Those that the kernel has no room for stay staged.
    ///
    /// # Errors
    ///
    /// The interface is gone or down, or the kernel refuses.
    fn flush(&mut self) -> Result<Flushed, UplinkError>;

    /// Drops the staged frames that the kernel does not have yet; gives their number.
    fn discard(&mut self) -> u64 {
        0
    }

    /// Whether staged frames wait until the descriptor is writable.
    fn waits_to_send(&self) -> bool;

    /// Number of frames that the kernel dropped because they were not fetched in time, since the
    /// last call.
    fn missed(&mut self) -> u64;
}
