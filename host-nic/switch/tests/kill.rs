//! Senders that are killed or frozen at any moment of a call, hundreds of times, while others send
//! at full rate and receivers check every byte.
//!
//! Each sender is a process that shares the NIC's memory, as a VM does. The port of a killed one
//! goes to a new process.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::hint::spin_loop;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use common::build::Build;
use common::child::Child;
use common::step::{Stepper, trace};
use common::{BROADCAST, Guest, TestNic, geometry, mac};
use postern_abi::window::PAD_WORD;
use postern_switch::credentials::Credentials;

const RING: u32 = 16 << 10;
/// Number of the port whose senders are killed or frozen.
const VICTIM: u32 = 0;
/// Numbers of the ports of the other senders.
const GOOD: [u32; 2] = [1, 2];
/// Numbers of the ports that receive.
const RECEIVERS: [u32; 2] = [3, 4];
const PORTS: u32 = 5;
const LONGEST: usize = 3000;

/// Variable of the environment: how many senders each test ends, instead of [`ENDS`].
const ENDS_VARIABLE: &str = "POSTERN_ENDS";
/// Senders that each test ends. Where other work keeps the processors busy, each takes as long as the
/// others need for a turn.
const ENDS: u32 = 250;

fn ends() -> u32 {
    match std::env::var(ENDS_VARIABLE) {
        Ok(text) => text.parse().expect(ENDS_VARIABLE),
        Err(_) => ENDS,
    }
}

/// Writes the `n`th frame of a tenant of a port. It tells port, tenancy and number, with noise that
/// follows from them. It is made without allocation, for children.
fn write(buffer: &mut [u8; LONGEST], from: u32, tenancy: u32, n: u64) -> &[u8] {
    let mut word = (u64::from(from) << 56 ^ u64::from(tenancy) << 24 ^ n)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        | 1;
    let length = 32 + (word >> 32) as usize % [100, 1500, LONGEST - 32][n as usize % 3];
    let to = match n % 4 {
        0 => BROADCAST,
        1 => mac(RECEIVERS[0] as u8),
        _ => mac(RECEIVERS[1] as u8),
    };
    buffer[..6].copy_from_slice(&to);
    buffer[6..12].copy_from_slice(&mac(from as u8));
    buffer[12..16].copy_from_slice(&tenancy.to_le_bytes());
    buffer[16..24].copy_from_slice(&n.to_le_bytes());
    for chunk in buffer[24..length].chunks_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    &buffer[..length]
}

/// Whether a receiver gets a sender's `n`th frame.
fn is_for(receiver: u32, n: u64) -> bool {
    match n % 4 {
        0 => true,
        1 => receiver == RECEIVERS[0],
        _ => receiver == RECEIVERS[1],
    }
}

/// Writes frames into the ring as long as there is room, and makes calls, for ever.
fn send_for_ever(nic: &TestNic, caller: Credentials) -> i32 {
    let mut guest = Guest::alias(nic, caller);
    let mut buffer = [0; LONGEST];
    let mut n = 0;
    loop {
        if fill(&mut guest, &mut buffer, &mut n) == 0 && guest.call(8, true) == 0 {
            give_way();
        }
        guest.call(32, true);
    }
}

/// Lets another process run: there may be fewer processors than processes.
fn give_way() {
    // SAFETY: no memory is involved.
    unsafe { libc::sched_yield() };
}

/// Writes up to 8 frames into the ring, from number `n` on. Returns how many.
fn fill(guest: &mut Guest<'_>, buffer: &mut [u8; LONGEST], n: &mut u64) -> u32 {
    let mut frames = 0;
    while frames < 8 && guest.try_send(write(buffer, guest.number(), guest.caller.tenancy(), *n)) {
        *n += 1;
        frames += 1;
    }
    frames
}

/// The frames that a receiver has got from one port.
#[derive(Default)]
struct Seen {
    /// Number of the tenancy that sent last.
    tenancy: u32,
    /// Number behind that of the tenancy's last frame.
    next: u64,
    /// Number of frames of all tenancies.
    frames: u64,
}

struct Receiver<'a> {
    guest: Guest<'a>,
    seen: [Seen; PORTS as usize],
    buffer: [u8; LONGEST],
}

impl Receiver<'_> {
    /// Takes all frames that wait, and checks every byte of them.
    fn poll(&mut self) {
        for from in [VICTIM, GOOD[0], GOOD[1]] {
            for bytes in self.guest.receive(from, usize::MAX) {
                let tenancy = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
                let n = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
                let seen = &mut self.seen[from as usize];
                if tenancy != seen.tenancy {
                    assert!(tenancy > seen.tenancy, "a former tenant's frame, late");
                    (seen.tenancy, seen.next) = (tenancy, 0);
                }
                // Broadcast frames are dropped where there is no room. No frame comes twice, or
                // late.
                assert!(
                    n >= seen.next,
                    "{n} of tenant {tenancy} of port {from} again"
                );
                let lost = (seen.next..n).find(|n| is_for(self.guest.number(), *n) && n % 4 != 0);
                assert_eq!(lost, None, "of tenant {tenancy} of port {from}");
                assert!(is_for(self.guest.number(), n));
                let expected = write(&mut self.buffer, from, tenancy, n);
                assert!(
                    bytes == expected,
                    "frame {n} of tenant {tenancy} of port {from}"
                );
                seen.next = n + 1;
                seen.frames += 1;
            }
        }
    }

    fn good(&self) -> [u64; 2] {
        GOOD.map(|from| self.seen[from as usize].frames)
    }
}

/// Polls until each good sender has sent more, bounded by a count, not by time.
fn others_go_on(receivers: &mut [Receiver<'_>; 2]) {
    let goal = receivers
        .each_ref()
        .map(|receiver| receiver.good().map(|frames| frames + 3));
    for _ in 0..400_000 {
        receivers.iter_mut().for_each(Receiver::poll);
        let done = |(receiver, goal): (&Receiver<'_>, &[u64; 2])| {
            receiver
                .good()
                .iter()
                .zip(goal)
                .all(|(frames, goal)| frames >= goal)
        };
        if receivers.iter().zip(&goal).all(done) {
            return;
        }
        give_way();
    }
    panic!("a sender that was killed or frozen stops others");
}

/// Has senders killed or frozen, each by a call of `end` with a random word.
fn run(
    build: Build,
    mut end: impl FnMut(u64, &TestNic, Credentials, &mut [Receiver<'_>; 2]) -> bool,
) {
    let nic = TestNic::new(build, geometry(PORTS, 1, RING, RING));
    let caller = |port| Guest::attach(&nic, port, 1).caller;
    let mut receivers = RECEIVERS.map(|port| Receiver {
        guest: Guest::alias(&nic, caller(port)),
        seen: Default::default(),
        buffer: [0; LONGEST],
    });
    let good = GOOD.map(caller);
    let _good = good.map(|caller| {
        Child::spawn(|| {
            // Good senders yield to those that are killed and started all the time.
            // SAFETY: no memory is involved.
            unsafe { libc::nice(10) };
            send_for_ever(&nic, caller)
        })
    });
    let times = ends();
    let mut word = 0x2545_f491_4f6c_dd1du64;
    let mut delivered = 0;
    for tenancy in 1..=times {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        let victim = Guest::attach(&nic, VICTIM, tenancy).caller;
        if !end(word, &nic, victim, &mut receivers) {
            println!("SKIP: this machine does not let a process trace its child");
            return;
        }
        receivers.iter_mut().for_each(Receiver::poll);
        delivered += u32::from(receivers[1].seen[0].tenancy == tenancy);
        // The rest of the last call is in the window of the port, which gets another tenant now.
    }
    others_go_on(&mut receivers);
    let good = receivers.each_ref().map(Receiver::good);
    let from_victims = receivers.each_ref().map(|receiver| receiver.seen[0].frames);
    println!(
        "{build:?}: {times} ended, {delivered} of them had sent; frames {from_victims:?}, \
         of others {good:?}"
    );
    assert!(delivered > times / 4, "{delivered}");
}

/// Kills or freezes senders that do nothing but make calls, by a signal at a random moment.
fn killed_by_signals(build: Build) {
    run(build, |word, nic, caller, receivers| {
        let child = Child::spawn(|| send_for_ever(nic, caller));
        // Wait until it has begun, and its first frames are taken.
        let started = nic.switch().sender(VICTIM).unwrap();
        let before = started.tx_next.load(Relaxed);
        let mut polls = 0;
        while started.tx_next.load(Acquire) == before && polls < 400_000 {
            receivers.iter_mut().for_each(Receiver::poll);
            give_way();
            polls += 1;
        }
        for _ in 0..word >> 20 & 0x3fff {
            spin_loop();
        }
        if word & 7 == 0 {
            // It is frozen while the others go on. Then it dies, or goes on and dies.
            child.signal(libc::SIGSTOP);
            others_go_on(receivers);
            if word & 8 == 0 {
                child.signal(libc::SIGCONT);
                others_go_on(receivers);
            }
        }
        child.kill();
        true
    });
}

#[test]
fn senders_are_killed_at_any_moment() {
    killed_by_signals(Build::Native);
}

#[test]
fn senders_of_the_kernels_code_are_killed_at_any_moment() {
    killed_by_signals(Build::KernelObject);
}

/// Senders are killed in front of a random instruction of a call, at a breakpoint, behind a call
/// that was whole.
#[test]
fn senders_are_killed_at_any_instruction() {
    let mut instructions = Vec::new();
    run(Build::KernelObject, |word, nic, caller, receivers| {
        let mut guest = Guest::alias(nic, caller);
        let (mut buffer, mut n) = ([0; LONGEST], 0);
        fill(&mut guest, &mut buffer, &mut n);
        while guest.call(u64::MAX, true) != 0 {
            receivers.iter_mut().for_each(Receiver::poll);
        }
        fill(&mut guest, &mut buffer, &mut n);
        if instructions.is_empty() {
            match trace(&guest) {
                Some(trace) => instructions = trace,
                None => return false,
            }
            return true;
        }
        let mut stepper = Stepper::new(&guest, u64::MAX).unwrap();
        let (address, turn) = instructions[(word >> 20) as usize % instructions.len()];
        // A call with other frames may end before that.
        stepper.run_to(address, turn);
        others_go_on(receivers);
        drop(stepper);
        true
    });
}

/// The checks of these tests can fail: a record that is changed behind the NIC's back is noticed.
#[test]
#[should_panic = "frame 1 of tenant 1 of port 1"]
fn a_changed_byte_is_noticed() {
    let nic = TestNic::native(geometry(PORTS, 1, RING, RING));
    let mut guests: Vec<_> = (0..PORTS)
        .map(|port| Guest::attach(&nic, port, 1))
        .collect();
    let (mut buffer, mut n) = ([0; LONGEST], 0);
    fill(&mut guests[1], &mut buffer, &mut n);
    assert_eq!(guests[1].call(u64::MAX, true), n);
    let guest = guests.swap_remove(3);
    let size = postern_abi::window::record_size(write(&mut buffer, 1, 1, 0).len() as u32);
    let word = &guest.lane(0, 1)[size as usize / 8 + 6];
    assert_ne!(word.load(Acquire), PAD_WORD);
    word.fetch_xor(1 << 40, Release);
    let mut receiver = Receiver {
        guest,
        seen: Default::default(),
        buffer: [0; LONGEST],
    };
    receiver.poll();
}
