//! Ports of the host that sleep, and wake each other by bells.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::window::{ARMED, Geometry};
use postern_nic_client::bells::{self, Bells};
use postern_nic_client::memory::{Memory, draw_secret};
use postern_nic_owner::frame_port::FramePort;
use postern_nic_owner::host_port::HostPort;
use postern_nic_owner::uplink::{PumpThread, PumpWait};

use super::net::{Wire, frame, in_namespace, is_ours, wait_until};
use super::open;

/// The memory of a NIC with two ports, its bells, and the ports.
fn nic() -> (Arc<Memory>, Arc<Bells>, [HostPort; 2]) {
    let geometry = Geometry::new(2, 2, 64 << 10, 64 << 10).unwrap();
    let memory = Arc::new(Memory::create(geometry).unwrap());
    let bells = Arc::new(Bells::create(geometry).unwrap());
    let ports = [0, 1].map(|number| {
        let port = geometry.port(number).unwrap();
        let mac = [2, b'P', b'S', b'T', 0, number as u8];
        let secret = draw_secret().unwrap();
        memory.switch().admit(port, 1 + number, secret, mac);
        HostPort::with_bells(Arc::clone(&memory), port, Arc::clone(&bells)).unwrap()
    });
    (memory, bells, ports)
}

/// Takes the rings of a port.
fn rung(port: &HostPort) -> u64 {
    port.bells().into_iter().map(bells::take).sum()
}

/// Arms a port once it has nothing to receive.
fn arm(port: &mut HostPort) {
    port.disarm();
    while !port.arm() {
        port.receive(usize::MAX, &mut |_| {});
    }
}

#[test]
fn who_sends_to_a_port_that_sleeps_rings_it_once() {
    let (_, bells, [mut sender, mut receiver]) = nic();
    assert_eq!(receiver.bells().len(), 2, "a bell a queue");
    let send = |sender: &mut HostPort| assert_eq!(sender.send(&[&frame(60, 1)]), 1);
    send(&mut sender);
    assert!(!receiver.arm(), "there is a frame");
    send(&mut sender);
    assert_eq!(rung(&receiver), 0);
    arm(&mut receiver);
    send(&mut sender);
    assert_eq!(rung(&receiver), 1);
    send(&mut sender);
    receiver.disarm();
    send(&mut sender);
    assert_eq!(rung(&receiver), 0);
    let mut received = 0;
    receiver.receive(9, &mut |_| received += 1);
    assert_eq!(received, 3);
    assert_eq!(bells.fds().map(bells::take).sum::<u64>(), 0);
}

#[test]
fn an_idle_uplink_sleeps_and_both_sides_wake_each_other() {
    in_namespace(|| {
        let device = open("tap:tap0")?;
        let wire = Wire::open("tap0");
        let (memory, _, [uplink, mut guest]) = nic();
        let bridge = PumpThread::start(device, uplink, PumpWait::default()).unwrap();
        let switch = memory.switch();
        let port = switch.geometry().port(0).unwrap();
        let is_armed = |queue| switch.latest(port, queue).unwrap().load(Relaxed) & ARMED != 0;
        for number in 0..20 {
            wait_until("the uplink's sleep", || is_armed(0) && is_armed(1));
            let sent = frame(100, number);
            assert_eq!(guest.send(&[&sent]), 1);
            assert!(wire.receive() == sent, "frame {number} to the wire");

            arm(&mut guest);
            let sent = frame(100, !number);
            wire.send(&sent);
            // The host's own frames ring, too.
            let mut found = false;
            while !found {
                wait_until("a ring", || rung(&guest) != 0);
                guest.disarm();
                guest.receive(usize::MAX, &mut |frame| {
                    assert!(frame == sent || !is_ours(frame));
                    found |= frame == sent;
                });
                if !found {
                    while !guest.arm() {
                        guest.receive(usize::MAX, &mut |frame| found |= frame == sent);
                    }
                }
            }
        }
        bridge.stop().unwrap();
        assert!(!is_armed(0) && !is_armed(1), "it is not left armed");
        Ok(())
    });
}
