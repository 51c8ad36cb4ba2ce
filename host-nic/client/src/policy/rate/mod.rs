//! Rate limits as people and programs write them.
#![deny(unsafe_code)]

use postern_switch::policy::rate::{Bucket, COST_BITS, TIME_BITS, frame_cost};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Lowest rate, in bits a second.
pub const MIN_RATE: u64 = 8_000;
/// Highest rate, in bits a second.
pub const MAX_RATE: u64 = 400_000_000_000;
/// Smallest burst, in bytes: an Ethernet frame of the usual size with a tag and FCS. A frame longer
/// than the burst passes when the bucket is full ([`postern_switch::policy::rate`]).
pub const MIN_BURST: u32 = 1522;
/// Longest time that a burst may take to flow in at its rate, in ns: about 18 minutes.
pub const MAX_BURST_NS: u64 = 1 << 40;

/// A rate limit that is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RateError {
    /// The rate is out of range.
    #[error("a rate of {0} bit/s is out of range: {MIN_RATE} to {MAX_RATE}")]
    Rate(u64),
    /// The burst is smaller than a frame.
    #[error(
        "a burst of {0} bytes is too small: the least is {MIN_BURST}, so that whole frames pass"
    )]
    Burst(u32),
    /// The burst is too large for the rate.
    #[error("a burst of {burst} bytes takes too long at {rate} bit/s: the most is {most} bytes")]
    Long {
        /// The burst in bytes.
        burst: u32,
        /// The rate in bits a second.
        rate: u64,
        /// The largest burst at this rate.
        most: u64,
    },
}

/// A rate limit as people and programs write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Committed information rate, in bits a second.
    pub bits_per_second: u64,
    /// Committed burst size, in bytes.
    pub burst_bytes: u32,
}

impl RateLimit {
    /// Cost of a byte, and of the whole burst.
    ///
    /// # Errors
    ///
    /// A [`RateError`] that names what is out of range.
    fn costs(self) -> Result<(u64, u64), RateError> {
        let rate = self.bits_per_second;
        if !(MIN_RATE..=MAX_RATE).contains(&rate) {
            return Err(RateError::Rate(rate));
        }
        if self.burst_bytes < MIN_BURST {
            return Err(RateError::Burst(self.burst_bytes));
        }
        // 8 bits a byte, 10^9 ns a second; below 2^53 for the lowest rate.
        let second = 8_000_000_000_u128 << COST_BITS;
        let cost = ((second + u128::from(rate) / 2) / u128::from(rate)) as u64;
        let burst = frame_cost(cost, self.burst_bytes);
        if burst > MAX_BURST_NS << TIME_BITS {
            let most = u128::from(MAX_BURST_NS) * u128::from(rate) / 8_000_000_000;
            return Err(RateError::Long {
                burst: self.burst_bytes,
                rate,
                most: most as u64,
            });
        }
        Ok((cost, burst))
    }

    /// Whether a bucket would take this limit.
    ///
    /// # Errors
    ///
    /// A [`RateError`] that names what is out of range.
    pub fn check(self) -> Result<(), RateError> {
        self.costs().map(|_| ())
    }

    /// Limits a port's bucket to a rate, or not at all. What was taken from the bucket stays taken.
    ///
    /// # Errors
    ///
    /// A [`RateError`] that names what is out of range; the old limit stays then.
    pub fn install(limit: Option<RateLimit>, bucket: &Bucket) -> Result<(), RateError> {
        let (cost, burst) = match limit {
            Some(limit) => limit.costs()?,
            None => (0, 0),
        };
        bucket.install(cost, burst);
        Ok(())
    }
}

#[cfg(test)]
#[expect(
    unsafe_code,
    reason = "words of the switch are made and looked at directly"
)]
mod tests;
