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

/// An uplink in a namespace of its own, which has a veth pair.
struct Joined<'a> {
    /// Its configuration and its interface, and the one at which its frames are seen.
    kind: (&'a str, &'a str, &'a str),
    port: Lists,
    bridge: PumpThread,
}

/// Runs a test with an uplink of each of these kinds, in each way of waiting.
fn with_each(
    drives: &[PumpWait],
    kinds: &[(&str, &str, &str)],
    test: impl Fn(Joined<'_>) -> Result<(), String> + Sync,
) {
    for &drive in drives {
        for &kind in kinds {
            in_namespace(|| {
                veth(1500)?;
                let port = Lists::default();
                let bridge = PumpThread::start(open(kind.0)?, port.clone(), drive).unwrap();
                test(Joined { kind, port, bridge })
            });
        }
    }
}

#[test]
fn an_interface_that_was_down_goes_on() {
    with_each(&DRIVES, &KINDS, |Joined { kind, port, bridge }| {
        let (text, interface, far) = kind;
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

/// Too short for the pump to see it.
#[test]
fn an_interface_that_was_down_for_a_moment_goes_on() {
    with_each(&DRIVES, &KINDS, |Joined { kind, port, bridge }| {
        let (text, interface, far) = kind;
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

#[test]
fn a_lost_carrier_has_the_stations_forgotten() {
    let waits = [PumpWait::default()];
    with_each(&waits, &KINDS[1..], |Joined { kind, port, bridge }| {
        let (.., far) = kind;
        passes(&bridge, &port, &Wire::open(far));
        assert_eq!(port.forgotten(), 0);
        ip(&format!("link set {far} down"))?;
        wait_until("the end of the carrier", || {
            bridge.link_state() == LinkState::NoCarrier
        });
        assert_eq!(port.forgotten(), 1);
        ip(&format!("link set {far} up"))?;
        passes(&bridge, &port, &Wire::open(far));
        bridge.stop().unwrap();
        Ok(())
    });
}

#[test]
fn an_interface_that_goes_away_ends_the_pump_with_its_name() {
    with_each(&DRIVES, &KINDS, |Joined { kind, port, bridge }| {
        let (text, interface, far) = kind;
        // It is in full swing.
        (0..20_000).for_each(|number| port.give(frame(200, number)));
        wait_until("a frame", || {
            bridge.counters().snapshot().to_interface.frames > 0
        });
        // The other end of a pair takes this one along.
        ip(&format!("link del {far}"))?;
        wait_until("the end of the pump", || bridge.has_ended());
        match bridge.stop().unwrap_err() {
            UplinkError::Gone { interface: gone } => assert_eq!(gone, interface),
            other => panic!("{text}: {other}"),
        }
        Ok(())
    });
}
