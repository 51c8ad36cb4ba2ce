//! Fan out: frames with several destinations, copied to one after the other.

use core::mem::MaybeUninit;

use postern_abi::service::MAX_TX_BYTES;

use super::call::Call;
use super::lanes::Lanes;
use super::progress::Progress;
use super::records::{Addresses, Frame, Records};
use super::run::Run;
use super::sets::PortSet;

/// Number of frames that are collected at most before they are copied.
const COLLECTED: usize = 32;

impl<'a> Call<'a> {
    /// Takes a run of frames with the same addresses and copies it to each of the ports.
    #[inline(never)]
    pub fn fan_out(
        &self,
        records: &mut Records,
        mut ports: PortSet,
        addresses: Addresses,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) {
        let copies = u64::from(ports.count());
        let mut frames = [const { MaybeUninit::<Frame>::uninit() }; COLLECTED];
        let mut count = 0;
        let mut bytes = 0u64;
        for place in &mut frames {
            // SAFETY: the stretch is that of the records.
            match unsafe { records.stretch().read(self.caller.span) } {
                Some(frame) if frame.addresses.same_way(addresses) => {
                    records.advance(frame.size() as u32);
                    bytes = bytes.wrapping_add(frame.length as u64);
                    place.write(frame);
                    count += 1;
                }
                _ => break,
            }
            progress.budget = progress.budget.wrapping_sub(1);
            let copied = bytes.wrapping_mul(copies).wrapping_add(progress.copied);
            if progress.budget == 0 || copied >= MAX_TX_BYTES {
                break;
            }
        }
        progress.taken = progress.taken.wrapping_add(count);
        progress.bytes = progress.bytes.wrapping_add(bytes);
        // SAFETY: the first `count` elements were written, and there are not more.
        let frames: &[Frame] =
            unsafe { core::slice::from_raw_parts(frames.as_ptr().cast(), count as usize & 63) };
        while let Some(port) = ports.pop() {
            progress.copied = progress.copied.wrapping_add(bytes);
            let lane = lanes.open(self, port, 0);
            let mut room = lane.room(self);
            let mut run = Run::NOTHING;
            for frame in frames {
                if frame.size() > room.left {
                    lane.advance(&run);
                    run = Run::NOTHING;
                    let made = lane.make_room(self, frame.size());
                    // Padding may have moved it even if it does not do.
                    room = lane.room(self);
                    if let Err(cause) = made {
                        lane.refuse(self, cause);
                        continue;
                    }
                }
                // SAFETY: so many bytes may be written there; the record's bounds were checked.
                unsafe {
                    frame.write(room.to);
                    room.to = room.to.add(frame.size());
                }
                room.left -= frame.size();
                run.size += frame.size();
                run.frames += 1;
                run.bytes += frame.length as u64;
            }
            lane.advance(&run);
        }
    }
}
