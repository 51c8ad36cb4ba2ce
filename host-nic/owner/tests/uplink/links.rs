//! Links that come and go.

use postern_nic_owner::uplink::{LinkState, PumpThread, PumpWait, UplinkError};

use super::net::{Lists, Wire, frame, in_namespace, ip, veth, wait_until};
use super::open;

const DRIVES: [PumpWait; 2] = [PumpWait::Events(PumpWait::LONGEST), PumpWait::Busy];

/// Uplinks by their configuration, interface, and the one at which its frames are seen.
const KINDS: [(&str, &str, &str); 3] = [
    ("tap:tap0", "tap0", "tap0"),
    ("packet:near", "near", "far"),
    ("xdp:near,mode=copy", "near", "far"),
];

/// Sends a frame each way until both arrive: those of the first moments may be lost.
fn passes(bridge: &PumpThread, port: &Lists, wire: &Wire) {
    wait_until("the link", || bridge.link_state() == LinkState::Up);
    let (mut inward, mut outward, mut number) = (false, false, 0);
    wait_until("a frame each way", || {
        number += 1;
        wire.send(&frame(100, number));
        port.give(frame(200, number));
        while let Some(found) = port.try_take() {
            inward |= found.len() == 100;
        }
        while let Some(found) = wire.try_receive() {
            outward |= found.len() == 200;
        }
        inward && outward
    });
}

#[test]
fn an_interface_that_was_down_goes_on() {
    for drive in DRIVES {
        for (text, interface, far) in KINDS {
            in_namespace(|| {
                veth(1500)?;
                let port = Lists::default();
                let bridge = PumpThread::start(open(text)?, port.clone(), drive).unwrap();
                passes(&bridge, &port, &Wire::open(far));
                ip(&format!("link set {interface} down"))?;
                wait_until("the end of the link", || {
                    bridge.link_state() == LinkState::Down
                });
                assert_eq!(port.forgotten(), 1, "{text}");
                // What comes meanwhile does not wait for the link.
                let before = bridge.counters().snapshot().to_interface;
                (0..10).for_each(|number| port.give(frame(300, number)));
                wait_until("the drops", || port.waiting() == 0);
                wait_until("their count", || {
                    let now = bridge.counters().snapshot().to_interface;
                    now.link_down >= before.link_down + 10
                });
                ip(&format!("link set {interface} up"))?;
                passes(&bridge, &port, &Wire::open(far));
                bridge.stop().unwrap();
                Ok(())
            });
        }
    }
}

/// Too short for the pump to see it.
#[test]
fn an_interface_that_was_down_for_a_moment_goes_on() {
    for drive in DRIVES {
        for (text, interface, far) in KINDS {
            in_namespace(|| {
                veth(1500)?;
                let port = Lists::default();
                let bridge = PumpThread::start(open(text)?, port.clone(), drive).unwrap();
                let wire = Wire::open(far);
                for round in 0..5 {
                    // In full swing.
                    (0..1000).for_each(|number| port.give(frame(300, number)));
                    ip(&format!("link set {interface} down"))?;
                    ip(&format!("link set {interface} up"))?;
                    assert!(!bridge.has_ended(), "{text}, round {round}");
                }
                drop(wire);
                passes(&bridge, &port, &Wire::open(far));
                bridge.stop().unwrap();
                Ok(())
            });
        }
    }
}

#[test]
fn a_lost_carrier_has_the_stations_forgotten() {
    for text in ["packet:near", "xdp:near,mode=copy"] {
        in_namespace(|| {
            veth(1500)?;
            let port = Lists::default();
            let bridge = PumpThread::start(open(text)?, port.clone(), PumpWait::default()).unwrap();
            passes(&bridge, &port, &Wire::open("far"));
            assert_eq!(port.forgotten(), 0);
            ip("link set far down")?;
            wait_until("the end of the carrier", || {
                bridge.link_state() == LinkState::NoCarrier
            });
            assert_eq!(port.forgotten(), 1);
            ip("link set far up")?;
            passes(&bridge, &port, &Wire::open("far"));
            bridge.stop().unwrap();
            Ok(())
        });
    }
}

#[test]
fn an_interface_that_goes_away_ends_the_pump_with_its_name() {
    for drive in DRIVES {
        for (text, command, name) in [
            ("tap:tap0", "link del tap0", "tap0"),
            ("packet:near", "link del far", "near"),
            ("xdp:near", "link del far", "near"),
        ] {
            in_namespace(|| {
                veth(1500)?;
                let port = Lists::default();
                let bridge = PumpThread::start(open(text)?, port.clone(), drive).unwrap();
                // It is in full swing.
                (0..20_000).for_each(|number| port.give(frame(200, number)));
                wait_until("a frame", || {
                    bridge.counters().snapshot().to_interface.frames > 0
                });
                ip(command)?;
                wait_until("the end of the pump", || bridge.has_ended());
                match bridge.stop().unwrap_err() {
                    UplinkError::Gone { interface } => assert_eq!(interface, name),
                    other => panic!("{command}: {other}"),
                }
                Ok(())
            });
        }
    }
}
