//! Guests that sleep, and that nobody has woken: the owner looks after them, and rings their bells
//! (`postern_abi::window`, "Sleeping").
//!
//! A sender that has frames for a sleeper is asked to ring. One that does not, or that was stopped
//! before it could, leaves the sleeper with frames and no bell. The clock's thread finds such queues
//! ([`Sleepers::look`]), and the server rings where sleepers must hear of something else
//! ([`Sleepers::tell`]). For queues that nobody sleeps at it is one load of a word each.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use postern_abi::window::PortId;
use postern_nic_client::bells::Bells;
use postern_switch::switch::Switch;

/// What the owner does for guests that sleep.
#[derive(Debug)]
pub(super) struct Sleepers {
    bells: Arc<Bells>,
    /// Bells of each port that were rung here, in its present tenancy.
    rung: Vec<AtomicU64>,
}

impl Sleepers {
    pub(super) fn new(bells: Arc<Bells>) -> Sleepers {
        let ports = bells.geometry().all_ports();
        Sleepers {
            rung: ports.map(|_| AtomicU64::new(0)).collect(),
            bells,
        }
    }

    /// Rings the queues of ports with a tenant that sleep and are armed no more.
    pub(super) fn look(&self, switch: &Switch<'_>) {
        let geometry = switch.geometry();
        for port in geometry.all_ports() {
            if switch.state().tenancy(port) == 0 {
                continue;
            }
            for queue in 0..geometry.queues() {
                if switch.is_overslept(port, queue) {
                    self.bells.ring(geometry.rx_queue(port, queue));
                    if let Some(rung) = self.rung.get(port.index()) {
                        rung.fetch_add(1, Relaxed);
                    }
                }
            }
        }
    }

    /// Rings all bells of a port, whose tenant is to look what has become of it.
    pub(super) fn tell(&self, port: PortId) {
        self.bells.ring_port(port);
    }

    /// How often [`Sleepers::look`] rang bells of a port.
    pub(super) fn rung(&self, port: PortId) -> u64 {
        let rung = self.rung.get(port.index());
        rung.map_or(0, |rung| rung.load(Relaxed))
    }

    /// Begins to count anew, for another tenant.
    pub(super) fn reset(&self, port: PortId) {
        if let Some(rung) = self.rung.get(port.index()) {
            rung.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_abi::window::{ARMED, Geometry};
    use postern_nic_client::bells;
    use postern_nic_client::memory::{Memory, draw_secret};

    use super::*;

    #[test]
    fn who_sleeps_and_was_not_woken_is_rung() {
        let geometry = Geometry::new(3, 2, 1 << 12, 1 << 12).unwrap();
        let memory = Memory::create(geometry).unwrap();
        let switch = memory.switch();
        let all = Arc::new(Bells::create(geometry).unwrap());
        let sleepers = Sleepers::new(Arc::clone(&all));
        let look = || {
            sleepers.look(&switch);
            all.fds().map(bells::take).collect::<Vec<_>>()
        };
        let port = geometry.port(1).unwrap();
        let (asleep, latest) = (
            switch.asleep(port, 1).unwrap(),
            switch.latest(port, 1).unwrap(),
        );
        asleep.store(1, Relaxed);
        assert_eq!(look(), [0; 6], "a port without a tenant");
        let secret = draw_secret().unwrap();
        switch.admit(port, 9, secret, [2, 0, 0, 0, 0, 1]);
        asleep.store(1, Relaxed);
        latest.fetch_or(ARMED, Relaxed);
        assert_eq!(look(), [0; 6], "somebody will ring");
        latest.fetch_and(!ARMED, Relaxed);
        for times in 1..4 {
            assert_eq!(look(), [0, 0, 0, 1, 0, 0]);
            assert_eq!(sleepers.rung(port), times);
        }
        asleep.store(0, Relaxed);
        assert_eq!(look(), [0; 6], "it is awake");
        assert_eq!(sleepers.rung(port), 3);
        sleepers.tell(port);
        let told: Vec<u64> = all.fds().map(bells::take).collect();
        assert_eq!(told, [0, 0, 1, 1, 0, 0]);
        sleepers.reset(port);
        assert_eq!(sleepers.rung(port), 0);
    }
}
