//! A port of a NIC as a program of the host uses it: frames out, frames in, in batches.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

pub use postern_tap::{BATCH, Frame};

/// A port of a NIC, as a program of the host uses it.
///
/// [`send`](FramePort::send) and [`receive`](FramePort::receive) move finished frames, which every
/// port does. A port whose user calls [`agree`](FramePort::agree) also moves frames with work left
/// to do, by [`send_frames`](FramePort::send_frames) and
/// [`receive_frames`](FramePort::receive_frames).
pub trait FramePort {
    /// Sends finished frames in order, in one request; gives the number of those that were taken.
    fn send(&mut self, frames: &[&[u8]]) -> usize;

    /// Gives at most `most` waiting frames to `sink`; gives their number.
    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize;

    /// Offers features (`FEATURE_*` of [`postern_abi::window`]): kinds of unfinished frames that
    /// the user of the port takes, and may send. Gives those that are agreed on from now on.
    fn agree(&mut self, _features: u32) -> u32 {
        0
    }

    /// Length of the longest large segment that the port takes, in bytes.
    fn longest_segment(&self) -> usize {
        0
    }

    /// Sends frames in order, in one request; gives the number of those that were taken. None of
    /// them needs a feature that was not agreed on.
    fn send_frames(&mut self, frames: &[Frame<'_>]) -> usize {
        let mut taken = 0;
        for part in frames.chunks(BATCH) {
            let mut list: [&[u8]; BATCH] = [&[]; BATCH];
            for (entry, frame) in list.iter_mut().zip(part) {
                *entry = frame.bytes;
            }
            let sent = self.send(list.get(..part.len()).unwrap_or_default());
            taken += sent;
            if sent < part.len() {
                break;
            }
        }
        taken
    }

    /// Gives at most `most` waiting frames to `sink`, unfinished ones as far as that was agreed
    /// on; gives their number.
    fn receive_frames(&mut self, most: usize, sink: &mut dyn FnMut(Frame<'_>)) -> usize {
        self.receive(most, &mut |bytes| sink(Frame::finished(bytes)))
    }

    /// Eventfds that are signalled when frames come while the port is armed ([`FramePort::arm`]); none
    /// where nothing tells of frames, and the port's user looks for them.
    fn bells(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Has whoever sends frames to the port ring its bells. False, and nothing is done, if there may
    /// be frames already. Whoever never rings is noticed by the NIC's owner, a tenth of a second later.
    fn arm(&mut self) -> bool {
        false
    }

    /// Ends what [`FramePort::arm`] began, before the next frames are received.
    fn disarm(&mut self) {}

    /// Has the NIC forget the stations that it has learned behind the port, since the way to them was
    /// lost.
    fn forget_stations(&mut self) {}
}

impl<P: FramePort + ?Sized> FramePort for &mut P {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        (**self).send(frames)
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        (**self).receive(most, sink)
    }

    fn agree(&mut self, features: u32) -> u32 {
        (**self).agree(features)
    }

    fn longest_segment(&self) -> usize {
        (**self).longest_segment()
    }

    fn send_frames(&mut self, frames: &[Frame<'_>]) -> usize {
        (**self).send_frames(frames)
    }

    fn receive_frames(&mut self, most: usize, sink: &mut dyn FnMut(Frame<'_>)) -> usize {
        (**self).receive_frames(most, sink)
    }

    fn bells(&self) -> Vec<BorrowedFd<'_>> {
        (**self).bells()
    }

    fn arm(&mut self) -> bool {
        (**self).arm()
    }

    fn disarm(&mut self) {
        (**self).disarm();
    }

    fn forget_stations(&mut self) {
        (**self).forget_stations();
    }
}
