//! A frame with more destinations than one call serves: each call goes on where the last one
//! stopped, and every port and every mirror gets its copies once, in order.

use std::sync::atomic::Ordering::Relaxed;

use postern_abi::service::{MAX_TX_BYTES, MAX_TX_COPIES, TX_MORE};
use postern_abi::window::{FEATURES, Geometry, MAX_SEGMENTS, RecordHeader};
use postern_nic_client::policy::acl::AclSpec;
use postern_nic_client::policy::rate::RateLimit;
use postern_switch::policy::acl::Verdict;
use postern_switch::state::{Cause, LANE_FREE, MODE_POLICY};

use crate::ports::packet::{Flow, Kind, frame, payload};
use crate::ports::{BROADCAST, Guest, Net, mac, port, secret};

/// A NIC of many ports, whose lanes hold little more than the frames of a large segment.
fn net(ports: u32) -> Net {
    let net = Net::sized(Geometry::new(ports, 1, 256 << 10, 128 << 10).unwrap());
    // All frames take the slow path.
    net.memory.switch().state().mode[0].fetch_or(MODE_POLICY, Relaxed);
    net
}

/// Frames and bytes that port 0 has delivered.
fn delivered(net: &Net) -> (u64, u64) {
    let switch = net.memory.switch();
    let geometry = switch.geometry();
    let lanes = (0..geometry.senders())
        .flat_map(|to| (0..geometry.lanes()).filter_map(move |lane| switch.lane(to, lane)))
        .filter(|lane| lane.holder.load(Relaxed) & !LANE_FREE == 1);
    lanes.fold((0, 0), |(frames, bytes), lane| {
        (
            frames + lane.frames.load(Relaxed),
            bytes + lane.bytes.load(Relaxed),
        )
    })
}

/// Makes calls until nothing more is to be done. Gives the number of calls.
fn calls(net: &Net, sender: &Guest<'_>, frames: u64) -> u32 {
    let (mut calls, mut taken) = (0, 0);
    loop {
        let before = delivered(net);
        let result = sender.call();
        let after = delivered(net);
        calls += 1;
        taken += result & !TX_MORE;
        let (copies, bytes) = (after.0 - before.0, after.1 - before.1);
        // A call goes beyond by one destination.
        let most = u64::from(MAX_TX_COPIES + MAX_SEGMENTS);
        assert!(copies <= most, "{copies} copies");
        assert!(bytes < MAX_TX_BYTES + (96 << 10), "{bytes} bytes");
        if result & TX_MORE == 0 {
            assert_eq!(taken, frames);
            return calls;
        }
        assert!(copies != 0 || result & !TX_MORE != 0, "no progress");
    }
}

#[test]
fn a_large_segment_that_is_cut_at_many_ports() {
    let net = net(40);
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    // Half of the ports take it whole.
    for guest in guests.iter().skip(1).step_by(2) {
        guest.agree(FEATURES);
    }
    for (length, size, least) in [(60_000, 1448, 2), (25_600, 100, 4), (256, 1, 4)] {
        let flow = Flow::new(Kind::Tcp4, BROADCAST, mac(0));
        let payload = payload(length, 3);
        let (header, bytes) = flow.large(&payload, size);
        let before = frame(BROADCAST, mac(0), 60, 1);
        let behind = frame(BROADCAST, mac(0), 60, 2);
        guests[0].put(&before);
        guests[0].put_on(0, header, &bytes);
        guests[0].put(&behind);
        let made = calls(&net, &guests[0], 3);
        assert!(made > least, "{made} calls for {length} bytes");
        let cut = flow.cut(&payload, size);
        for (number, guest) in guests.iter_mut().enumerate().skip(1) {
            let got = guest.take();
            let got: Vec<_> = got.into_iter().map(|delivered| delivered.bytes).collect();
            let whole = vec![bytes.clone()];
            let expected = if number % 2 == 1 { &whole } else { &cut };
            let expected = [&[before.clone()][..], expected, &[behind.clone()]].concat();
            assert!(got == expected, "port {number}: {} frames", got.len());
        }
    }
    let sender = net.memory.switch().sender(0).unwrap();
    assert_eq!(sender.frames.load(Relaxed), 9);
    assert_eq!(sender.paused.load(Relaxed), 0);
}

/// Ports that may not receive a frame cost work too.
#[test]
fn frames_that_no_port_may_receive() {
    let net = Net::sized(Geometry::new(64, 1, 64 << 10, 4096).unwrap());
    let deny = AclSpec {
        rules: vec![],
        default: Verdict::Deny,
    };
    for number in 1..64 {
        net.set(number, |policy| policy.acl = deny.clone());
    }
    let mut guest = net.guest(0);
    for n in 0..50 {
        guest.put(&frame(BROADCAST, mac(0), 60, n));
    }
    let mut left = 50;
    let mut calls = 0;
    while left != 0 {
        let taken = guest.call() & !TX_MORE;
        assert!(
            taken * 63 <= u64::from(MAX_TX_COPIES) + 63,
            "{taken} frames"
        );
        left -= taken;
        calls += 1;
    }
    assert!(calls >= 3, "{calls} calls");
    assert_eq!(net.drops(0, Cause::Policy), 50 * 63);
}

#[test]
fn mirrors_get_one_copy_each() {
    let net = net(40);
    // Port 38 mirrors what many receive, port 39 what port 0 sends.
    net.set(0, |policy| policy.mirror = Some(39));
    for number in 1..36 {
        net.set(number, |policy| policy.mirror = Some(38));
    }
    for number in [38, 39] {
        net.set(number, |policy| policy.bridging = false);
    }
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    let flow = Flow::new(Kind::Udp6, BROADCAST, mac(0));
    let payload = payload(50_000, 9);
    let (header, bytes) = flow.large(&payload, 250);
    guests[0].put_on(0, header, &bytes);
    let made = calls(&net, &guests[0], 1);
    assert!(made > 6, "{made} calls");
    let cut = flow.cut(&payload, 250);
    for guest in &mut guests[1..] {
        assert!(guest.receive() == cut, "port {}", guest.number());
    }
}

/// Each port has a mirror of its own, so that these alone are more than one call serves.
#[test]
fn as_many_mirrors_as_ports() {
    let net = net(40);
    for number in 1..20 {
        net.set(number, |policy| policy.mirror = Some(number + 20));
    }
    for number in 20..40 {
        net.set(number, |policy| policy.bridging = false);
    }
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    let flow = Flow::new(Kind::Tcp6, BROADCAST, mac(0));
    let payload = payload(40_000, 9);
    let (header, bytes) = flow.large(&payload, 200);
    guests[0].put_on(0, header, &bytes);
    let made = calls(&net, &guests[0], 1);
    assert!(made > 6, "{made} calls");
    let cut = flow.cut(&payload, 200);
    for guest in &mut guests[1..] {
        let expected = if guest.number() == 20 { 0 } else { cut.len() };
        let got = guest.receive();
        assert_eq!(got.len(), expected, "port {}", guest.number());
        assert!(got == cut[..expected]);
    }
}

/// A frame that several calls send is counted once against the rate, and a frame that takes its
/// place is another one.
#[test]
fn a_paused_frame_is_counted_once_and_no_other_is_taken_for_it() {
    let net = net(40);
    net.set_clock(1 << 40);
    let limit = RateLimit {
        bits_per_second: 8_000,
        burst_bytes: 100_000,
    };
    net.set(0, |policy| policy.ingress = Some(limit));
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    let flow = Flow::new(Kind::Tcp4, BROADCAST, mac(0));
    let bytes = payload(60_000, 3);
    let (header, large) = flow.large(&bytes, 1448);
    guests[0].put_on(0, header, &large);
    assert!(calls(&net, &guests[0], 1) > 1);
    assert_eq!(net.drops(0, Cause::Rate), 0);
    let cut = flow.cut(&bytes, 1448);
    assert!(guests[39].receive() == cut);
    for guest in &mut guests[1..39] {
        guest.take();
    }

    // 40 000 bytes are left, which one more frame takes. Its guest makes it longer meanwhile.
    let short = payload(25_000, 4);
    let (header, large) = flow.large(&short, 100);
    let ring = net.memory.switch().tx_ring(port(0), 0).unwrap();
    let position = net
        .memory
        .switch()
        .tx_producer(port(0), 0)
        .unwrap()
        .load(Relaxed);
    guests[0].put_on(0, header, &large);
    assert_eq!(guests[0].call(), TX_MORE);
    let sender = net.memory.switch().sender(0).unwrap();
    assert_ne!(sender.paused.load(Relaxed), 0);
    let longer = RecordHeader {
        length: large.len() as u32 + 1,
        ..header
    };
    let at = (position & ((256 << 10) - 1)) as usize;
    // SAFETY: the record lies in the ring at an aligned offset; words are accessed atomically.
    unsafe {
        let word = std::sync::atomic::AtomicU64::from_ptr(ring.add(at).cast());
        word.store(longer.words().0, Relaxed);
    }
    // It is looked at from the beginning, and its lengths are not true.
    assert_eq!(guests[0].call(), 1);
    assert_eq!(net.drops(0, Cause::BadDescriptor), 1);
    assert_eq!(sender.paused.load(Relaxed), 0);
}

/// What a former tenant had paused is nothing to the next one.
#[test]
fn a_pause_ends_with_the_tenancy() {
    let net = net(40);
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    let flow = Flow::new(Kind::Tcp4, BROADCAST, mac(0));
    let bytes = payload(25_600, 4);
    let (header, large) = flow.large(&bytes, 100);
    guests[0].put_on(0, header, &large);
    assert_eq!(guests[0].call(), TX_MORE);
    net.memory.switch().admit(port(0), 99, secret(99), mac(0));
    let sender = net.memory.switch().sender(0).unwrap();
    assert_eq!(sender.paused.load(Relaxed), 0);
    for guest in &mut guests[1..] {
        guest.take();
    }
    // The new tenant's frame lies where the former one's did.
    let mut new = net.guest(0);
    new.agree(FEATURES);
    new.put_on(0, header, &large);
    calls(&net, &new, 1);
    let cut = flow.cut(&bytes, 100);
    for guest in &mut guests[1..] {
        assert!(guest.receive() == cut, "port {}", guest.number());
    }
}
