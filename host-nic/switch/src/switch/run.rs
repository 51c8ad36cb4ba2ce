//! A run: frames in a row with the same addresses, copied to one lane.

use super::records::{Addresses, Stretch};

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// No more frames may be taken.
    Done,
    /// Something else follows, or nothing, or the next frame has no room.
    Other,
}

/// Room in a lane.
#[derive(Clone, Copy)]
pub struct Room {
    /// Where the next record goes.
    pub to: *mut u8,
    /// Bytes that may be written from there.
    pub left: usize,
}

/// What a run copied.
#[derive(Clone, Copy)]
pub struct Run {
    /// Bytes that the frames' records take, in the ring as in the lane.
    pub size: usize,
    /// Frames.
    pub frames: u32,
    /// Bytes of the frames.
    pub bytes: u64,
    /// Why it ended.
    pub stop: Stop,
}

impl Run {
    /// No frame.
    pub const NOTHING: Run = Run {
        size: 0,
        frames: 0,
        bytes: 0,
        stop: Stop::Other,
    };
}

/// Copies at most `budget` ordinary frames with these addresses, none of them more than `span` bytes longer than the
/// shortest, as far as they have room. `budget` is not 0.
///
/// # Safety
/// The stretch is that of a call's records, and so many bytes may be written to the room.
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
    // SAFETY: the contract is the same.
    let (left, bytes) = unsafe { copy(from.record, room.to, all, key, limits) };
    let budget_left = (left >> 32) as u32;
    Run {
        size: all.wrapping_sub(left as u32 as usize),
        frames: budget.wrapping_sub(budget_left),
        bytes,
        stop: match budget_left {
            0 => Stop::Done,
            _ => Stop::Other,
        },
    }
}

/// [`run`] in registers alone, of which it needs most: `limits` is the span, and the budget in the upper half. Returns
/// what is left of the bytes, with what is left of the budget in the upper half, and the bytes of the frames.
///
/// # Safety
/// As [`run`].
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
    // SAFETY: the stretch is what is left of the call's.
    while let Some(frame) = unsafe { from.read(span) } {
        if frame.addresses.first != first || frame.addresses.second as u32 != second {
            break;
        }
        // SAFETY: so many bytes may be written there, and the record was read just now.
        unsafe {
            frame.write(to);
            to = to.add(frame.size());
        }
        from.pass(&frame);
        bytes += frame.length as u64;
        budget = budget.wrapping_sub(1);
        if budget == 0 {
            break;
        }
    }
    (from.left as u64 | u64::from(budget) << 32, bytes)
}
