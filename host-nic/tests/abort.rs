//! A sender that stops for ever, after each single instruction of its call.
//!
//! The call runs in a child process, one step at a time. After each step the memory is copied, and with
//! the copy life goes on without that call: receivers read, the port's guest has changed its mind
//! about what it sends and calls again, and another port sends.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::{ptr, slice};

use common::{BROADCAST, Guest, frame, geometry, mac, port};
use postern_abi::window::Ring;
use postern_nic::memory::Memory;

const PORTS: u32 = 3;
/// What the call sends: to port 1, everybody, port 2, nobody (too long), port 1.
const SENT: [(Option<u32>, u32); 5] = [
    (Some(1), 64),
    (None, 77),
    (Some(2), 130),
    (Some(1), 1515),
    (Some(1), 200),
];
/// Which of them each receiver gets.
const EXPECTED: [&[usize]; PORTS as usize] = [&[], &[0, 1, 4], &[1, 2]];
/// Frames that wait in each lane before.
const WAITING: usize = 2;

/// The `n`th frame, as it was, or as the guest has changed it.
fn nth(n: usize, changed: bool) -> Vec<u8> {
    let (to, length) = SENT[n];
    let to = to.map_or(BROADCAST, |to| mac(to as u8));
    frame(
        to,
        mac(7),
        length as usize,
        n as u64 + if changed { 100 } else { 0 },
    )
}

fn send_all(guest: &mut Guest<'_>, skip: usize, changed: bool) {
    for n in skip..SENT.len() {
        guest.send(&nth(n, changed));
    }
}

/// Receivers that the switch knows, with frames that they have not read.
fn prepare(memory: &Memory) -> Guest<'_> {
    let mut guests: Vec<_> = (0..PORTS)
        .map(|port| Guest::attach(memory, port, 1))
        .collect();
    for number in 1..PORTS {
        let guest = &mut guests[number as usize];
        guest.send(&frame(mac(0), mac(number as u8), 64, 0));
        assert_eq!(guest.call(1, false), 1);
    }
    let mut sender = guests.swap_remove(0);
    for n in 0..WAITING {
        sender.send(&frame(BROADCAST, mac(0), 99, n as u64));
    }
    assert_eq!(sender.call(9, true), WAITING as u64);
    send_all(&mut sender, 0, false);
    sender
}

/// Steps through the call in a child, and calls `at` after each instruction. False: this
/// machine does not let it.
fn step_through(sender: &Guest<'_>, mut at: impl FnMut()) -> bool {
    // SAFETY: the child only traces itself, calls the switch, which neither allocates nor locks, and
    // leaves without running anything of this program's.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                libc::_exit(99);
            }
            libc::raise(libc::SIGSTOP);
            let taken = sender.call(u64::MAX, true);
            libc::_exit(taken as i32);
        }
    }
    let mut status = 0;
    let mut wait = || {
        // SAFETY: `child` is this process's, `status` lives through the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status
    };
    let first = wait();
    if libc::WIFEXITED(first) {
        assert_eq!(libc::WEXITSTATUS(first), 99);
        return false;
    }
    loop {
        // SAFETY: the child is stopped and traced by this thread.
        let stepped = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0) };
        assert_eq!(stepped, 0);
        let status = wait();
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), SENT.len() as i32);
            return true;
        }
        assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP);
        at();
    }
}

/// Life goes on. Returns how many frames were visible at the stop, and how many were sent again.
fn go_on(memory: &Memory, caller: postern_nic::caller::Caller) -> (usize, usize) {
    let mut visible = [0; PORTS as usize];
    for to in 1..PORTS {
        let lane = memory.switch().lane(port(0), port(to)).unwrap();
        visible[to as usize] = lane.producer() as usize - WAITING;
        assert!(visible[to as usize] <= EXPECTED[to as usize].len());
    }
    // The guest begins anew where the switch is, with other frames in what was not taken.
    let mut sender = Guest::alias(memory, caller);
    assert_eq!(sender.call(0, true), 0);
    sender.tx = sender.consumer(Ring::TX).load(Acquire);
    let taken = sender.tx as usize - WAITING;
    send_all(&mut sender, taken, true);
    assert_eq!(sender.call(u64::MAX, true), (SENT.len() - taken) as u64);

    let mut again = 0;
    for to in 1..PORTS {
        let expected = EXPECTED[to as usize];
        let mut receiver = Guest::alias(memory, caller);
        receiver.caller.port = port(to);
        receiver.rx = vec![0; PORTS as usize];
        let received = receiver.receive(0, usize::MAX);
        for (n, bytes) in received[..WAITING].iter().enumerate() {
            assert_eq!(*bytes, frame(BROADCAST, mac(0), 99, n as u64));
        }
        let new = &received[WAITING..];
        // First frames of the call that was stopped, all of those that were visible,
        let old = new.iter().zip(expected);
        let old = old
            .take_while(|(bytes, n)| **bytes == nth(**n, false))
            .count();
        assert!(old >= visible[to as usize], "a visible frame changed");
        // then those of the second call, from one that had been delivered or the next: none is lost.
        let rest = &new[old..];
        let first = expected.len() - rest.len();
        assert!(first <= old, "lost");
        for (bytes, n) in rest.iter().zip(&expected[first..]) {
            assert_eq!(*bytes, nth(*n, true));
        }
        again += old - first;
    }
    // Others do not notice.
    let mut other = Guest::alias(memory, caller);
    other.caller.port = port(1);
    other.tx = other.consumer(Ring::TX).load(Relaxed);
    other.send(&frame(mac(2), mac(1), 88, 5));
    assert_eq!(other.call(1, true), 1);
    (visible.iter().sum(), again)
}

#[test]
fn a_call_can_stop_after_any_instruction() {
    let memory = Memory::create(geometry(PORTS, 16)).unwrap();
    let copy = Memory::create(geometry(PORTS, 16)).unwrap();
    let sender = prepare(&memory);
    let (mut steps, mut states, mut visible, mut again) = (0, 0, Vec::new(), 0);
    let mut last = Vec::new();
    let possible = step_through(&sender, || {
        steps += 1;
        // SAFETY: the mapping has that size, and the child that writes to it is stopped.
        let now = unsafe { slice::from_raw_parts(memory.base().as_ptr(), memory.size() as usize) };
        if now == last {
            return; // Only registers have changed, and they are lost.
        }
        last = now.to_vec();
        states += 1;
        // SAFETY: both mappings have that size, and no reference to the second exists.
        unsafe { ptr::copy_nonoverlapping(now.as_ptr(), copy.base().as_ptr(), now.len()) };
        let (seen, twice) = go_on(&copy, sender.caller);
        visible.push(seen);
        again += twice;
    });
    if !possible {
        println!("SKIP: this machine does not let a process trace its child");
        return;
    }
    println!("{steps} instructions, {states} states of the memory");
    // The steps did go through the call: from nothing visible to everything, with stops between
    // delivery and the end of the batch.
    visible.dedup();
    assert_eq!(visible, [0, 3, 5]);
    assert!(again > 0);
    assert!(steps > 500, "{steps}");
}
