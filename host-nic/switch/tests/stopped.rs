//! Calls that are stopped after each of their instructions, for ever or while something happens: a turn,
//! a policy, other senders, positions that begin anew.
//!
//! The call runs in a child process, one step at a time.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::{ptr, slice};

use common::build::Build;
use common::step::{Step, Stepper, trace};
use common::{BROADCAST, Guest, SMALL, TestNic, frame, geometry, mac, port};
use postern_abi::window::{ARMED, Published};
use postern_switch::state::{Cause, LANE_LEAVING, MODE_POLICY};

const SKIP: &str = "SKIP: this machine does not let a process trace its child";

/// Calls `stopped` each time that the call of a sender has changed the memory.
fn at_each_state(nic: &TestNic, sender: &Guest<'_>, mut stopped: impl FnMut(&[u8])) {
    let Some(mut stepper) = Stepper::new(sender, u64::MAX) else {
        println!("{SKIP}");
        return;
    };
    let mut last = Vec::new();
    while stepper.step() == Step::Running {
        let (base, size) = (nic.memory.base().as_ptr(), nic.memory.size() as usize);
        // SAFETY: the mapping has that size, and the child that writes to it is stopped.
        let now = unsafe { slice::from_raw_parts(base, size) };
        if now != last {
            last = now.to_vec();
            stopped(now);
        }
    }
}

/// The position begins anew at 0 in the call that is stopped: what the receiver has not read is not
/// written a second time.
#[test]
fn a_call_is_stopped_where_positions_begin_anew() {
    for build in Build::ALL {
        let nic = TestNic::new(build, geometry(2, 1, SMALL, SMALL));
        let lane = nic.switch().lane(1, 0).unwrap();
        lane.published
            .store(u64::from(0u32.wrapping_sub(6144)), Relaxed);
        let mut sender = Guest::attach(&nic, 0, 1);
        let mut receiver = Guest::attach(&nic, 1, 1);
        let sized = |size: usize, seed| frame(mac(1), mac(0), size - 16, seed);
        let send = |sender: &mut Guest<'_>, size, seed| {
            sender.send(&sized(size, seed));
            assert_eq!(sender.call(9, false), 1);
        };
        (0..4).for_each(|seed| send(&mut sender, 1024, seed));
        assert_eq!(receiver.receive(0, 1).len(), 1);
        send(&mut sender, 1024, 4);
        assert_eq!(receiver.receive(0, 9).len(), 4);
        let limit = Published::from_word(lane.limit.load(Relaxed)).position;
        assert_eq!(limit, 0u32.wrapping_sub(1024), "in front of the lane's end");
        sender.send(&sized(2048, 5));
        let copy = TestNic::native(nic.geometry());
        let mut states = 0;
        at_each_state(&nic, &sender, |now| {
            states += 1;
            // SAFETY: both mappings have that size, and no reference to the second exists.
            unsafe {
                ptr::copy_nonoverlapping(now.as_ptr(), copy.memory.base().as_ptr(), now.len())
            };
            let mut sender = Guest::alias(&copy, sender.caller);
            let mut receiver = Guest::alias(&copy, receiver.caller);
            assert!(sender.call(0, false) == 0);
            sender.resume();
            sender.producer(0).store(sender.tx[0], Relaxed);
            for seed in 6..10 {
                sender.send(&sized(1024, seed));
                assert_eq!(sender.call(1, false), 1);
            }
            let got = receiver.receive(0, 99);
            assert!(got.len() >= 2, "{build:?}: {}", got.len());
            let (first, rest) = got.split_at(usize::from(got[0] == sized(2048, 5)));
            for (bytes, seed) in rest.iter().zip(6..) {
                assert_eq!(*bytes, sized(1024, seed), "{build:?}");
            }
            assert!(first.len() * 2 + rest.len() <= 4, "{build:?}");
        });
        assert!(states > 5);
    }
}

/// A policy comes while a call is stopped. The call has not seen it, those that come later have.
#[test]
fn a_policy_comes_in_the_middle_of_a_call() {
    let nic = TestNic::new(Build::KernelObject, geometry(3, 1, SMALL, SMALL));
    let mut guests: Vec<_> = (0..3).map(|port| Guest::attach(&nic, port, 1)).collect();
    let [sender, receiver, _] = &mut guests[..] else {
        unreachable!()
    };
    let bytes = frame(mac(1), mac(0), 60, 1);
    let state = nic.switch().state();
    let blocked = &nic.switch().port(port(0)).unwrap().blocked[0];
    let generation = || state.generation.fetch_add(1, AcqRel);
    // As `transmit_all` takes them.
    let send = |sender: &mut Guest<'_>| (0..2).for_each(|_| sender.send(&bytes));
    send(sender);
    let Some(trace) = trace(sender) else {
        println!("{SKIP}");
        return;
    };
    receiver.receive(0, 9);
    for (address, turn) in trace {
        generation();
        send(sender);
        let mut stepper = Stepper::new(sender, u64::MAX).unwrap();
        let stopped = stepper.run_to(address, turn);
        blocked.store(1 << 1, Relaxed);
        state.mode[0].store(MODE_POLICY, Release);
        generation();
        if stopped {
            stepper.finish();
        }
        receiver.receive(0, 9);
        sender.send(&bytes);
        assert_eq!(sender.call(1, true), 1);
        assert!(
            receiver.receive(0, 9).is_empty(),
            "at {address:#x}, time {turn}"
        );
        blocked.store(0, Relaxed);
        state.mode[0].store(0, Release);
    }
}

/// The host begins to take a lane from the sender while its call goes on. What the call has filled is
/// published.
#[test]
fn a_turn_comes_in_the_middle_of_a_call() {
    // The lanes to ports 1 and 17 take turns at being open.
    let geometry = geometry(18, 1, SMALL, SMALL).with_lanes(1).unwrap();
    let nic = TestNic::new(Build::KernelObject, geometry);
    let mut guests: Vec<_> = (0..18).map(|port| Guest::attach(&nic, port, 1)).collect();
    let (sender, receivers) = guests.split_first_mut().unwrap();
    nic.switch().state().mode[0].store(MODE_POLICY, Relaxed);
    let bytes = frame(BROADCAST, mac(0), 60, 1);
    let send = |sender: &mut Guest<'_>| (0..2).for_each(|_| sender.send(&bytes));
    let mut receive = || {
        let got = receivers.iter_mut().map(|port| port.receive(0, 9).len());
        got.collect::<Vec<_>>()[0]
    };
    send(sender);
    let Some(trace) = trace(sender) else {
        println!("{SKIP}");
        return;
    };
    receive();
    let (lane, mut counts) = (nic.switch().lane(1, 0).unwrap(), [0; 3]);
    for (address, turn) in trace.into_iter().step_by(61) {
        send(sender);
        let before = sender.drops(Cause::NoLane);
        let mut stepper = Stepper::new(sender, u64::MAX).unwrap();
        if stepper.run_to(address, turn) {
            lane.holder.store(LANE_LEAVING | 1, Relaxed);
            stepper.finish();
        }
        let (got, dropped) = (receive(), sender.drops(Cause::NoLane) - before);
        assert_eq!(got + dropped as usize, 2, "at {address:#x}, time {turn}");
        counts[got] += 1;
        lane.holder.store(1, Relaxed);
    }
    assert!(counts[0] > 0 && counts[2] > 0, "{counts:?}");
}

/// A sender finds a lane full and is stopped; the receiver reads all, and looks at the lanes again
/// when another sender has published, whenever the first one goes on.
#[test]
fn a_receiver_hears_of_others_whoever_goes_on() {
    let nic = TestNic::new(Build::KernelObject, geometry(3, 1, SMALL, SMALL));
    let mut guests: Vec<_> = (0..3).map(|port| Guest::attach(&nic, port, 1)).collect();
    let [sender, other, receiver] = &mut guests[..] else {
        unreachable!()
    };
    let full = frame(mac(2), mac(0), SMALL as usize / 4 - 16, 1);
    let fill = |sender: &mut Guest<'_>| {
        for _ in 0..4 {
            sender.send(&full);
            assert_eq!(sender.call(1, false), 1);
        }
        sender.send(&full);
    };
    fill(sender);
    let Some(trace) = trace(sender) else {
        println!("{SKIP}");
        return;
    };
    assert_eq!(sender.call(1, false), 1, "dropped");
    receiver.receive(0, 99);
    let latest = nic.switch().latest(port(2), 0).unwrap();
    for (address, turn) in trace {
        fill(sender);
        let mut stepper = Stepper::new(sender, u64::MAX).unwrap();
        let stopped = stepper.run_to(address, turn);
        let seen = latest.load(Relaxed);
        assert_eq!(receiver.receive(0, 99).len(), 4);
        other.send(&frame(mac(2), mac(1), 60, 2));
        assert_eq!(other.call(1, true), 1);
        if stopped {
            stepper.finish();
        }
        assert_ne!(latest.load(Relaxed), seen, "at {address:#x}, time {turn}");
        assert!(sender.call(1, false) <= 1);
        receiver.receive(0, 99);
        assert_eq!(receiver.receive(1, 99).len(), 1);
    }
}

/// A call that is stopped has either not told the receiver, which sleeps on, or the next call hands out
/// the bell, or the owner sees that nobody will: that is so for one state alone, and in none is a frame
/// told while the receiver seems to sleep on.
#[test]
fn a_call_is_stopped_that_wakes_a_sleeper() {
    for build in Build::ALL {
        let nic = TestNic::new(build, geometry(2, 1, SMALL, SMALL));
        let mut sender = Guest::attach(&nic, 0, 1);
        Guest::attach(&nic, 1, 1).receive(0, 9);
        let hello = frame(mac(1), mac(0), 60, 1);
        sender.send(&hello);
        assert_eq!(sender.call(9, false), 1);
        let latest = nic.switch().latest(port(1), 0).unwrap();
        let seen = latest.fetch_or(ARMED, AcqRel);
        let asleep = nic.switch().asleep(port(1), 0).unwrap();
        asleep.store(1, Relaxed);
        sender.send(&hello);
        let copy = TestNic::native(nic.geometry());
        let (mut before, mut handed, mut lost) = (0, 0, 0);
        at_each_state(&nic, &sender, |now| {
            // SAFETY: both mappings have that size, and no reference to the second exists.
            unsafe {
                ptr::copy_nonoverlapping(now.as_ptr(), copy.memory.base().as_ptr(), now.len())
            };
            let switch = copy.switch();
            let latest = switch.latest(port(1), 0).unwrap().load(Relaxed);
            assert_eq!(latest & ARMED != 0, latest & !ARMED == seen, "{latest:#x}");
            assert_eq!(switch.is_overslept(port(1), 0), latest & ARMED == 0);
            let result = Guest::alias(&copy, sender.caller).call(0, false);
            let bell = switch.take_bells(port(0), 0)[0] & 2 != 0;
            match (latest & ARMED != 0, bell) {
                (true, false) => before += 1,
                // In the last states the bell is the guest's already.
                (false, true) => handed += 1,
                (false, false) => lost += 1,
                (true, true) => panic!("a bell without a frame: {result:#x}"),
            }
        });
        if before + handed + lost != 0 {
            assert!(before > 0 && handed > 1, "{build:?}: {before} {handed}");
            assert!(lost <= 2, "{build:?}: {lost} states without a bell");
        }
    }
}
