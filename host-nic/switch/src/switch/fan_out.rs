//! Fan out: frames with several destinations, copied to one destination after the other.

use core::mem::MaybeUninit;

use postern_abi::service::{MAX_TX_BYTES, MAX_TX_COPIES};

use super::call::Call;
use super::lanes::Lanes;
use super::progress::Progress;
use super::records::{Addresses, Frame, Records};
use super::run::Run;
use super::sets::PortSet;

/// Most frames that are collected before they are copied.
const MAX_COLLECTED: usize = 32;

impl<'a> Call<'a> {
    /// Takes a run of frames with these addresses, and copies it to each of the ports.
    #[inline(never)]
    pub fn fan_out(
        &self,
        records: &mut Records,
        ports: PortSet,
        addresses: Addresses,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) {
        let copies = ports.count();
        // Most runs are short of the limit on copies, whatever is collected.
        let is_far = progress.copies + copies * (MAX_COLLECTED as u32) < MAX_TX_COPIES;
        let most = match is_far {
            true => MAX_COLLECTED,
            false => progress.frames_to(copies) as usize,
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
        self.copy_to_each(frames, ports, lanes);
        progress.copied = progress
            .copied
            .wrapping_add(bytes.wrapping_mul(copies.into()));
        progress.count_copies(count.wrapping_mul(copies));
    }

    /// Copies frames to each of the ports.
    #[inline(never)]
    fn copy_to_each(&self, frames: &[Frame], mut ports: PortSet, lanes: &mut Lanes<'a>) {
        while let Some(port) = ports.pop() {
            let lane = match lanes.open(self, port, 0) {
                Ok(lane) => lane,
                Err(cause) => {
                    self.sender().count(cause, frames.len() as u64);
                    continue;
                }
            };
            let mut room = lane.room(self);
            // The run that was not counted yet: the room that it began with, its frames and bytes.
            let (mut begun, mut count, mut bytes) = (room.left, 0, 0);
            for frame in frames {
                if frame.size() > room.left {
                    lane.advance(&copied(begun - room.left, count, bytes));
                    let made = lane.make_room(self, frame.size());
                    // Padding may have moved the lane's position even where the room is too small.
                    room = lane.room(self);
                    (begun, count, bytes) = (room.left, 0, 0);
                    if let Err(cause) = made {
                        lane.refuse(self, cause);
                        continue;
                    }
                }
                // SAFETY: the room has `frame.size()` bytes or more, aligned to 16. The frame's
                // record lies in the ring that it was read from, which stays readable during the
                // call.
                unsafe {
                    frame.write(room.to);
                    room.to = room.to.add(frame.size());
                }
                room.left -= frame.size();
                count += 1;
                bytes += frame.length as u64;
            }
            lane.advance(&copied(begun - room.left, count, bytes));
        }
    }
}

/// A run of so many frames, with this many bytes of records and of frames.
const fn copied(size: usize, frames: u32, bytes: u64) -> Run {
    Run {
        size,
        frames,
        bytes,
        ..Run::NOTHING
    }
}
