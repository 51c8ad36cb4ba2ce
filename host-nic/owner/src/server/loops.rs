//! Loops: networks that the NIC connects and that are connected elsewhere, too. The switch speaks no
//! spanning tree, so a broadcast goes round in a loop until a link has no room; but its owner sees
//! stations move between two ports all the time.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use postern_abi::window::PortId;
use postern_switch::switch::Switch;

use super::event::ServerEvent;

/// Least time between two looks.
const PERIOD: Duration = Duration::from_millis(500);
/// Number of moves to a port between two looks that no moving of machines explains.
const MANY: u64 = 100;

/// The moves of stations that were counted at the last look.
#[derive(Debug, Default)]
pub(super) struct Loops {
    looked: Option<Instant>,
    /// By port.
    moved: Vec<u64>,
    /// Whether the moves have been told of. They are told of anew when they have stopped.
    told: bool,
}

impl Loops {
    /// Looks for stations that move between ports, if the last look was a while ago.
    pub(super) fn check(&mut self, switch: &Switch<'_>) -> Option<ServerEvent> {
        let now = Instant::now();
        let soon = |looked: Instant| now.saturating_duration_since(looked) < PERIOD;
        if self.looked.is_some_and(soon) {
            return None;
        }
        self.looked = Some(now);
        self.compare(moves(switch))
    }

    /// Compares the moves to each port with those at the last look.
    fn compare(&mut self, moved: Vec<u64>) -> Option<ServerEvent> {
        let before = std::mem::replace(&mut self.moved, moved);
        if before.is_empty() {
            return None;
        }
        // A new tenant's count begins at zero.
        let new = self.moved.iter().zip(&before);
        let new = new.map(|(now, before)| now.saturating_sub(*before));
        let mut ports: Vec<_> = (0..).zip(new).filter(|(_, moves)| *moves >= MANY).collect();
        // Stations that move back and forth move to both.
        ports.sort_by_key(|(port, moves)| (u64::MAX - moves, *port));
        let &[(first, moves), (second, _), ..] = &ports[..] else {
            self.told = false;
            return None;
        };
        let was_told = std::mem::replace(&mut self.told, true);
        (!was_told).then_some(ServerEvent::StationsMove {
            ports: [first.min(second), first.max(second)],
            moves,
        })
    }
}

/// Number of stations that have moved to each port.
fn moves(switch: &Switch<'_>) -> Vec<u64> {
    let geometry = switch.geometry();
    let of = |port: PortId| {
        let queues = (0..geometry.queues()).map(|queue| geometry.sender(port, queue));
        let senders = queues.filter_map(|number| switch.sender(number));
        senders.map(|sender| sender.moved.load(Relaxed)).sum()
    };
    geometry.all_ports().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stations_that_move_back_and_forth_are_told_of_once() {
        let mut loops = Loops::default();
        assert_eq!(loops.compare(vec![5000, 5000, 0]), None, "the first look");
        assert_eq!(loops.compare(vec![5000, 5000, 0]), None);
        // Many stations move once, as a machine does with all that is behind it.
        assert_eq!(loops.compare(vec![5000, 9000, 0]), None);
        let told = ServerEvent::StationsMove {
            ports: [0, 2],
            moves: 300,
        };
        assert_eq!(loops.compare(vec![5300, 9099, 100]), Some(told.clone()));
        assert_eq!(loops.compare(vec![5600, 9099, 300]), None, "it goes on");
        assert_eq!(loops.compare(vec![5600, 9099, 300]), None, "it has stopped");
        assert_eq!(loops.compare(vec![5900, 9099, 0]), None, "a new tenant");
        assert_eq!(loops.compare(vec![6200, 9099, 200]), Some(told));
    }
}
