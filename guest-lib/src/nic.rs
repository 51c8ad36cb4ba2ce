//! A port of the shared NIC: bursts of frames out, bursts of frames in.
//!
//! Sending copies frames into the window and makes one request a burst; receiving polls the window
//! and makes none. A frame given to [`Nic::tx_burst`] is the caller's again when the call returns;
//! a frame that [`Nic::rx_burst`] shows is the caller's only during the call of its closure.
#![deny(unsafe_code)]

use core::array;
use core::ops::Range;

use postern_abi::service::{
    MAX_TX_BYTES, MAX_TX_COPIES, MAX_TX_FRAMES, OP_FEATURES, OP_NOP, OP_TX, TX_BELL, TX_MORE,
    tx_flags,
};
use postern_abi::window::{Geometry, MAX_PORTS, MAX_QUEUES, MAX_SEGMENTS, PortId, RecordHeader};

use crate::ring::{Frame, Reserved, RxQueue, TxError, TxQueue, Window};
use crate::service::{Refused, Service};

/// Most requests that one frame takes: a large segment that is cut at all ports, each with a mirror
/// of its own.
const REQUESTS_OF_A_FRAME: u32 = 2 * MAX_PORTS * (1 + MAX_SEGMENTS) / MAX_TX_COPIES + 1;

/// The fate of a frame whose destination has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The switch drops it and counts that.
    #[default]
    Drop,
    /// The frame waits in the TX ring, and so do those behind it; see [`Nic::pending`].
    Hold,
}

/// Counters of a [`Nic`], from 0 when it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of requests made.
    pub calls: u64,
    /// Number of frames that the switch took.
    pub sent: u64,
    /// Number of frames given to [`Nic::tx_burst`] that were too short or too long to be sent.
    pub bad_length: u64,
    /// Number of requests for frames that the NIC refused; [`Nic::check`] gives the reason.
    pub refused: u64,
    /// Number of frames received.
    pub received: u64,
    /// Number of lanes that were emptied because they held no valid record.
    pub malformed: u64,
    /// Number of receivers that were rung, since they slept.
    pub rings: u64,
}

/// A port of the NIC, or one TX queue and one RX queue of it.
#[derive(Debug)]
pub struct Nic<S> {
    service: S,
    window: Window,
    /// The word of a request to take frames, with the secret that the window had when the port was
    /// opened.
    tx_request: u64,
    /// The second argument of these requests: the TX queue, whether frames are held, and what the path
    /// allows.
    tx_flags: u64,
    tx: TxQueue,
    /// The first RX queue.
    rx: RxQueue,
    /// The other RX queues, from the first element on.
    more_rx: [Option<RxQueue>; MAX_QUEUES as usize - 1],
    when_full: WhenFull,
    /// Number of frames that were written and that the switch had not taken after the last request, or
    /// that were filled in since.
    waiting: u32,
    stats: Stats,
}

impl<S: Service> Nic<S> {
    /// Opens the port that a window belongs to: TX queue 0, and all RX queues. There must be no
    /// other `Nic` on these queues, else the two garble each other's frames.
    pub fn new(service: S, window: Window) -> Nic<S> {
        Nic::open(service, window, 0, 0..window.geometry().queues())
    }

    /// Opens one TX queue of the port that a window belongs to, and the RX queue of the same
    /// number.
    ///
    /// # Panics
    ///
    /// The NIC has no such queue.
    pub fn queue(service: S, window: Window, queue: u32) -> Nic<S> {
        Nic::open(service, window, queue, queue..queue + 1)
    }

    fn open(service: S, window: Window, queue: u32, rx_queues: Range<u32>) -> Nic<S> {
        let mut more = rx_queues.start + 1..rx_queues.end;
        Nic {
            tx_flags: tx_flags(queue, false) | service.tx_flags(),
            service,
            window,
            tx_request: window.request(OP_TX),
            tx: TxQueue::new(window, queue),
            rx: RxQueue::new(window, rx_queues.start),
            more_rx: array::from_fn(|_| Some(RxQueue::new(window, more.next()?))),
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

    /// The NIC's numbers of ports and queues and sizes of rings.
    pub fn geometry(&self) -> Geometry {
        self.window.geometry()
    }

    /// The counters so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Asks the NIC whether it takes requests of this guest. It always does on a path that carries no
    /// result.
    ///
    /// # Errors
    ///
    /// [`Refused`]: it does not, and why. The secret is read from the window when the port is opened;
    /// a guest that overwrites it there before has locked itself out until the host begins another
    /// tenancy.
    pub fn check(&mut self) -> Result<(), Refused> {
        match self.service.call(self.window.request(OP_NOP), 0, 0) {
            Some(result) => Refused::check(result).map(|_| ()),
            None => Ok(()),
        }
    }

    /// The service that takes the frames, for other requests, whose words
    /// [`Window::request`] gives.
    pub fn service(&mut self) -> &mut S {
        &mut self.service
    }

    /// Tells the NIC which features this guest has, `FEATURE_*` of [`postern_abi::window`]. Gives
    /// the features that are agreed on; `None` where the path carries no result or the NIC refuses.
    pub fn agree(&mut self, features: u32) -> Option<u32> {
        let request = self.window.request(OP_FEATURES);
        let agreed = self.service.call(request, features.into(), 0)?;
        u32::try_from(agreed).ok()
    }

    /// Chooses what happens to frames whose destination has no room.
    pub fn set_when_full(&mut self, when: WhenFull) {
        self.when_full = when;
        let hold = when == WhenFull::Hold;
        self.tx_flags = tx_flags(self.tx.queue(), hold) | self.service.tx_flags();
    }

    /// Number of frames that wait in the TX ring.
    pub fn pending(&mut self) -> u32 {
        self.tx.pending()
    }

    /// Sends frames in order, as far as the TX ring has room for them, and gives the number of
    /// those that it took from the slice. Frames that still wait in the ring ([`WhenFull::Hold`])
    /// go before them; with an empty slice the request is for those alone.
    ///
    /// There is one request for each [`MAX_TX_FRAMES`] frames, or [`MAX_TX_BYTES`], or
    /// [`MAX_TX_COPIES`] where frames go to many ports: as many as it takes. Then nothing waits but
    /// frames that are held, or what the NIC refuses ([`Stats::refused`]). Only on the path exit-user,
    /// which carries no result, frames to hold that go to many ports may wait too; the next call
    /// sends them.
    ///
    /// A frame that is too short or too long for the NIC is part of that number, but it is not
    /// sent, only counted ([`Stats::bad_length`]).
    #[inline]
    pub fn tx_burst<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> usize {
        if let [frame] = frames {
            let result = self.tx.write(frame.as_ref());
            return self.flush_one(result);
        }
        let (taken, bad) = self.tx.write_all(frames);
        if bad != 0 {
            self.stats.bad_length += bad as u64;
        }
        self.flush((taken - bad) as u32);
        taken
    }

    /// Sends one frame whose header asks for offloads; false if there is no room for it now.
    ///
    /// A frame that is too short or too long for the NIC is only counted ([`Stats::bad_length`]).
    pub fn tx_with(&mut self, header: RecordHeader, frame: &[u8]) -> bool {
        let result = self.tx.write_with(header, frame);
        self.flush_one(result) != 0
    }

    /// Makes requests behind the writing of one frame. Returns 0 if there was no room for it, else 1.
    #[inline]
    fn flush_one(&mut self, result: Result<(), TxError>) -> usize {
        if let Err(TxError::BadLength(_)) = result {
            self.stats.bad_length += 1;
        }
        self.flush(result.is_ok().into());
        usize::from(result != Err(TxError::Full))
    }

    /// Sends frames whose headers ask for offloads, as [`Nic::tx_burst`] sends finished ones.
    pub fn tx_burst_with<'f>(
        &mut self,
        frames: impl IntoIterator<Item = (RecordHeader, &'f [u8])>,
    ) -> usize {
        let (mut taken, mut written) = (0, 0);
        for (header, frame) in frames {
            match self.tx.write_with(header, frame) {
                Ok(()) => written += 1,
                Err(TxError::BadLength(_)) => self.stats.bad_length += 1,
                Err(TxError::Full) => break,
            }
            taken += 1;
        }
        self.flush(written);
        taken
    }

    /// Has `fill` write a frame straight into the TX ring, of at most `longest` bytes: a TAP's `readv`, for
    /// example. It gives the header of the frame, with its length, or nothing if there is none now. Frames
    /// that were filled in go to the switch with [`Nic::tx_filled`].
    ///
    /// # Errors
    ///
    /// [`TxError::Full`] while there is no room for so long a frame, [`TxError::BadLength`] if there never is.
    /// A frame whose length is not one of a frame is counted ([`Stats::bad_length`]), and `Ok(true)`.
    pub fn tx_fill(
        &mut self,
        longest: usize,
        fill: impl FnOnce(&mut Reserved<'_>) -> Option<RecordHeader>,
    ) -> Result<bool, TxError> {
        let mut reserved = self.tx.reserve(longest)?;
        let Some(header) = fill(&mut reserved) else {
            return Ok(false);
        };
        match reserved.write(header) {
            Ok(()) => self.waiting += 1,
            Err(_) => self.stats.bad_length += 1,
        }
        Ok(true)
    }

    /// Sends the frames that were filled in, and those that wait.
    pub fn tx_filled(&mut self) {
        self.flush(0);
    }

    /// Makes requests until the switch has taken what waits, with `written` frames more than before, or
    /// takes no more.
    #[inline]
    fn flush(&mut self, written: u32) {
        self.tx.commit();
        let waiting = self.waiting + written;
        // Padding alone is worth a request: the frame that comes behind it may need its room.
        if waiting == 0 && self.tx.is_empty() {
            return;
        }
        let before = self.tx.consumer();
        let result = self.request();
        if self.tx.is_empty() {
            self.stats.sent += u64::from(waiting);
            if self.waiting != 0 {
                self.waiting = 0;
            }
        } else {
            self.waiting = waiting;
            self.flush_rest(before, result);
        }
    }

    /// Makes a request to take frames.
    #[inline(always)]
    fn request(&mut self) -> Option<u64> {
        self.stats.calls += 1;
        let most = MAX_TX_FRAMES.into();
        let result = self.service.call(self.tx_request, most, self.tx_flags);
        match result {
            Some(result) if result & TX_BELL != 0 => self.ring_bells(result),
            result => result,
        }
    }

    /// Rings the receivers that sleep and got frames by a request with this result. Returns it.
    #[cold]
    #[inline(never)]
    fn ring_bells(&mut self, result: u64) -> Option<u64> {
        // An error has all bits set.
        if Refused::check(result).is_ok() {
            // Whatever somebody else writes there, this ends.
            for _ in 0..self.window.geometry().senders() {
                let Some(queue) = self.tx.take_bell() else {
                    break;
                };
                self.stats.rings += 1;
                self.service.ring(queue);
            }
            return Some(result & !TX_BELL);
        }
        Some(result)
    }

    /// Makes requests for what the first one has left, which had this result, and before which records
    /// were taken up to this position.
    #[cold]
    #[inline(never)]
    fn flush_rest(&mut self, mut before: u32, mut result: Option<u64>) {
        let hold = self.when_full == WhenFull::Hold;
        let mut fruitless = 0;
        loop {
            let left = self.tx.pending().min(self.waiting);
            let sent = self.waiting - left;
            self.stats.sent += u64::from(sent);
            self.waiting = left;
            if self.tx.is_empty() {
                break;
            }
            let after = self.tx.taken();
            fruitless = if after == before { fruitless + 1 } else { 0 };
            let goes_on = match result {
                Some(result) if Refused::check(result).is_err() => {
                    self.stats.refused += 1;
                    false
                }
                // A request that took less than it might have stopped at a frame that is held.
                Some(result) if hold => result & TX_MORE != 0 || sent >= MAX_TX_FRAMES,
                Some(result) => result & TX_MORE != 0 || after != before,
                None if hold => {
                    u64::from(after.wrapping_sub(before)) >= MAX_TX_BYTES || sent >= MAX_TX_FRAMES
                }
                // The frame may have reached some of its ports.
                None => fruitless < REQUESTS_OF_A_FRAME,
            };
            // Whatever the NIC says, this ends.
            if !goes_on || fruitless >= REQUESTS_OF_A_FRAME {
                break;
            }
            before = after;
            result = self.request();
        }
    }

    /// Has the NIC wake this guest when a frame comes, by the bells of the `Nic`'s RX queues. Returns
    /// false, and has it do nothing, if there may be frames: then receive once more first.
    ///
    /// Call [`Nic::disarm`] before receiving again, whether the bell was rung or not.
    pub fn arm(&mut self) -> bool {
        let mut queues = self.more_rx.iter_mut().flatten();
        let armed = self.rx.arm() && queues.all(RxQueue::arm);
        if !armed {
            self.disarm();
        }
        armed
    }

    /// Whether nothing has come since [`Nic::arm`] returned true.
    pub fn is_armed(&self) -> bool {
        self.rx.is_armed() && self.more_rx.iter().flatten().all(RxQueue::is_armed)
    }

    /// Ends what [`Nic::arm`] began.
    pub fn disarm(&mut self) {
        self.rx.disarm();
        self.more_rx.iter_mut().flatten().for_each(RxQueue::disarm);
    }

    /// Whether a frame waits to be received.
    #[inline]
    pub fn rx_ready(&self) -> bool {
        self.rx.ready() || self.more_rx.iter().flatten().any(RxQueue::ready)
    }

    /// Receives at most `max` frames, gives each to `sink`, and gives their number. The frames of
    /// one TX queue come in the order in which they were sent; TX queues take turns.
    #[inline]
    pub fn rx_burst(&mut self, max: usize, mut sink: impl FnMut(Frame<'_>)) -> usize {
        let received = self.rx.receive(max, &mut sink);
        if received.malformed != 0 {
            self.stats.malformed += received.malformed as u64;
        }
        let mut got = received.frames;
        if self.more_rx[0].is_some() {
            got += self.rx_more(max - got, &mut sink);
        }
        self.stats.received += got as u64;
        got
    }

    /// Receives at most `max` frames from the RX queues but the first, and gives their number.
    #[inline(never)]
    fn rx_more(&mut self, max: usize, sink: &mut impl FnMut(Frame<'_>)) -> usize {
        let mut got = 0;
        for queue in self.more_rx.iter_mut().map_while(Option::as_mut) {
            let received = queue.receive(max - got, &mut *sink);
            got += received.frames;
            self.stats.malformed += received.malformed as u64;
        }
        got
    }

    /// Takes all frames that wait to be received and forgets them, as far as they were there when
    /// the call began; says how many that were.
    pub fn rx_discard(&mut self) -> usize {
        self.rx_burst(usize::MAX, |_| ())
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "the fake service reaches into the window")]
mod tests {
    use core::ptr::NonNull;
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use postern_abi::service::Secret;
    use postern_abi::window::WindowHeader;

    use super::*;

    const GEOMETRY: Geometry = match Geometry::new(2, 1, 4096, 4096) {
        Ok(geometry) => geometry,
        Err(_) => panic!("valid"),
    };

    const SECRET: Secret = Secret::from_word(0x5ec2_e700_0000_0001);

    #[repr(C, align(4096))]
    struct Memory([u8; GEOMETRY.window_size() as usize]);

    /// A service that takes all that is in the ring.
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
        let header = WindowHeader::new(GEOMETRY, port, 1, SECRET, [2; 6]);
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
