//! Rate limits: a token bucket in one word.
//!
//! The bucket is the one of RFC 2697 ("Metering", one rate): it fills with the committed information rate
//! up to the committed burst size, and a frame passes if the bucket holds as many bytes as it has. It is
//! kept as the *virtual scheduling* form of the generic cell rate algorithm (ITU-T I.371, annex A): the only
//! thing that changes is the theoretical arrival time, the moment at which the bucket will be full again.
//! A frame costs the time in which its bytes flow in; it passes if afterwards the theoretical arrival
//! time is no more ahead of now than the whole burst costs.
//!
//! Times are in units of 2^-12 ns, modulo 2^64 (52 days); only differences count. Costs are in 2^-32 ns a
//! byte. At 400 Gbit/s, 60 bytes cost 1.2 ns, and rounding errs by 0.01 %.
//!
//! *Clocks.* `now` comes from a page that the host writes.
//!
//! * If it stands still, because its owner died, what is left of the burst passes and then nothing, until
//!   it goes on: a limit that nobody can account for is not exceeded.
//! * If it goes back by less than [`SLACK_NS`], nothing passes until it has caught up, which is also what
//!   a caller sees that was stopped for a while after it had read the clock. If it goes back further, the
//!   bucket counts as empty from there on. (A caller that was stopped for longer has the same effect,
//!   which gains its port one burst at most.)
//! * A bucket that was not used for weeks may count as empty once, and then fills as ever.

use crate::sync::{AtomicU64, Ordering::Relaxed};

/// Fraction bits of times.
pub const TIME_BITS: u32 = 12;
/// Fraction bits of the cost of a byte in ns.
pub const COST_BITS: u32 = 32;
/// Attempts of one frame to take its bytes, each spoiled by another caller.
const TRIES: usize = 4;

/// How far a clock may go back without being taken for another one, in ns.
pub const SLACK_NS: u64 = 1 << 30;

/// A token bucket. All zero is *off*: everything passes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Bucket {
    /// 2^-32 ns a byte; 0 is off.
    cost: AtomicU64,
    /// What the whole burst costs, in units.
    burst: AtomicU64,
    /// Theoretical arrival time, in units.
    arrival: AtomicU64,
}

impl Bucket {
    /// Limits to a rate: `cost` is the time that a byte takes, in units of 2^-[`COST_BITS`] ns, 0 for no
    /// limit; `burst` the time that the whole burst takes, in units of 2^-[`TIME_BITS`] ns. The host's
    /// side. Bytes that were taken from the bucket stay taken; callers meanwhile may combine the old
    /// rate with the new burst.
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

    /// Whether a frame of `bytes` may pass at the time `now_ns`; takes its bytes if so. What counts as a
    /// frame's bytes (with or without FCS, preamble and gap) is the caller's choice.
    ///
    /// One load if the bucket is off. No more than four attempts where other callers take bytes at the
    /// same moment; then the frame is refused.
    #[inline]
    pub fn take(&self, now_ns: u64, bytes: u32) -> bool {
        let cost = self.cost.load(Relaxed);
        cost == 0 || self.take_at(cost, now_ns, bytes)
    }

    /// Gives back what a frame took that is not sent now.
    #[inline]
    pub fn give_back(&self, bytes: u32) {
        let cost = self.cost.load(Relaxed);
        if cost != 0 {
            let _ = self.arrival.fetch_sub(frame_cost(cost, bytes), Relaxed);
        }
    }

    #[inline]
    fn take_at(&self, cost: u64, now_ns: u64, bytes: u32) -> bool {
        let burst = self.burst.load(Relaxed);
        let cost = frame_cost(cost, bytes);
        let now = now_ns << TIME_BITS;
        let mut arrival = self.arrival.load(Relaxed);
        for _ in 0..TRIES {
            let mut ahead = arrival.wrapping_sub(now);
            if ahead > i64::MAX as u64 {
                // It is in the past: the bucket is full.
                ahead = 0;
            }
            if ahead > burst {
                if ahead - burst > SLACK_NS << TIME_BITS {
                    // By another clock. If somebody else changes it meanwhile, all the better.
                    let empty = now.wrapping_add(burst);
                    let _ = self
                        .arrival
                        .compare_exchange(arrival, empty, Relaxed, Relaxed);
                }
                return false;
            }
            if cost > burst - ahead {
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

/// What `bytes` cost, in units.
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
