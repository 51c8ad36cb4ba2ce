//! A sender that stops after each single instruction of its call: for ever, or until its receiver's
//! port has another tenant.
//!
//! The call runs in a child process, one step at a time, in each build of the switch.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::{ptr, slice};

use common::build::Build;
use common::step::{Step, Stepper, trace};
use common::{BROADCAST, Guest, SMALL, TestNic, frame, geometry, mac};
use postern_abi::window::Geometry;
use postern_switch::credentials::Credentials;

const PORTS: u32 = 3;
/// The frames of the call, destination and length: to port 1, everybody, port 2, nobody (too
/// short), port 1, port 2, everybody.
const SENT: [(Option<u32>, usize); 7] = [
    (Some(1), 64),
    (None, 77),
    (Some(2), 130),
    (Some(1), 13),
    (Some(1), 1400),
    (Some(2), 15),
    (None, 300),
];
/// The numbers of the frames that each receiver gets.
const EXPECTED: [&[usize]; PORTS as usize] = [&[], &[0, 1, 4, 6], &[1, 2, 5, 6]];
/// Number of frames that wait in each lane before the call.
const WAITING: usize = 2;

const SKIP: &str = "SKIP: this machine does not let a process trace its child";

fn small() -> Geometry {
    geometry(PORTS, 1, SMALL, SMALL)
}

/// Frame `n` of the call, as it was, or as the guest has changed it.
fn nth(n: usize, changed: bool) -> Vec<u8> {
    let (to, length) = SENT[n];
    let to = to.map_or(BROADCAST, |to| mac(to as u8));
    let seed = n as u64 + if changed { 100 } else { 0 };
    frame(to, mac(7), length, seed)
}

fn waiting(n: usize) -> Vec<u8> {
    frame(BROADCAST, mac(0), 99, n as u64)
}

/// A sender whose receivers have frames that they have not read, and which is about to send more.
/// Its rings are near their ends, so that it sends padding too.
fn prepare(nic: &TestNic) -> Guest<'_> {
    let mut guests: Vec<_> = (0..PORTS).map(|port| Guest::attach(nic, port, 1)).collect();
    let [sender, a, b] = &mut guests[..] else {
        unreachable!()
    };
    sender.send(&frame(BROADCAST, mac(0), 2000, 0));
    assert_eq!(sender.call(1, true), 1);
    assert_eq!((a.receive(0, 9).len(), b.receive(0, 9).len()), (1, 1));
    for n in 0..WAITING {
        sender.send(&waiting(n));
    }
    assert_eq!(sender.call(9, true), WAITING as u64);
    guests.swap_remove(0)
}

fn send_all(guest: &mut Guest<'_>, skip: usize, changed: bool) {
    for n in skip..SENT.len() {
        guest.send(&nth(n, changed));
    }
}

fn caller(port: u32) -> Credentials {
    Credentials::new(small(), common::port(port), 1, common::secret(1))
}

/// Number of frames of the call that were taken, from the consumer position of the ring.
fn taken(sender: &Guest<'_>, before: &Guest<'_>, consumer: u32) -> usize {
    // The position behind each frame, one after the other.
    let mut probe = Guest::alias(sender.nic, sender.caller);
    let mut position = before.tx[0];
    for (n, (_, length)) in SENT.iter().enumerate() {
        if position == consumer {
            return n;
        }
        let record = postern_abi::window::record_size(*length as u32) as u32;
        let to_end = SMALL - (position & (SMALL - 1));
        position = position.wrapping_add(if record > to_end {
            to_end + record
        } else {
            record
        });
    }
    probe.tx[0] = position;
    assert_eq!(position, consumer, "between two frames");
    SENT.len()
}

/// Goes on without the call. Returns how many frames were visible when it stopped, and how many
/// were sent again.
fn go_on(nic: &TestNic, before: &Guest<'_>) -> (usize, usize) {
    let mut receivers = [1, 2].map(|port| Guest::alias(nic, caller(port)));
    let mut got: Vec<Vec<Vec<u8>>> = Vec::new();
    for receiver in &mut receivers {
        let received = receiver.receive(0, usize::MAX);
        for (n, bytes) in received[..WAITING].iter().enumerate() {
            assert_eq!(*bytes, waiting(n));
        }
        let port = receiver.number() as usize;
        let new = received[WAITING..].to_vec();
        // Nothing half-written is visible.
        for (bytes, n) in new.iter().zip(EXPECTED[port]) {
            assert_eq!(*bytes, nth(*n, false));
        }
        assert!(new.len() <= EXPECTED[port].len());
        got.push(new);
    }
    let visible = got.iter().map(Vec::len).sum();
    // Other ports do not notice.
    let mut other = Guest::alias(nic, caller(1));
    other.send(&frame(mac(2), mac(1), 88, 5));
    assert_eq!(other.call(1, true), 1);
    assert_eq!(receivers[1].receive(1, 9), [frame(mac(2), mac(1), 88, 5)]);

    // The guest begins anew at the switch's position, with other frames in place of those not
    // taken.
    let mut sender = Guest::alias(nic, caller(0));
    // The NIC has its own position; the producer is still that which the call has seen.
    assert_eq!(sender.call(0, true), 0);
    sender.resume();
    let skip = taken(&sender, before, sender.tx[0]);
    sender.producer(0).store(sender.tx[0], Relaxed);
    send_all(&mut sender, skip, true);
    assert_eq!(sender.call(u64::MAX, true), (SENT.len() - skip) as u64);

    let mut again = 0;
    for (receiver, mut new) in receivers.into_iter().zip(got) {
        let mut receiver = receiver;
        let expected = EXPECTED[receiver.number() as usize];
        let visible = new.len();
        new.extend(receiver.receive(0, usize::MAX));
        // First come frames of the call that was stopped, all of those that were visible,
        let old = new.iter().zip(expected);
        let old = old
            .take_while(|(bytes, n)| **bytes == nth(**n, false))
            .count();
        assert!(old >= visible, "a visible frame changed");
        // then those of the second call, from one that had been delivered or the next: none is
        // lost.
        let rest = &new[old..];
        let first = expected.len() - rest.len();
        assert!(first <= old, "lost");
        for (bytes, n) in rest.iter().zip(&expected[first..]) {
            assert_eq!(*bytes, nth(*n, true));
        }
        again += old - first;
    }
    (visible, again)
}

#[test]
fn a_call_can_stop_after_any_instruction() {
    for build in Build::ALL {
        let nic = TestNic::new(build, small());
        let copy = TestNic::native(small());
        let before = prepare(&nic);
        let mut sender = Guest::alias(&nic, caller(0));
        send_all(&mut sender, 0, false);
        let (mut steps, mut states, mut visible, mut again) = (0, 0, Vec::new(), 0);
        let mut last = Vec::new();
        let Some(mut stepper) = Stepper::new(&sender, u64::MAX) else {
            println!("{SKIP}");
            return;
        };
        loop {
            match stepper.step() {
                Step::Running => steps += 1,
                Step::Ended(taken) => {
                    assert_eq!(taken, SENT.len() as i32);
                    break;
                }
            }
            let (base, size) = (nic.memory.base().as_ptr(), nic.memory.size() as usize);
            // SAFETY: the mapping has that size, and the child that writes to it is stopped.
            let now = unsafe { slice::from_raw_parts(base, size) };
            if now == last {
                continue; // Only registers have changed, which are lost.
            }
            last = now.to_vec();
            states += 1;
            // SAFETY: both mappings have that size, and no reference to the second exists.
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), copy.memory.base().as_ptr(), size) };
            let (seen, twice) = go_on(&copy, &before);
            visible.push(seen);
            again += twice;
        }
        println!("{build:?}: {steps} instructions, {states} states of the memory");
        // The steps went through the whole call: from no visible frame to all, with stops between
        // the publications of runs and the end.
        visible.dedup();
        assert!(visible.is_sorted(), "{visible:?}");
        assert!(matches!(visible[..], [0, _, .., 8]), "{visible:?}");
        assert!(again > 0);
        assert!(steps > 500, "{steps}");
    }
}

/// The call stops before each of its instructions, the receiver's port goes to another tenant, and
/// the call goes on.
#[test]
fn a_call_that_goes_on_disturbs_no_new_tenant() {
    for build in Build::ALL {
        // The unoptimised code has some ten times as many instructions.
        let stride = if build == Build::Native { 31 } else { 1 };
        let nic = TestNic::new(build, small());
        let mut guests: Vec<_> = (0..PORTS)
            .map(|port| Guest::attach(&nic, port, 1))
            .collect();
        let sent = [mac(1), BROADCAST].map(|to| frame(to, mac(0), 60, 1));
        let send = |sender: &mut Guest<'_>| sent.iter().for_each(|bytes| sender.send(bytes));
        send(&mut guests[0]);
        let Some(trace) = trace(&guests[0]) else {
            println!("{SKIP}");
            return;
        };
        guests[2].receive(0, 9);
        let (mut tenancy, mut detached, mut in_time) = (1, 0, 0);
        for (address, turn) in trace.into_iter().step_by(stride) {
            let [sender, former, other] = &mut guests[..] else {
                unreachable!()
            };
            send(sender);
            let mut stepper = Stepper::new(sender, u64::MAX).unwrap();
            if !stepper.run_to(address, turn) {
                // The instruction was executed less often this time.
                former.receive(0, 9);
                other.receive(0, 9);
                continue;
            }
            tenancy += 1;
            let mut new = Guest::attach(&nic, 1, tenancy);
            assert_eq!(stepper.finish(), 2);
            assert_eq!(other.receive(0, 9), sent[1..]);
            // The new tenant gets the frames that the call delivers after the change: whole ones,
            // and none behind a missing one.
            let received = new.receive(0, 9);
            assert!(sent.ends_with(&received), "at {address:#x}, time {turn}");
            if received.is_empty() {
                detached += 1;
            } else {
                in_time += 1;
            }
            for seed in 0..3 {
                let bytes = frame(mac(1), mac(0), 100, seed);
                sender.send(&bytes);
                assert_eq!(sender.call(9, true), 1);
                assert_eq!(new.receive(0, 9), [bytes], "at {address:#x}, time {turn}");
            }
            guests[1] = new;
        }
        println!("{build:?}: {in_time} in time, {detached} too late");
        assert!(detached > 9 && in_time > 9);
    }
}

/// The guest changes destination and length after each instruction, so that the call never reads a
/// word twice with one value.
#[test]
fn a_call_ends_whatever_changes() {
    for build in [Build::KernelObject, Build::Image] {
        let nic = TestNic::new(build, small());
        let mut guests: Vec<_> = (0..PORTS)
            .map(|port| Guest::attach(&nic, port, 1))
            .collect();
        for kind in 0..3 {
            let sender = &mut guests[0];
            sender.send(&frame(mac(1), mac(0), 60, 1));
            let at = (sender.tx[0].wrapping_sub(80) & (SMALL - 1)) as usize / 8;
            let ring = sender.ring(0);
            let Some(mut stepper) = Stepper::new(sender, 1) else {
                println!("{SKIP}");
                return;
            };
            let mut steps = 0;
            while stepper.step() == Step::Running {
                steps += 1;
                assert!(steps < 30_000, "{build:?} {kind}: the call does not end");
                // Another source, another destination, or both, and another length.
                let to = [
                    mac(1),
                    BROADCAST,
                    [2, 0, 0, (steps >> 8) as u8, steps as u8, 1],
                ][kind];
                let [a, b, c, d, e, f] = to;
                let source = steps as u16 & 0xfffe;
                let [g, h] = source.to_le_bytes();
                ring[at + 2].store(u64::from_le_bytes([a, b, c, d, e, f, g, h]), Relaxed);
                if kind == 2 {
                    ring[at].store([60, 14, 40][steps % 3], Relaxed);
                }
            }
            println!("{build:?} {kind}: {steps} instructions");
            let consumer = guests[0].consumer(0).load(Acquire);
            guests[0].tx[0] = consumer;
            guests[0].commit(0, 0);
            for guest in &mut guests[1..] {
                guest.skip(0, 0);
            }
        }
    }
}
