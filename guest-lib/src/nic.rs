//! A port of the shared NIC: bursts of frames out, bursts of frames in.
//!
//! Sending copies frames into the window and makes one request a burst; receiving polls the window
//! and makes none.

use core::array;

use postern_abi::service::{OP_FEATURES, OP_TX, TX_MOST, tx_flags};
use postern_abi::window::{Geometry, MAX_QUEUES, PortId, RecordHeader};

use crate::ring::{Frame, Receiver, SendError, Sender, Window};
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
    /// Lanes that were emptied because they did not hold what they should.
    pub malformed: u64,
}

/// A port of the NIC, or one TX queue and one RX queue of it.
#[derive(Debug)]
pub struct Nic<S> {
    service: S,
    window: Window,
    sender: Sender,
    receivers: [Option<Receiver>; MAX_QUEUES as usize],
    when_full: WhenFull,
    /// Frames that were written and not taken, when last looked.
    waiting: u32,
    stats: Stats,
}

impl<S: Service> Nic<S> {
    /// Opens the port that a window belongs to: TX queue 0, and all RX queues. There must be no other
    /// `Nic` on them, else the two garble each other's frames.
    pub fn new(service: S, window: Window) -> Nic<S> {
        Nic::open(service, window, 0, |_| true)
    }

    /// Opens one TX queue, and the RX queue of the same number.
    ///
    /// # Panics
    ///
    /// The NIC has no such queue.
    pub fn queue(service: S, window: Window, queue: u32) -> Nic<S> {
        Nic::open(service, window, queue, |number| number == queue)
    }

    fn open(service: S, window: Window, queue: u32, which: impl Fn(u32) -> bool) -> Nic<S> {
        let queues = window.geometry().queues();
        let receivers = array::from_fn(|number| {
            let number = number as u32;
            (number < queues && which(number)).then(|| Receiver::new(window, number))
        });
        Nic {
            service,
            window,
            sender: Sender::new(window, queue),
            receivers,
            when_full: WhenFull::Drop,
            waiting: 0,
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

    /// Ports, queues and sizes of the NIC.
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

    /// Tells the NIC which features this guest has, `FEATURE_*` of [`postern_abi::window`]; the result is
    /// what is agreed on, or `None` where the path carries no result or the NIC refuses.
    pub fn agree(&mut self, features: u32) -> Option<u32> {
        let agreed = self.service.call(OP_FEATURES, features.into(), 0)?;
        u32::try_from(agreed).ok()
    }

    /// Chooses what happens to frames whose destination has no room.
    pub fn set_when_full(&mut self, when: WhenFull) {
        self.when_full = when;
    }

    /// Frames that wait in the TX ring.
    pub fn pending(&mut self) -> u32 {
        self.sender.pending()
    }

    /// Sends frames in order, as far as the TX ring has room, and says how many that were. Frames that still
    /// wait there ([`WhenFull::Hold`]) go before them; with no frames at all the request is for those alone.
    /// There is one request, or another for each [`TX_MOST`] frames.
    ///
    /// A frame whose length no Ethernet frame has counts as sent, but is only counted
    /// ([`Stats::bad_length`]).
    #[inline]
    pub fn tx_burst<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> usize {
        let mut written = 0;
        for frame in frames {
            match self.sender.write(frame.as_ref()) {
                Ok(()) => self.waiting += 1,
                Err(SendError::BadLength(_)) => self.stats.bad_length += 1,
                Err(SendError::Full) => break,
            }
            written += 1;
        }
        self.flush();
        written
    }

    /// Sends one frame whose header asks for more than delivery; false if there is no room for it now.
    ///
    /// A frame that no ring takes is only counted, as in [`Nic::tx_burst`].
    pub fn tx_with(&mut self, header: RecordHeader, frame: &[u8]) -> bool {
        let result = self.sender.write_with(header, frame);
        match result {
            Ok(()) => self.waiting += 1,
            Err(SendError::BadLength(_)) => self.stats.bad_length += 1,
            Err(SendError::Full) => {}
        }
        self.flush();
        result != Err(SendError::Full)
    }

    /// Makes requests until the switch has taken what waits, or takes no more.
    #[inline]
    fn flush(&mut self) {
        self.sender.commit();
        // Padding alone is worth a request, too: the frame that comes behind it may need its room.
        let mut more = self.waiting != 0 || !self.sender.is_empty();
        while more {
            let before = self.sender.taken();
            let hold = self.when_full == WhenFull::Hold;
            let flags = tx_flags(self.sender.queue(), hold);
            self.service.call(OP_TX, TX_MOST.into(), flags);
            self.stats.calls += 1;
            more = !self.sender.is_empty();
            let left = if more {
                self.sender.pending().min(self.waiting)
            } else {
                0
            };
            let sent = self.waiting - left;
            self.stats.sent += u64::from(sent);
            self.waiting = left;
            // A request that took less than it might have stopped at a frame that is held.
            let stopped = hold && sent < TX_MOST;
            if stopped || self.sender.taken() == before {
                break;
            }
        }
    }

    /// Whether a frame waits to be received.
    #[inline]
    pub fn rx_ready(&self) -> bool {
        self.receivers.iter().flatten().any(Receiver::ready)
    }

    /// Receives at most `max` frames, gives each to `sink`, and says how many that were. Frames of
    /// one sender's queue come in the order it sent them; senders take turns.
    #[inline]
    pub fn rx_burst(&mut self, max: usize, mut sink: impl FnMut(Frame<'_>)) -> usize {
        let mut got = 0;
        for receiver in self.receivers.iter_mut().flatten() {
            let received = receiver.receive(max - got, &mut sink);
            got += received.frames;
            self.stats.malformed += received.malformed as u64;
        }
        self.stats.received += got as u64;
        got
    }

    /// Takes all frames that wait to be received and forgets them, as far as they were there when the
    /// call began; says how many that were.
    pub fn rx_discard(&mut self) -> usize {
        self.rx_burst(usize::MAX, |_| ())
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use postern_abi::window::WindowHeader;

    use super::*;

    const GEOMETRY: Geometry = match Geometry::new(2, 1, 4096, 4096) {
        Ok(geometry) => geometry,
        Err(_) => panic!("valid"),
    };

    #[repr(C, align(4096))]
    struct Memory([u8; GEOMETRY.window_size() as usize]);

    /// Takes all that is in the ring.
    struct TakesAll(NonNull<u8>);

    impl Service for TakesAll {
        fn call(&mut self, _: u64, _: u64, _: u64) -> Option<u64> {
            let word = |offset: u64| {
                // SAFETY: the words lie in the window, aligned.
                unsafe { AtomicU32::from_ptr(self.0.add(offset as usize).cast().as_ptr()) }
            };
            let producer = word(GEOMETRY.tx_producer_offset(0)).load(Relaxed);
            word(GEOMETRY.tx_consumer_offset(0)).store(producer, Relaxed);
            None
        }
    }

    #[test]
    fn a_frame_as_large_as_the_ring_is_sent_from_anywhere_in_it() {
        let mut memory = Box::new(Memory([0; GEOMETRY.window_size() as usize]));
        let base = NonNull::from(&mut *memory).cast::<u8>();
        let port = PortId::new(1).unwrap();
        let header = WindowHeader::new(GEOMETRY, port, 1, [2; 6]);
        // SAFETY: the window is that large, page aligned, and lives longer than all that uses it.
        let window = unsafe {
            base.cast::<WindowHeader>().write(header);
            Window::new(base, GEOMETRY.window_size()).unwrap()
        };
        let mut nic = Nic::new(TakesAll(base), window);
        let longest = vec![0; GEOMETRY.max_frame() as usize];
        let short = vec![0; 60];
        for round in 0..100 {
            assert_eq!(nic.tx_burst(&[&short]), 1);
            // It begins at the beginning of the ring, for which the padding has to be taken first.
            let sent = (0..2).any(|_| nic.tx_burst(&[&longest]) == 1);
            assert!(sent, "round {round}");
            assert_eq!(nic.pending(), 0);
        }
        assert_eq!(nic.stats().sent, 200);
    }
}
