use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;

use postern_switch::policy::rate::{MOST_BYTES, SLACK_NS};

use super::*;

const SECOND: u64 = 1_000_000_000;

fn limit(bits_per_second: u64, burst_bytes: u32) -> RateLimit {
    RateLimit {
        bits_per_second,
        burst_bytes,
    }
}

/// The theoretical arrival time, the third word of a bucket.
fn arrival_word(bucket: &Bucket) -> &AtomicU64 {
    // SAFETY: `Bucket` is made of three atomic words, in the order of its documentation.
    unsafe { &*(&raw const *bucket).cast::<AtomicU64>().add(2) }
}

fn bucket(bits_per_second: u64, burst_bytes: u32) -> Bucket {
    let bucket = Bucket::default();
    RateLimit::install(Some(limit(bits_per_second, burst_bytes)), &bucket).unwrap();
    bucket
}

/// Bytes that pass at one moment.
fn drain(bucket: &Bucket, now: u64, frame: u32) -> u64 {
    let mut bytes = 0;
    while bucket.take(now, frame) {
        bytes += u64::from(frame);
    }
    bytes
}

/// A time long after the bucket's arrival time of zero, as all times are but one in 2^10.
const START: u64 = 1_700_000_000 * SECOND;

#[test]
fn zero_is_off() {
    let bucket = Bucket::default();
    assert!(bucket.is_off());
    for _ in 0..1000 {
        assert!(bucket.take(0, u32::MAX));
    }
    RateLimit::install(Some(limit(MIN_RATE, MIN_BURST)), &bucket).unwrap();
    assert!(!bucket.take(START, u32::MAX));
    RateLimit::install(None, &bucket).unwrap();
    assert!(bucket.take(START, u32::MAX));
}

#[test]
fn what_passes_is_the_burst_and_then_the_rate() {
    for rate in [
        MIN_RATE,
        1_000_000,
        999_999_937,
        10_000_000_000,
        100_000_000_000,
        MAX_RATE,
    ] {
        for frame in [60, 61, 1514] {
            let burst = 64_000;
            let bucket = bucket(rate, burst);
            assert_eq!(
                drain(&bucket, START, frame),
                u64::from(burst / frame * frame)
            );
            // Long enough for 100000 frames, in steps of half a burst.
            let needed = u128::from(frame) * 100_000 * 8 * u128::from(SECOND) / u128::from(rate);
            let step = (u128::from(burst / 2) * 8 * u128::from(SECOND) / u128::from(rate)) as u64;
            let (mut now, mut passed) = (START, 0);
            while u128::from(now - START) < needed {
                now += step;
                passed += drain(&bucket, now, frame);
            }
            let expected = (now - START) as f64 * rate as f64 / 8e9;
            let error = passed as f64 / expected - 1.0;
            assert!(error.abs() < 1e-3, "{rate} bit/s, {frame} bytes: {error}");
        }
    }
}

#[test]
fn a_clock_that_stands_still_lets_the_burst_pass_and_no_more() {
    let bucket = bucket(1_000_000_000, 10_000);
    assert_eq!(drain(&bucket, START, 1000), 10_000);
    for _ in 0..1_000_000 {
        assert!(!bucket.take(START, 1000));
    }
    // It goes on where it stood: 8 us for 1000 bytes.
    assert!(!bucket.take(START + 7_999, 1000));
    assert!(bucket.take(START + 8_000, 1000));
}

#[test]
fn a_clock_that_goes_back_gains_nothing_and_blocks_for_no_longer_than_the_slack() {
    for back in [
        1,
        1000,
        SLACK_NS / 2,
        SLACK_NS,
        2 * SLACK_NS,
        3600 * SECOND,
        86_400 * SECOND,
    ] {
        let bucket = bucket(1_000_000_000, 10_000);
        assert_eq!(drain(&bucket, START, 1000), 10_000);
        let now = START - back;
        assert_eq!(drain(&bucket, now, 1000), 0, "{back}");
        // The whole burst takes 80 us.
        let later = now + SLACK_NS + 80_001;
        assert_eq!(drain(&bucket, later, 1000), 10_000, "{back}");
        assert_eq!(drain(&bucket, later, 1000), 0);
    }
    // All the way back: to the clock's zero, by a bucket that is 54 years ahead.
    let bucket = bucket(1_000_000_000, 10_000);
    drain(&bucket, START, 1000);
    let mut passed = 0;
    for now in 0..1000 {
        passed += drain(&bucket, now, 1000);
    }
    assert!(passed <= 10_000, "{passed}");
    assert!(drain(&bucket, SLACK_NS + 100_000, 1000) >= 10_000);
}

/// A caller with an old reading of the clock is refused and sets nothing back.
#[test]
fn a_stopped_caller_gains_nothing() {
    let bucket = bucket(1_000_000_000, 10_000);
    let mut passed = 0;
    for microsecond in 0..100_000 {
        let now = START + 1000 * microsecond;
        passed += drain(&bucket, now, 1000);
        passed += drain(&bucket, now - 50_000, 1000);
    }
    assert!(passed <= 10_000 + 100_000 * 125, "{passed}");
}

#[test]
fn frames_longer_than_the_burst_pass_a_full_bucket_and_are_paid_for() {
    // A byte takes 8 ns.
    for bytes in [10_001, 20_000, MOST_BYTES] {
        let bucket = bucket(1_000_000_000, 10_000);
        assert!(bucket.take(START, 10));
        assert!(!bucket.take(START, bytes), "it is not full");
        let mut now = START + 80;
        assert!(bucket.take(now, bytes));
        now += 8 * u64::from(bytes - 10_000 + 1000);
        assert!(!bucket.take(now - 1, 1000));
        assert!(bucket.take(now, 1000));
    }
    let bucket = bucket(MAX_RATE, MIN_BURST);
    assert!(!bucket.take(START, MOST_BYTES + 1));
    assert!(!bucket.take(START + SECOND, u32::MAX));
}

/// Frames that pass together need room for the first of them, and all are paid for.
#[test]
fn frames_that_pass_together_are_paid_for_together() {
    let fast = bucket(1_000_000_000, 10_000);
    assert!(fast.take(START, 8_600));
    assert!(!fast.take_all(START, 1500, 60_000));
    let now = START + 8 * 100;
    assert!(fast.take_all(now, 1500, 60_000));
    // 58,500 bytes are owed, which those of another frame come on top of.
    let later = now + 8 * (58_500 + 1_000);
    assert!(!fast.take(later - 1, 1000));
    assert!(fast.take(later, 1000));
    // At the lowest rate, a port owes for minutes and is let through in the end.
    let slow = bucket(MIN_RATE, MIN_BURST);
    assert!(slow.take(START, MOST_BYTES));
    let owed = u64::from(MOST_BYTES - MIN_BURST) * 1_000_000;
    assert!(!slow.take(START + owed, 60));
    assert!(slow.take(START + owed + 60 * 1_000_000, 60));
}

#[test]
fn what_is_given_back_was_not_taken() {
    let bucket = bucket(1_000_000_000, 10_000);
    assert_eq!(drain(&bucket, START, 1000), 10_000);
    bucket.give_back(3_000);
    assert_eq!(drain(&bucket, START, 1000), 3_000);
    // Not more than the burst.
    let later = START + SECOND;
    bucket.give_back(3_000);
    assert_eq!(drain(&bucket, later, 1000), 10_000);
}

#[test]
fn limits_out_of_range_are_refused_and_change_nothing() {
    let bucket = bucket(1_000_000, 2_000);
    for (bad, parts) in [
        (limit(0, 2000), &["0 bit/s", "8000"][..]),
        (limit(MIN_RATE - 1, 2000), &["7999 bit/s"]),
        (limit(MAX_RATE + 1, 2000), &["400000000001", "400000000000"]),
        (limit(u64::MAX, 2000), &["18446744073709551615"]),
        (limit(1_000_000, 1521), &["1521 bytes", "1522"]),
        (
            limit(MIN_RATE, 2_000_000),
            &["2000000 bytes", "8000 bit/s", "1099511"],
        ),
    ] {
        let error = RateLimit::install(Some(bad), &bucket).unwrap_err();
        assert_eq!(bad.check(), Err(error));
        for part in parts {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    assert_eq!(
        limit(MIN_RATE, 1_099_511).check(),
        Ok(()),
        "what the error proposes"
    );
    assert_eq!(drain(&bucket, START, 1000), 2000);
}

#[test]
fn callers_at_once_take_no_more_than_there_is() {
    let bucket = bucket(1_000_000, 1_000_000);
    let passed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100_000 {
                    if bucket.take(START, 100) {
                        passed.fetch_add(100, Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), 1_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A bucket of real numbers decides the same, where it is not a matter of rounding.
    #[test]
    fn as_a_bucket_of_real_numbers(
        rate in prop_oneof![MIN_RATE..1_000_000, 1_000_000..MAX_RATE],
        burst in MIN_BURST..100_000,
        start in any::<u64>(),
        frames in prop::collection::vec((0.0..3.0f64, 1u32..10_000), 1..300),
    ) {
        prop_assume!(limit(rate, burst).check().is_ok());
        let bucket = bucket(rate, burst);
        // So that the bucket is full.
        arrival_word(&bucket).store(start << TIME_BITS, Relaxed);
        let (mut now, mut tokens) = (start, f64::from(burst));
        for (gap, bytes) in frames {
            // Below the burst, so that whether it is full is no matter of rounding.
            let bytes = bytes.min(burst);
            // In units of what the frame takes at this rate.
            let gap = (gap * f64::from(bytes) * 8e9 / rate as f64) as u64;
            now = now.wrapping_add(gap);
            tokens = (tokens + gap as f64 * rate as f64 / 8e9).min(f64::from(burst));
            let passes = bucket.take(now, bytes);
            let left = tokens - f64::from(bytes);
            // A unit for each frame so far, and what floating point loses.
            let rounding = 300.0 * rate as f64 / 8e9 / 4096.0 + 1e-3;
            if left.abs() > rounding {
                prop_assert_eq!(passes, left > 0.0, "{} of {}", bytes, tokens);
            }
            if passes {
                tokens = left.max(0.0);
            }
        }
    }

    /// Whatever the bucket and the clock are, a clock that then runs gets frames through again.
    #[test]
    fn never_blocked_for_ever(
        arrival: u64,
        now in 0..u64::MAX / 2,
        burst in MIN_BURST..1_000_000u32,
    ) {
        let bucket = bucket(1_000_000_000, burst);
        arrival_word(&bucket).store(arrival, Relaxed);
        let at_once = drain(&bucket, now, 1000);
        prop_assert!(at_once <= u64::from(burst));
        let later = now + SLACK_NS + 8 * u64::from(burst + MOST_BYTES) + 1;
        prop_assert!(bucket.take(later, 1000));
    }
}
