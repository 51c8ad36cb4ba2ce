//! Rate limits: a token bucket in one word.
//!
//! The bucket is that of RFC 2697 ("Metering", one rate): it fills with the committed information
//! rate up to the committed burst size, and a frame passes if the bucket holds as many bytes as the
//! frame has. It is kept in the *virtual scheduling* form of the generic cell rate algorithm (ITU-T
//! I.371, annex A): only one number changes, the theoretical arrival time, at which the bucket will
//! be full again. A frame costs the time in which its bytes flow in. It passes if afterwards the
//! theoretical arrival time is no more ahead of now than the whole burst costs.
//!
//! *What is larger than the burst.* A frame is metered as it is sent on a wire. So a large segment
//! costs what the frames cost that it is cut into, here or by its receiver, and it passes if the
//! first of them does: the others follow at once, and whatever comes next waits until they are paid
//! for. A frame that is itself longer than the burst passes a full bucket, and is paid for likewise.
//! RFC 2697 leaves two ways to that end, to meter frames or to have a burst as large as the largest
//! packet; this is the first one, so that no burst that people set stops a sender for good. In any
//! time, a port passes no more than its rate and its burst allow, and one large segment.
//!
//! Times are in units of 2^-12 ns, modulo 2^64 (52 days); only differences count. Costs are in
//! units of 2^-32 ns a byte. At 400 Gbit/s, 60 bytes cost 1.2 ns, and rounding errs by 0.01 %.
//!
//! *Clock.* The present time comes from the state, where the host writes it.
//!
//! * If the time stands still, because the NIC's owner died, the rest of the burst passes and then
//!   nothing until the time goes on: a limit for which nobody can account is not exceeded.
//! * If the time goes back by less than [`SLACK_NS`] and what the bucket may owe, nothing passes until
//!   it has caught up. A call
//!   that was stopped for a while after it had read the clock sees this too. If the time goes back
//!   further, the bucket counts as empty from then on. (A call that was stopped for longer has this
//!   effect, which gains its port one burst at most.)
//! * A bucket that was not used for weeks may count as empty once, and then fills again.

use postern_abi::window::{MAX_SEGMENT, MAX_SEGMENTS};

use super::snapshot::SNAPSHOT_BYTES;
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// Number of fraction bits of times, in ns.
pub const TIME_BITS: u32 = 12;
/// Number of fraction bits of the cost of a byte, in ns.
pub const COST_BITS: u32 = 32;
/// Most attempts of one frame to take its bytes, each spoiled by another call.
const MAX_TRIES: usize = 4;

/// Most bytes of one frame, or of the frames of one large segment. What has more never passes a
/// limit.
pub const MOST_BYTES: u32 = 1 << 17;
const _: () = assert!(MAX_SEGMENT + MAX_SEGMENTS * (SNAPSHOT_BYTES + 4) <= MOST_BYTES);

/// Most nanoseconds by which the clock may go back without being taken for another clock.
pub const SLACK_NS: u64 = 1 << 30;

/// A token bucket. All zero is *off*: everything passes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Bucket {
    /// Cost of a byte, in units of 2^-32 ns; 0 is off.
    cost: AtomicU64,
    /// Cost of the whole burst, in units of 2^-12 ns.
    burst: AtomicU64,
    /// Theoretical arrival time, in units of 2^-12 ns.
    arrival: AtomicU64,
}

impl Bucket {
    /// Installs a limit, on the host's side. `cost` is the time that a byte takes, in units of
    /// 2^-[`COST_BITS`] ns, 0 for no limit. `burst` is the time that the whole burst takes, in
    /// units of 2^-[`TIME_BITS`] ns. Bytes that were taken from the bucket stay taken. Calls may
    /// meanwhile combine the old rate with the new burst.
    pub fn install(&self, cost: u64, burst: u64) {
        if cost != 0 {
            self.burst.store(burst, Relaxed);
        }
        self.cost.store(cost, Relaxed);
    }

    /// Whether there is no limit.
    pub fn is_off(&self) -> bool {
        self.cost.load(Relaxed) == 0
    }

    /// Takes the bytes of a frame out of the bucket at the time `now_ns`, if it holds as many or is
    /// full. Returns whether it does, and the frame may pass. The caller chooses which bytes of a
    /// frame count (with or without FCS, preamble and gap).
    ///
    /// It is one load if the bucket is off. Where other calls take bytes at the same moment, there
    /// are no more than four attempts; then the frame is refused.
    #[inline]
    pub fn take(&self, now_ns: u64, bytes: u32) -> bool {
        self.take_all(now_ns, bytes, bytes)
    }

    /// [`Bucket::take`] for frames that pass together: the first of them has `first` bytes, which the
    /// bucket must hold, and all of them have `bytes`, which are taken.
    #[inline]
    pub fn take_all(&self, now_ns: u64, first: u32, bytes: u32) -> bool {
        let cost = self.cost.load(Relaxed);
        cost == 0 || self.take_at(cost, now_ns, first, bytes)
    }

    /// Gives the bytes of a frame back that is not sent now.
    #[inline]
    pub fn give_back(&self, bytes: u32) {
        let cost = self.cost.load(Relaxed);
        if cost != 0 {
            let _ = self.arrival.fetch_sub(frame_cost(cost, bytes), Relaxed);
        }
    }

    /// [`Bucket::take`] where the bucket is not off.
    #[inline]
    fn take_at(&self, cost: u64, now_ns: u64, first: u32, bytes: u32) -> bool {
        if bytes > MOST_BYTES {
            return false;
        }
        let burst = self.burst.load(Relaxed);
        // The most that the bucket may owe.
        let most = frame_cost(cost, MOST_BYTES);
        let needed = frame_cost(cost, first);
        let cost = frame_cost(cost, bytes);
        let now = now_ns << TIME_BITS;
        let mut arrival = self.arrival.load(Relaxed);
        for _ in 0..MAX_TRIES {
            let mut ahead = arrival.wrapping_sub(now);
            if ahead > i64::MAX as u64 {
                // The arrival time is in the past: the bucket is full.
                ahead = 0;
            }
            if ahead > burst {
                if ahead - burst > (SLACK_NS << TIME_BITS).saturating_add(most) {
                    // The arrival time is that of another clock. If another call changes it
                    // meanwhile, it needs no change by this one.
                    let empty = now.wrapping_add(burst);
                    let _ = self
                        .arrival
                        .compare_exchange(arrival, empty, Relaxed, Relaxed);
                }
                return false;
            }
            if needed > burst - ahead && ahead != 0 {
                return false;
            }
            let next = now.wrapping_add(ahead).wrapping_add(cost);
            match self
                .arrival
                .compare_exchange(arrival, next, Relaxed, Relaxed)
            {
                Ok(_) => return true,
                Err(other) => arrival = other,
            }
        }
        false
    }
}

/// Cost of `bytes` bytes, in units of 2^-[`TIME_BITS`] ns. `cost` is that of a byte, in units of
/// 2^-[`COST_BITS`] ns.
#[inline]
pub fn frame_cost(cost: u64, bytes: u32) -> u64 {
    const SHIFT: u32 = COST_BITS - TIME_BITS;
    let product = u128::from(cost) * u128::from(bytes) + (1 << (SHIFT - 1));
    let cost = product >> SHIFT;
    if cost > u128::from(u64::MAX) {
        u64::MAX
    } else {
        cost as u64
    }
}
