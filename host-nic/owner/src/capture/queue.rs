//! The queue between taps and the thread that writes: one block of bytes that fills while the other
//! one is written.
#![forbid(unsafe_code)]

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest time that records wait for the thread, while it does not write.
const PERIOD: Duration = Duration::from_millis(10);
/// Size of a record without its frame, in bytes.
const HEADER: usize = 32;

/// One captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Time of the frame, in nanoseconds since the epoch.
    pub(super) time: u64,
    /// Number of the interface.
    pub(super) interface: u32,
    /// Link-layer flags of pcapng.
    pub(super) flags: u32,
    /// Length of the frame in bytes.
    pub(super) original: u32,
    /// The bytes of it that were captured.
    pub(super) data: &'a [u8],
}

/// A bounded queue of records, many producers, one consumer.
#[derive(Debug)]
pub(super) struct RecordQueue {
    state: Mutex<State>,
    wanted: Condvar,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    closed: bool,
    /// Whether the thread sleeps until there is a record.
    idle: bool,
}

impl RecordQueue {
    /// A queue of `capacity` bytes.
    pub(super) fn new(capacity: usize) -> RecordQueue {
        RecordQueue {
            state: Mutex::default(),
            wanted: Condvar::new(),
            capacity,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record; `false` when it does not fit, or the queue is closed.
    pub(super) fn push(&self, record: &Record<'_>) -> bool {
        let size = HEADER + record.data.len();
        let wake = {
            let mut state = self.lock();
            let before = state.bytes.len();
            let after = before.saturating_add(size);
            if state.closed || after > self.capacity {
                return false;
            }
            let bytes = &mut state.bytes;
            bytes.extend((record.data.len() as u64).to_ne_bytes());
            bytes.extend(record.time.to_ne_bytes());
            bytes.extend(record.interface.to_ne_bytes());
            bytes.extend(record.flags.to_ne_bytes());
            bytes.extend(u64::from(record.original).to_ne_bytes());
            bytes.extend(record.data);
            // Else the thread comes by itself: a system call for each frame would cost more than
            // all the rest.
            let half = self.capacity / 2;
            mem::take(&mut state.idle) || (before < half && after >= half)
        };
        if wake {
            self.wanted.notify_one();
        }
        true
    }

    /// No record is added any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wanted.notify_one();
    }

    /// Waits for records and swaps them into `bytes`, whose content is dropped. `false`, with
    /// nothing in `bytes`, at the end.
    pub(super) fn take(&self, bytes: &mut Vec<u8>) -> bool {
        bytes.clear();
        let mut state = self.lock();
        loop {
            if !state.bytes.is_empty() {
                mem::swap(&mut state.bytes, bytes);
                return true;
            }
            if state.closed {
                return false;
            }
            state.idle = true;
            let woken = self
                .wanted
                .wait_while(state, |state| state.idle && !state.closed);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            // What follows the first record soon is taken with it.
            let few = |state: &mut State| !state.closed && state.bytes.len() < self.capacity / 2;
            state = match self.wanted.wait_timeout_while(state, PERIOD, few) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

/// The records in what [`RecordQueue::take`] gave.
pub(super) fn records(mut bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let (interface, rest) = rest.split_first_chunk::<4>()?;
        let (flags, rest) = rest.split_first_chunk::<4>()?;
        let (original, rest) = rest.split_first_chunk::<8>()?;
        let (data, rest) = rest.split_at_checked(u64::from_ne_bytes(*length) as usize)?;
        bytes = rest;
        Some(Record {
            time: u64::from_ne_bytes(*time),
            interface: u32::from_ne_bytes(*interface),
            flags: u32::from_ne_bytes(*flags),
            original: u64::from_ne_bytes(*original) as u32,
            data,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[test]
    fn records_come_out_as_they_went_in_until_it_is_full() {
        let queue = RecordQueue::new(2 * (HEADER + 5) + HEADER);
        let record = |time, data| Record {
            time,
            interface: 3,
            flags: 2,
            original: 99,
            data,
        };
        assert!(queue.push(&record(1, b"12345")));
        assert!(queue.push(&record(2, b"67890")));
        assert!(!queue.push(&record(3, b"x")), "one byte too many");
        assert!(queue.push(&record(4, b"")));
        queue.close();
        assert!(!queue.push(&record(5, b"")), "closed");
        let mut bytes = vec![7; 10];
        assert!(queue.take(&mut bytes));
        let found: Vec<_> = records(&bytes).collect();
        assert_eq!(
            found,
            [record(1, b"12345"), record(2, b"67890"), record(4, b"")]
        );
        assert!(!queue.take(&mut bytes));
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_thread_that_sleeps_is_woken_by_the_first_record_and_by_the_end() {
        let queue = RecordQueue::new(1 << 20);
        let is_idle = || queue.lock().idle;
        let record = Record {
            time: 1,
            interface: 0,
            flags: 1,
            original: 60,
            data: b"frame",
        };
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = Vec::new();
                while queue.take(&mut bytes) {
                    taken.fetch_add(records(&bytes).count(), Relaxed);
                }
            });
            for count in [0, 2, 4] {
                while !is_idle() || taken.load(Relaxed) != count {
                    std::thread::yield_now();
                }
                if count < 4 {
                    assert!(queue.push(&record));
                    assert!(queue.push(&record));
                }
            }
            queue.close();
        });
    }
}
