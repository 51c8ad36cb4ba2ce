//! A port of the shared NIC: bursts of frames out, bursts of frames in.
//!
//! Sending copies frames into the window and makes one request a burst; receiving polls the window
//! and makes none.

use core::array;

use postern_abi::service::{OP_TX, TX_HOLD};
use postern_abi::window::{Geometry, MAX_PORTS, PortId};

use crate::ring::{Frame, Lane, Sender, Window};
use crate::service::Service;

/// What happens to a frame whose destination has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The switch drops it and counts that.
    #[default]
    Drop,
    /// It waits in the TX ring, and so do those behind it; see [`Nic::pending`].
    Hold,
}

/// What a port did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests made.
    pub calls: u64,
    /// Frames that the switch took.
    pub sent: u64,
    /// Frames given to [`Nic::tx_burst`] that were too short or too long to be sent.
    pub bad_length: u64,
    /// Frames received.
    pub received: u64,
    /// Received slots that held no frame.
    pub malformed: u64,
}

/// A port of the NIC.
#[derive(Debug)]
pub struct Nic<S> {
    service: S,
    window: Window,
    sender: Sender,
    lanes: [Option<Lane>; MAX_PORTS as usize],
    /// Where the next [`Nic::rx_burst`] begins, so that each lane gets its turn.
    next_lane: usize,
    flags: u64,
    stats: Stats,
}

impl<S: Service> Nic<S> {
    /// Opens the port that a window belongs to. There must be no other `Nic` on it, else the two
    /// garble each other's frames.
    pub fn new(service: S, window: Window) -> Nic<S> {
        let geometry = window.geometry();
        let lanes = array::from_fn(|number| {
            let sender = geometry.port(number as u32)?;
            (sender != window.port()).then(|| Lane::new(window, sender))
        });
        Nic {
            service,
            window,
            sender: Sender::new(window),
            lanes,
            next_lane: 0,
            flags: 0,
            stats: Stats::default(),
        }
    }

    /// The port.
    pub fn port(&self) -> PortId {
        self.window.port()
    }

    /// The port's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.window.mac()
    }

    /// Ports and slots of the NIC.
    pub fn geometry(&self) -> Geometry {
        self.window.geometry()
    }

    /// What the port did so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The service that takes the frames, for other requests.
    pub fn service(&mut self) -> &mut S {
        &mut self.service
    }

    /// Chooses what happens to frames whose destination has no room.
    pub fn set_when_full(&mut self, when: WhenFull) {
        self.flags = match when {
            WhenFull::Drop => 0,
            WhenFull::Hold => TX_HOLD,
        };
    }

    /// Frames that wait in the TX ring.
    pub fn pending(&self) -> u32 {
        self.sender.pending()
    }

    /// Sends frames in order with one request, as far as the TX ring has room, and says how many
    /// that were. Frames that still wait there ([`WhenFull::Hold`]) go before them; with no frames
    /// at all the request is for those alone.
    ///
    /// A frame whose length no Ethernet frame has counts as sent, but is only counted
    /// ([`Stats::bad_length`]).
    #[inline]
    pub fn tx_burst<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> usize {
        let before = self.sender.pending();
        let room = self.window.geometry().slots() - before;
        let burst = &frames[..frames.len().min(room as usize)];
        let mut written = 0;
        for frame in burst {
            match self.sender.write(written, frame.as_ref()) {
                Ok(()) => written += 1,
                Err(_) => self.stats.bad_length += 1,
            }
        }
        let waiting = before + written;
        if waiting != 0 {
            self.sender.commit(written);
            self.service.call(OP_TX, waiting.into(), self.flags);
            self.stats.calls += 1;
            self.stats.sent += u64::from(waiting.saturating_sub(self.sender.pending()));
        }
        burst.len()
    }

    /// Whether a frame waits to be received.
    #[inline]
    pub fn rx_ready(&self) -> bool {
        self.lanes
            .iter()
            .flatten()
            .any(|lane| lane.available() != 0)
    }

    /// Receives at most `max` frames, gives each to `sink`, and says how many that were. Frames of
    /// one sender come in the order it sent them; senders take turns.
    #[inline]
    pub fn rx_burst(&mut self, max: usize, mut sink: impl FnMut(Frame<'_>)) -> usize {
        let ports = self.window.geometry().ports() as usize;
        let start = self.next_lane;
        let mut got = 0;
        for turn in 0..ports {
            let number = (start + turn) % ports;
            let Some(lane) = &mut self.lanes[number] else {
                continue;
            };
            let received = lane.receive(max - got, &mut sink);
            got += received.frames;
            self.stats.malformed += received.malformed as u64;
            self.next_lane = (number + 1) % ports;
            if got == max {
                break;
            }
        }
        self.stats.received += got as u64;
        got
    }

    /// Takes all frames that wait to be received and forgets them, at most as many as the lanes
    /// hold; says how many that were.
    pub fn rx_discard(&mut self) -> usize {
        let geometry = self.window.geometry();
        let slots = (geometry.slots() * geometry.ports()) as usize;
        self.rx_burst(slots, |_| ())
    }
}
