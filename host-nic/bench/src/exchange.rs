//! The whole path of a frame, through the guest library: written into the TX ring, switched by a
//! call, read out of the lane.

use std::sync::atomic::Ordering::Relaxed;

use postern_guest::direct::Direct;
use postern_guest::nic::{Nic, WhenFull};
use postern_guest::service::Service;

use postern_abi::window::PortId;

use crate::case::{Case, Pattern};
use crate::memory::{BenchNic, mac};

/// Most frames that a receiver takes at once, as guests do.
const RX_BURST: usize = 256;

/// A sender on port 0 and its receivers, each with the guest library's end of its port.
#[derive(Debug)]
pub struct Exchange<'a, S> {
    nic: &'a BenchNic,
    case: Case,
    sender: Nic<S>,
    receivers: Vec<Nic<Direct>>,
    frames: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a, S: Service> Exchange<'a, S> {
    /// The exchange of a case, by calls of a service. Receivers make no calls.
    ///
    /// # Panics
    ///
    /// The NIC is not one of the case's geometry.
    pub fn new(nic: &'a BenchNic, case: Case, service: S) -> Exchange<'a, S> {
        let ports: Vec<PortId> = nic.geometry().all_ports().collect();
        let to = &ports[1..=case.receivers() as usize];
        let open = |port: &PortId| {
            let (direct, window) = nic.open(*port);
            Nic::new(direct, window)
        };
        let frame = |number: usize| {
            let destination = match case.pattern {
                Pattern::Broadcast => [0xff; 6],
                _ => mac(to[number % to.len()]),
            };
            let head = destination.into_iter().chain(mac(ports[0]));
            // The EtherType is one for experiments (IEEE 802 "Local Experimental EtherType").
            let head = head.chain([0x88, 0xb5]);
            let body = (0usize..).map(|i| (i * 7 + number) as u8);
            head.chain(body).take(case.length as usize).collect()
        };
        let mut sender = Nic::new(service, nic.open(ports[0]).1);
        sender.set_when_full(WhenFull::Hold);
        let mut exchange = Exchange {
            nic,
            case,
            sender,
            receivers: to.iter().map(open).collect(),
            frames: (0..case.batch as usize).map(frame).collect(),
            buffer: vec![0; case.length as usize],
        };
        // Twice around the rings: memory is there, and the sender is known.
        exchange.run(u64::from(2 * exchange.lap().div_ceil(case.batch)));
        exchange
    }

    /// Number of frames until rings and lanes have been gone around.
    pub fn lap(&self) -> u32 {
        let geometry = self.nic.geometry();
        let lane = geometry.lane() / self.case.record();
        let lanes = match self.case.pattern {
            Pattern::Scatter => lane * self.case.receivers(),
            Pattern::Unicast | Pattern::Broadcast => lane,
        };
        lanes.max(geometry.ring() / self.case.record())
    }

    /// Makes a step: sends a batch, and lets every receiver take what came.
    ///
    /// # Panics
    ///
    /// A frame is missing, or is not the one that was sent.
    #[inline(never)]
    fn step(&mut self) -> usize {
        let sent = self.sender.tx_burst(&self.frames);
        let buffer = &mut self.buffer[..];
        let mut received = 0;
        for receiver in &mut self.receivers {
            received += receiver.rx_burst(RX_BURST, |frame| frame.copy_to(buffer));
        }
        debug_assert_eq!(sent, self.frames.len());
        received
    }

    /// Makes `steps` steps.
    ///
    /// # Panics
    ///
    /// Frames are missing: then nothing was measured.
    pub fn run(&mut self, steps: u64) {
        let copies = self.case.copies() as usize;
        for _ in 0..steps {
            assert_eq!(
                self.step(),
                self.frames.len() * copies,
                "frames are missing"
            );
        }
    }

    /// Makes `polls` polls of a receiver that has nothing.
    #[inline(never)]
    pub fn poll(&mut self, polls: u64) {
        for _ in 0..polls {
            assert_eq!(self.receivers[0].rx_burst(RX_BURST, |_| ()), 0);
        }
    }

    /// Checks that the last frame arrived unchanged, and that nothing was dropped.
    ///
    /// # Panics
    ///
    /// It did not, or something was.
    pub fn check(&self) {
        let last = self.frames.iter().rev().find(|frame| {
            self.case.pattern != Pattern::Scatter || frame[..6] == mac(self.last_port())
        });
        assert_eq!(Some(&self.buffer), last, "the last frame has changed");
        let sender = self.nic.switch().sender(0).expect("the port has a sender");
        for drops in &sender.drops {
            let drops = drops.load(Relaxed);
            assert_eq!(drops, 0, "frames were dropped");
        }
    }

    /// The port of the receiver that is looked after last.
    fn last_port(&self) -> PortId {
        self.receivers.last().expect("there is one").port()
    }
}
