//! Fan out: frames with several destinations, copied to one destination after the other.

use core::mem::MaybeUninit;

use postern_abi::service::{MAX_TX_BYTES, MAX_TX_COPIES};
use postern_abi::window::PortId;

use super::call::Call;
use super::holder::HeldLanes;
use super::lane::{Ends, Lane};
use super::progress::Progress;
use super::records::{Addresses, Frame, Records};
use super::sets::PortSet;
use crate::state::Cause;
use crate::sync::Ordering::Relaxed;

/// Most frames that are collected before they are copied.
const MAX_COLLECTED: usize = 32;

impl<'a> Call<'a> {
    /// Takes a run of frames with these addresses, and copies it to each of the ports.
    ///
    /// # Safety
    ///
    /// The NIC has all of the ports.
    #[inline(never)]
    pub unsafe fn fan_out(
        &self,
        records: &mut Records,
        ports: PortSet,
        addresses: Addresses,
        progress: &mut Progress,
    ) {
        // Counting takes longer than an estimate, and most runs are short of the limit on copies, whatever
        // is collected.
        let estimate = self.caller.geometry().ports();
        let is_far = progress.copies + estimate * (MAX_COLLECTED as u32) < MAX_TX_COPIES;
        let (copies, most) = match is_far {
            true => (estimate, MAX_COLLECTED),
            false => (ports.count(), progress.frames_to(ports.count()) as usize),
        };
        let mut frames = [const { MaybeUninit::<Frame>::uninit() }; MAX_COLLECTED];
        let mut count = 0;
        let mut bytes = 0u64;
        for element in frames.iter_mut().take(most) {
            // SAFETY: the stretch was made from the records just now.
            match unsafe { records.stretch().read(self.caller.span) } {
                Some(frame) if frame.addresses.same_way(addresses) => {
                    records.advance(frame.size() as u32);
                    bytes = bytes.wrapping_add(frame.length as u64);
                    element.write(frame);
                    count += 1;
                }
                _ => break,
            }
            progress.budget = progress.budget.wrapping_sub(1);
            let copied = bytes
                .wrapping_mul(copies.into())
                .wrapping_add(progress.copied);
            if progress.budget == 0 || copied >= MAX_TX_BYTES {
                break;
            }
        }
        progress.taken = progress.taken.wrapping_add(count);
        progress.bytes = progress.bytes.wrapping_add(bytes);
        // SAFETY: the loop wrote the first `count` elements, at most `MAX_COLLECTED`, which is
        // below 64.
        let frames: &[Frame] =
            unsafe { core::slice::from_raw_parts(frames.as_ptr().cast(), count as usize & 63) };
        let Some((first, others)) = frames.split_first() else {
            return;
        };
        // Values of their own, whose words stay in registers.
        let call = *self;
        let held = call.held_lanes();
        let mut copies = 0;
        ports.for_each(|port| {
            // SAFETY: the caller vouches for the ports.
            unsafe { call.copy_to(&held, port, first, others) };
            copies += 1;
        });
        progress.copied = progress
            .copied
            .wrapping_add(bytes.wrapping_mul(copies.into()));
        progress.count_copies(count.wrapping_mul(copies));
    }

    /// Copies frames to a port, and publishes them there.
    ///
    /// # Safety
    ///
    /// The NIC has the port.
    #[inline(always)]
    unsafe fn copy_to(
        &self,
        held: &HeldLanes<'_, 'a>,
        port: PortId,
        first: &Frame,
        others: &[Frame],
    ) {
        // SAFETY: the caller promises that the NIC has the port. Frames are fanned out where each port
        // has one queue; elsewhere the number of a port is that of some queue, too.
        match unsafe { held.ready(port, port.number(), false) } {
            Some(ends) => self.copy_into(&ends, first, others),
            // SAFETY: likewise.
            None => unsafe { self.prepare_and_copy_to(port, first, others) },
        }
    }

    /// Copies frames to a port in whose queue 0 the sender has no lane that is ready.
    ///
    /// # Safety
    ///
    /// The NIC has the port.
    #[cold]
    #[inline(never)]
    unsafe fn prepare_and_copy_to(&self, port: PortId, first: &Frame, others: &[Frame]) {
        // SAFETY: the caller promises that the NIC has the port, which has a queue 0.
        match unsafe { self.prepare_lane(port, 0) } {
            Some(ends) => self.copy_into(&ends, first, others),
            None => self.sender().count(Cause::NoLane, others.len() as u64 + 1),
        }
    }

    /// Copies frames into a lane, and publishes them.
    #[inline(always)]
    fn copy_into(&self, ends: &Ends<'a>, first: &Frame, others: &[Frame]) {
        let mut position = ends.state.published.load(Relaxed);
        let limit = ends.state.limit.load(Relaxed);
        let (mut copied, mut bytes) = (0, 0);
        let mut frame = first;
        loop {
            let behind = position.wrapping_add(frame.size() as u64);
            if behind > limit {
                self.copy_without_room(ends, (position, copied, bytes), first, others);
                return;
            }
            // SAFETY: the limit says that there is room for the frame's record, which lies in the
            // ring that it was read from, and that stays readable during the call.
            unsafe { frame.write_alone(ends.at(self, position as u32)) };
            position = behind;
            bytes += frame.length as u64;
            match others.get(copied) {
                Some(next) => frame = next,
                None => break,
            }
            copied += 1;
        }
        ends.count(copied as u64 + 1, bytes);
        ends.publish(self, position);
    }

    /// Goes on with [`Call::copy_into`] behind as many frames as were copied, where the lane has no room
    /// for the next one without a look at what the receiver has read.
    #[cold]
    #[inline(never)]
    fn copy_without_room(
        &self,
        ends: &Ends<'a>,
        (position, copied, bytes): (u64, usize, u64),
        first: &Frame,
        others: &[Frame],
    ) {
        if copied != 0 {
            ends.count(copied as u64, bytes);
            ends.publish(self, position);
        }
        let mut lane = Lane::resume(self, *ends, 0);
        let frames = core::iter::once(first).chain(others);
        for frame in frames.skip(copied) {
            if frame.size() > lane.room_left()
                && let Err(cause) = lane.make_room(self, frame.size())
            {
                lane.refuse(self, cause);
                continue;
            }
            // SAFETY: the lane has room for the frame's record, which lies in the ring that it was
            // read from, and that stays readable during the call.
            unsafe { lane.emit(self, frame) };
            lane.pass(frame.length as u32);
        }
        lane.publish(self);
    }
}
