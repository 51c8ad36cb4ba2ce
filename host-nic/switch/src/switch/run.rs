//! A run: frames in a row with the same addresses, copied to one lane.

use super::records::{Addresses, Stretch};

/// Room in a lane.
#[derive(Clone, Copy)]
pub struct Room {
    /// Address of the next record.
    pub to: *mut u8,
    /// Number of bytes that may be written from there.
    pub left: usize,
}

/// A run that was copied.
#[derive(Clone, Copy)]
pub struct Run {
    /// Number of bytes of the frames' records, in the ring as in the lane.
    pub size: usize,
    /// Number of frames.
    pub frames: u32,
    /// Number of bytes of the frames.
    pub bytes: u64,
}

/// Copies at most `budget` ordinary frames with these addresses, none of them more than `span`
/// bytes longer than the shortest frame, as far as they have room. `budget` is not 0.
///
/// # Safety
///
/// The stretch is one that [`Records::stretch`](super::records::Records::stretch) gave. The room is
/// aligned to 16 bytes and valid for writes of as many bytes as it says, in shared memory.
#[inline(always)]
pub unsafe fn run(from: Stretch, room: Room, addresses: Addresses, span: u16, budget: u32) -> Run {
    // One number bounds both sides.
    let all = if room.left < from.left {
        room.left
    } else {
        from.left
    };
    let key = (addresses.first, addresses.second as u32);
    let limits = u64::from(span) | u64::from(budget) << 32;
    // SAFETY: `all` bytes lie in the stretch, and may be written to the room.
    let (left, bytes) = unsafe { copy(from.record, room.to, all, key, limits) };
    let budget_left = (left >> 32) as u32;
    Run {
        size: all.wrapping_sub(left as u32 as usize),
        frames: budget.wrapping_sub(budget_left),
        bytes,
    }
}

/// [`run`] in registers alone, of which it needs most. `left` is the number of bytes on both sides,
/// `limits` the span in the lower half and the budget in the upper half. Returns the number of
/// bytes that are left, with what is left of the budget in the upper half, and the number of bytes
/// of the frames.
///
/// # Safety
///
/// `record` is the first byte of a stretch of [`run`]'s caller that has `left` bytes or more. `to`
/// is aligned to 16 bytes and valid for writes of `left` bytes in shared memory.
#[inline(never)]
unsafe fn copy(
    record: *const u8,
    mut to: *mut u8,
    left: usize,
    (first, second): (u64, u32),
    limits: u64,
) -> (u64, u64) {
    let span = limits as u16;
    let mut budget = (limits >> 32) as u32;
    let mut bytes = 0;
    let mut from = Stretch { record, left };
    // SAFETY: the stretch is the part that `pass` has left of the caller's.
    while let Some(frame) = unsafe { from.read(span) } {
        if frame.addresses.first != first || frame.addresses.second as u32 != second {
            break;
        }
        // SAFETY: the frame's record lies in what is left of the stretch, so as many bytes are left
        // to be written; the record was read just now.
        unsafe {
            frame.write(to);
            to = to.add(frame.size());
        }
        from.pass(frame.size());
        bytes += frame.length as u64;
        budget = budget.wrapping_sub(1);
        if budget == 0 {
            break;
        }
    }
    (from.left as u64 | u64::from(budget) << 32, bytes)
}
