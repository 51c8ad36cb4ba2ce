//! Guests that sleep, and that nobody has woken: the owner looks after them, and rings their bells
//! (`postern_abi::window`, "Sleeping").
//!
//! A sender that has frames for a sleeper is asked to ring. One that does not, or that was stopped
//! before it could, leaves the sleeper with frames and no bell. The clock's thread finds such queues
//! ([`Sleepers::look`]): those that it finds so twice, since a guest that was just rung is not awake at
//! once. And the server rings where sleepers must hear of something else
//! ([`Sleepers::tell`]). For queues that nobody sleeps at it is one load of a word each.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use postern_abi::window::PortId;
use postern_nic_client::bells::Bells;
use postern_switch::switch::Switch;

/// What the owner does for guests that sleep.
#[derive(Debug)]
pub(super) struct Sleepers {
    bells: Arc<Bells>,
    /// Whether each queue was seen to sleep unrung at the last look.
    suspected: Vec<AtomicBool>,
    /// Bells of each port that were rung here, in its present tenancy.
    rung: Vec<AtomicU64>,
}

impl Sleepers {
    pub(super) fn new(bells: Arc<Bells>) -> Sleepers {
        let ports = bells.geometry().all_ports();
        Sleepers {
            rung: ports.map(|_| AtomicU64::new(0)).collect(),
            suspected: bells.fds().map(|_| AtomicBool::new(false)).collect(),
            bells,
        }
    }

    /// Rings the queues of ports with a tenant that sleep and are armed no more, now and at the last
    /// look. Whether there are others, to which that may happen at the next one.
    pub(super) fn look(&self, switch: &Switch<'_>) -> bool {
        let geometry = switch.geometry();
        let mut more = false;
        for port in geometry.all_ports() {
            let has_tenant = switch.state().tenancy(port) != 0;
            for queue in 0..geometry.queues() {
                let number = geometry.rx_queue(port, queue);
                let Some(suspected) = self.suspected.get(number as usize) else {
                    continue;
                };
                let before = suspected.load(Relaxed);
                let now = has_tenant && switch.is_overslept(port, queue);
                if before != now {
                    suspected.store(now, Relaxed);
                }
                more |= now && !before;
                if let (true, true, Some(rung)) = (now, before, self.rung.get(port.index())) {
                    self.bells.ring(number);
                    rung.fetch_add(1, Relaxed);
                }
            }
        }
        more
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
        let look_once = || {
            let more = sleepers.look(&switch);
            (more, all.fds().map(bells::take).collect::<Vec<_>>())
        };
        // Twice, as for who sleeps already.
        let look = || {
            look_once();
            look_once().1
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
        assert_eq!(look_once(), (true, vec![0; 6]), "it may just wake up");
        for times in 1..4 {
            assert_eq!(look_once(), (false, vec![0, 0, 0, 1, 0, 0]));
            assert_eq!(sleepers.rung(port), times);
        }
        asleep.store(0, Relaxed);
        assert_eq!(look(), [0; 6], "it is awake");
        assert_eq!(sleepers.rung(port), 3);
        asleep.store(1, Relaxed);
        assert_eq!(look_once(), (true, vec![0; 6]), "that was before");
        sleepers.tell(port);
        let told: Vec<u64> = all.fds().map(bells::take).collect();
        assert_eq!(told, [0, 0, 1, 1, 0, 0]);
        sleepers.reset(port);
        assert_eq!(sleepers.rung(port), 0);
    }
}
