//! The NIC's clock, the ageing of its forwarding database, turns of senders that share lanes, and a
//! look after guests that sleep.
//!
//! View code has no clock of its own that its guest could not set, so rate limits go by one that
//! the owner writes into the switch state. It is CLOCK_MONOTONIC, which an owner that takes over
//! goes on with. While there is no owner it stands still: rate limits refuse what is beyond their
//! burst, and stations stay known.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{AcqRel, Relaxed},
};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::time::{ClockId, clock_gettime};

use postern_confine::Kind;
use postern_nic_client::memory::Memory;
use postern_switch::fdb::STAMPS;
use postern_switch::state::State;
use postern_switch::switch::Switch;

use super::sleepers::Sleepers;

/// Number of ticks after which a station that was not seen is forgotten.
const AGE: u32 = 16;
const _: () = assert!(AGE < STAMPS);

/// Time between two writes of the clock while a rate limit goes by it.
const FINE: Duration = Duration::from_micros(200);
/// Time between two writes of the clock while no rate limit goes by it, and between two looks after
/// guests that sleep.
const COARSE: Duration = Duration::from_millis(100);

/// Time that a guest has to wake up before it is taken for one that nobody has rung.
const WAKING: Duration = Duration::from_millis(10);

/// Least time between two turns of senders that share lanes.
const TURN: Duration = Duration::from_millis(10);

/// A thread that writes the clock. Dropping it stops the clock.
#[derive(Debug)]
pub(super) struct Clock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    fine: AtomicBool,
    wake: OwnedFd,
}

impl Clock {
    /// Starts the clock; stations are forgotten that were not seen for `ageing`, unless that is
    /// zero.
    pub(super) fn start(
        memory: Arc<Memory>,
        sleepers: Arc<Sleepers>,
        ageing: Duration,
    ) -> io::Result<Clock> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            fine: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        write(memory.switch().state());
        let seen = Arc::clone(&shared);
        let run = move || seen.run(&memory, &sleepers, ageing / AGE);
        let thread = postern_confine::spawn(Kind::Clock, "nic-clock", run)?;
        Ok(Clock {
            shared,
            thread: Some(thread),
        })
    }

    /// Says whether rate limits go by the clock.
    pub(super) fn set_fine(&self, fine: bool) {
        if self.shared.fine.swap(fine, Relaxed) != fine {
            self.shared.wake();
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn wake(&self) {
        // It fails only when the event is already there 2^64 - 2 times.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn run(&self, memory: &Memory, sleepers: &Sleepers, period: Duration) {
        let mut due = (!period.is_zero()).then(|| Instant::now() + period);
        let (mut turn, mut turned) = (0u32, Instant::now());
        let mut look = Instant::now() + COARSE;
        while !self.stop.load(Relaxed) {
            write(memory.switch().state());
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                tick(&memory.switch());
                due = Some(now + period);
            }
            if now.duration_since(turned) >= TURN {
                memory.switch().turn_lanes(turn);
                (turn, turned) = (turn.wrapping_add(1), now);
            }
            if look <= now {
                let again = sleepers.look(&memory.switch());
                look = now + if again { WAKING } else { COARSE };
            }
            let step = if self.fine.load(Relaxed) {
                FINE
            } else {
                COARSE
            };
            let next = due.map_or(look, |due| due.min(look));
            self.wait(step.min(next.saturating_duration_since(now)));
        }
    }

    fn wait(&self, most: Duration) {
        let timeout = Timespec {
            tv_sec: most.as_secs() as i64,
            tv_nsec: most.subsec_nanos().into(),
        };
        let mut fds = [PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => {}
            Ok(_) => {
                let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
            }
            // It has a descriptor and a timeout; but never turn busily.
            Err(_) => thread::sleep(FINE),
        }
    }
}

/// Writes the time, which never goes back.
fn write(state: &State) {
    let now = clock_gettime(ClockId::Monotonic);
    let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    state.clock.now.fetch_max(now, Relaxed);
}

/// Begins another tick: stations that were not seen for [`AGE`] of them are forgotten, and those
/// that send are stamped anew.
fn tick(switch: &Switch<'_>) {
    let state = switch.state();
    let tick = (state.clock.tick.load(Relaxed) % STAMPS + 1) % STAMPS;
    state.clock.tick.store(tick, Relaxed);
    state.fdb.sweep(tick, AGE);
    state.generation.fetch_add(1, AcqRel);
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_abi::window::Geometry;
    use postern_nic_client::bells::{self, Bells};
    use postern_switch::fdb::Station;

    fn memory() -> Memory {
        Memory::create(Geometry::new(2, 1, 1 << 14, 1 << 14).unwrap()).unwrap()
    }

    #[test]
    fn stations_that_fall_silent_are_forgotten_after_their_time() {
        let memory = memory();
        let switch = memory.switch();
        let (key, table) = (switch.key(), &switch.state().fdb);
        let port = switch.geometry().port(1).unwrap();
        let (silent, talks, pinned) = (Station::new(0, 2), Station::new(0, 4), Station::new(5, 6));
        // Over all numbers that a tick can have.
        for round in 0..3 * STAMPS {
            let learn = |station| {
                let tick = switch.state().clock.tick.load(Relaxed);
                table.learn(key, station, port, tick);
            };
            learn(silent);
            table.pin(key, pinned, port);
            for _ in 1..AGE {
                learn(talks);
                tick(&switch);
                assert_eq!(table.find(key, silent), Some(1), "round {round}");
            }
            tick(&switch);
            assert_eq!(table.find(key, silent), None, "round {round}");
            assert_eq!(table.find(key, talks), Some(1), "round {round}");
            assert_eq!(table.find(key, pinned), Some(1), "round {round}");
            tick(&switch);
        }
    }

    #[test]
    fn a_tick_voids_what_calls_remember() {
        let memory = memory();
        let before = memory.switch().state().generation.load(Relaxed);
        tick(&memory.switch());
        assert_ne!(memory.switch().state().generation.load(Relaxed), before);
        memory.switch().state().clock.tick.store(u32::MAX, Relaxed);
        tick(&memory.switch());
        assert!(memory.switch().state().clock.tick.load(Relaxed) < STAMPS);
    }

    #[test]
    fn the_clock_looks_after_those_who_sleep() {
        let memory = Arc::new(memory());
        let switch = memory.switch();
        let bells = Arc::new(Bells::create(memory.geometry()).unwrap());
        let sleepers = Arc::new(Sleepers::new(Arc::clone(&bells)));
        let port = switch.geometry().port(1).unwrap();
        let secret = postern_nic_client::memory::draw_secret().unwrap();
        switch.admit(port, 3, secret, [2, 0, 0, 0, 0, 1]);
        switch.asleep(port, 0).unwrap().store(1, Relaxed);
        let clock = Clock::start(Arc::clone(&memory), Arc::clone(&sleepers), Duration::ZERO);
        let clock = clock.unwrap();
        while sleepers.rung(port) < 2 {
            thread::yield_now();
        }
        drop(clock);
        let rung: Vec<u64> = bells.fds().map(bells::take).collect();
        assert_eq!(rung, [0, sleepers.rung(port)]);
    }

    #[test]
    fn the_clock_goes_on_and_not_back() {
        let memory = Arc::new(memory());
        let future = u64::MAX / 2;
        let bells = Arc::new(Bells::create(memory.geometry()).unwrap());
        let sleepers = Arc::new(Sleepers::new(bells));
        let start_clock =
            || Clock::start(Arc::clone(&memory), Arc::clone(&sleepers), Duration::ZERO).unwrap();
        let clock = start_clock();
        clock.set_fine(true);
        let now = || memory.switch().state().clock.now.load(Relaxed);
        let start = now();
        assert_ne!(start, 0);
        while now() == start {
            thread::yield_now();
        }
        memory.switch().state().clock.now.store(future, Relaxed);
        drop(clock);
        drop(start_clock());
        assert_eq!(now(), future);
        assert_eq!(Arc::strong_count(&memory), 1, "the threads have ended");
    }
}
