//! A guest's ends of the rings, with nothing between a test and the memory.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

pub mod build;
pub mod child;
pub mod step;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*};

use build::{Build, LoadedBuild, map_at};
use postern_abi::service::{OP_TX, Secret, TX_AVX, tx_flags};
use postern_abi::window::{
    BELL_WORDS, Geometry, KIND_PAD, MAX_LANES, PAD_WORD, PortId, Published, RECORD_ALIGN,
    RecordHeader, record_size,
};
use postern_nic_client::memory::Memory;
use postern_switch::credentials::Credentials;
use postern_switch::layout::memory_size;
use postern_switch::layout::{self, SLACK};
use postern_switch::state::Cause;
use postern_switch::switch::Switch;

pub const BROADCAST: [u8; 6] = [0xff; 6];

/// The smallest rings and lanes.
pub const SMALL: u32 = 4096;
/// Rings and lanes that hold frames of any length.
pub const LARGE: u32 = 64 << 10;

/// A geometry with a lane for each sender, where the lane that a sender takes has its number.
pub fn geometry(ports: u32, queues: u32, ring: u32, lane: u32) -> Geometry {
    let geometry = Geometry::new(ports, queues, ring, lane).unwrap();
    let lanes = geometry.senders().min(MAX_LANES);
    geometry.with_lanes(lanes).unwrap()
}

pub fn port(number: u32) -> PortId {
    PortId::new(number).unwrap()
}

/// The secret of a tenancy of this number.
pub fn secret(tenancy: u32) -> Secret {
    Secret::from_word(0x5ec2_0000_0000_0000 + (u64::from(tenancy) << 16))
}

/// The address of a station: that of port `number`.
pub fn mac(number: u8) -> [u8; 6] {
    [0x02, 0xaa, 0xbb, 0xcc, 0xdd, number]
}

/// An Ethernet frame whose every byte behind the addresses follows from `seed`.
pub fn frame(to: [u8; 6], from: [u8; 6], length: usize, seed: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = to.into_iter().chain(from).collect();
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.push(word as u8);
    }
    bytes.truncate(length);
    bytes
}

/// Sets a flag when it is dropped, also because a check failed, so that threads that wait for it
/// end.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A NIC, and the build of the switch that serves it.
pub struct TestNic {
    pub memory: Memory,
    build: LoadedBuild,
    /// Address at which the build has the memory.
    base: u64,
    /// The flag with which calls lend their vector registers, if they do: those of the view's image,
    /// where the processor has them. The kernel's object has the copies that do without.
    pub lent: u64,
}

impl TestNic {
    pub fn new(build: Build, geometry: Geometry) -> TestNic {
        let loaded = build.load();
        let memory = Memory::create(geometry).unwrap();
        let base = match build.fixed_base() {
            None => memory.base().as_ptr() as u64,
            Some(base) => {
                let size = layout::state_size(geometry);
                map_at(base, size, Some((memory.state_fd(), 0)));
                for (number, fd) in (0..).zip(memory.window_fds()) {
                    map_at(
                        base + size + number * layout::window_stride(geometry),
                        geometry.window_size(),
                        Some((fd, 0)),
                    );
                }
                let slack = memory_size(geometry) - SLACK;
                map_at(base + slack, SLACK, Some((memory.state_fd(), size)));
                base
            }
        };
        let lends = build == Build::Image && std::arch::is_x86_feature_detected!("avx");
        TestNic {
            memory,
            build: loaded,
            base,
            lent: if lends { TX_AVX } else { 0 },
        }
    }

    pub fn native(geometry: Geometry) -> TestNic {
        TestNic::new(Build::Native, geometry)
    }

    /// A NIC in memory that the caller has made, served by the native build.
    pub fn opened(memory: Memory) -> TestNic {
        TestNic {
            build: LoadedBuild::Native,
            base: memory.base().as_ptr() as u64,
            lent: 0,
            memory,
        }
    }

    pub fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    pub fn switch(&self) -> Switch<'_> {
        self.memory.switch()
    }

    /// [`LoadedBuild::raw_call`] of the build that serves the NIC.
    pub fn raw_call(&self, caller: &Credentials, request: [u64; 3]) -> (usize, [u64; 6]) {
        self.build
            .raw_call(self.base as *mut u8, caller, 0, request)
    }

    pub fn serve(&self, caller: &Credentials, vcpu: u32, request: [u64; 3]) -> u64 {
        // SAFETY: the memory is that of the NIC's geometry, and tests make credentials of this
        // geometry alone.
        unsafe {
            self.build
                .serve(self.base as *mut u8, caller, vcpu, request)
        }
    }

    /// [`LoadedBuild::take_bells`] of the build that serves the NIC.
    pub fn take_bells(&self, caller: &Credentials, b: u64) -> [u64; BELL_WORDS] {
        // SAFETY: as in `serve`.
        unsafe { self.build.take_bells(self.base as *mut u8, caller, b) }
    }

    /// Number of drops of a port's first sender, by cause.
    pub fn drops(&self, port: u32, cause: Cause) -> u64 {
        let number = port * self.geometry().queues();
        let sender = self.switch().sender(number).unwrap();
        sender.drops[cause as usize].load(Relaxed)
    }
}

impl Drop for TestNic {
    fn drop(&mut self) {
        if let LoadedBuild::Image(..) = self.build {
            // SAFETY: `new` has mapped the memory there, and calls are over.
            unsafe { libc::munmap(self.base as *mut _, self.memory.size() as usize) };
        }
    }
}

/// The guest of one port.
pub struct Guest<'a> {
    pub nic: &'a TestNic,
    pub caller: Credentials,
    /// Its producer position in each TX ring.
    pub tx: Vec<u32>,
    /// Its consumer position in each lane, those of the first queue first.
    pub rx: Vec<u32>,
}

impl<'a> Guest<'a> {
    /// Gives the port a new tenant, which begins at the positions in its window.
    pub fn attach(nic: &'a TestNic, number: u32, tenancy: u32) -> Guest<'a> {
        let port = port(number);
        nic.switch()
            .admit(port, tenancy, secret(tenancy), mac(number as u8));
        let geometry = nic.geometry();
        Guest::alias(
            nic,
            Credentials::new(geometry, port, tenancy, secret(tenancy)),
        )
    }

    /// The present tenant of a port, once more, from the positions in its window.
    pub fn alias(nic: &'a TestNic, caller: Credentials) -> Guest<'a> {
        let mut guest = Guest {
            nic,
            caller,
            tx: Vec::new(),
            rx: Vec::new(),
        };
        guest.resume();
        guest
    }

    /// Begins anew at the positions in the window.
    pub fn resume(&mut self) {
        let geometry = self.geometry();
        let queues = 0..geometry.queues();
        self.tx = queues
            .clone()
            .map(|queue| self.consumer(queue).load(Acquire))
            .collect();
        self.rx = queues
            .flat_map(|queue| (0..geometry.lanes()).map(move |sender| (queue, sender)))
            .map(|(queue, sender)| self.consumed(queue, sender).load(Acquire))
            .collect();
    }

    pub fn geometry(&self) -> Geometry {
        self.nic.geometry()
    }

    pub fn number(&self) -> u32 {
        self.caller.port().number()
    }

    pub fn mac(&self) -> [u8; 6] {
        mac(self.number() as u8)
    }

    pub fn window(&self) -> *mut u8 {
        self.nic.switch().window(self.caller.port()).unwrap()
    }

    pub fn word(&self, offset: u64) -> &'a AtomicU32 {
        // SAFETY: tests give the geometry's offsets of such words, which lie in the window.
        unsafe { AtomicU32::from_ptr(self.window().add(offset as usize).cast()) }
    }

    fn words(&self, offset: u64, size: u32) -> &'a [AtomicU64] {
        // SAFETY: the offset is the geometry's of a ring, a lane or an element, and the size that
        // of it.
        unsafe {
            std::slice::from_raw_parts(self.window().add(offset as usize).cast(), size as usize / 8)
        }
    }

    pub fn producer(&self, queue: u32) -> &'a AtomicU32 {
        self.word(self.geometry().tx_producer_offset(queue))
    }

    pub fn consumer(&self, queue: u32) -> &'a AtomicU32 {
        self.word(self.geometry().tx_consumer_offset(queue))
    }

    pub fn published(&self, queue: u32, sender: u32) -> &'a AtomicU64 {
        &self.words(self.geometry().published_offset(queue, sender), 8)[0]
    }

    pub fn consumed(&self, queue: u32, sender: u32) -> &'a AtomicU32 {
        self.word(self.geometry().consumed_offset(queue, sender))
    }

    pub fn ring(&self, queue: u32) -> &'a [AtomicU64] {
        let geometry = self.geometry();
        self.words(geometry.tx_ring_offset(queue), geometry.ring())
    }

    pub fn lane(&self, queue: u32, sender: u32) -> &'a [AtomicU64] {
        let geometry = self.geometry();
        self.words(geometry.lane_offset(queue, sender), geometry.lane())
    }

    /// Number of bytes that the TX ring has room for.
    pub fn room(&self, queue: u32) -> u32 {
        let consumer = self.consumer(queue).load(Acquire);
        let filled = self.tx[queue as usize].wrapping_sub(consumer);
        self.geometry().ring() - filled
    }

    fn to_end(&self, queue: u32) -> u32 {
        let ring = self.geometry().ring();
        ring - (self.tx[queue as usize] & (ring - 1))
    }

    /// Writes any record at the next position, up to the ring's end, with noise behind the frame.
    pub fn put(&self, queue: u32, (first, second): (u64, u64), bytes: &[u8]) {
        let ring = self.ring(queue);
        let at = (self.tx[queue as usize] & (self.geometry().ring() - 1)) as usize / 8;
        ring[at].store(first, Relaxed);
        ring[at + 1].store(second, Relaxed);
        let mut blocks = bytes.chunks(16);
        for pair in ring[at + 2..].chunks(2) {
            let Some(chunk) = blocks.next() else { break };
            let mut block = [0xee; 16];
            block[..chunk.len()].copy_from_slice(chunk);
            let block = u128::from_le_bytes(block);
            pair[0].store(block as u64, Relaxed);
            pair[1].store((block >> 64) as u64, Relaxed);
        }
    }

    /// Gives the next `bytes` bytes of the ring to the NIC.
    pub fn commit(&mut self, queue: u32, bytes: u32) {
        let position = self.tx[queue as usize].wrapping_add(bytes);
        self.tx[queue as usize] = position;
        self.producer(queue).store(position, Release);
    }

    /// Writes a record, with padding before it where needed. Returns false if there is no room.
    pub fn try_put(&mut self, queue: u32, header: RecordHeader, bytes: &[u8]) -> bool {
        let record = record_size(bytes.len() as u32) as u32;
        let to_end = self.to_end(queue);
        let padding = if record > to_end { to_end } else { 0 };
        if padding + record > self.room(queue) {
            return false;
        }
        if padding != 0 {
            self.put(queue, (0, PAD_WORD), &[]);
            self.commit(queue, padding);
        }
        self.put(queue, header.words(), bytes);
        self.commit(queue, record);
        true
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.try_put(0, RecordHeader::plain(bytes.len() as u32), bytes)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes), "room in the TX ring");
    }

    /// Makes a call of the first vCPU for the first queue.
    pub fn call(&self, count: u64, hold: bool) -> u64 {
        self.call_on(0, 0, count, hold)
    }

    pub fn call_on(&self, vcpu: u32, queue: u32, count: u64, hold: bool) -> u64 {
        let request = self.caller.secret().request(OP_TX);
        let request = [request, count, tx_flags(queue, hold) | self.nic.lent];
        self.nic.serve(&self.caller, vcpu, request)
    }

    /// Takes at most `most` frames that a port's first sender sent, from all queues.
    pub fn receive(&mut self, from: u32, most: usize) -> Vec<Vec<u8>> {
        let sender = from * self.geometry().queues();
        self.receive_from(sender, most)
    }

    /// Takes at most `most` frames that a sender sent, from all queues.
    pub fn receive_from(&mut self, sender: u32, most: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for queue in 0..self.geometry().queues() {
            frames.extend(self.receive_on(queue, sender, most - frames.len()));
        }
        frames
    }

    /// Number of bytes that wait in a lane.
    pub fn waiting(&self, queue: u32, sender: u32) -> u32 {
        let published = Published::from_word(self.published(queue, sender).load(Acquire));
        if published.tenancy != self.caller.tenancy() {
            return 0;
        }
        let consumed = self.rx[(queue * self.geometry().lanes() + sender) as usize];
        let waiting = Geometry::filled(self.geometry().lane(), published.position, consumed);
        let waiting = waiting.expect("a valid pair of positions");
        assert_eq!(waiting % RECORD_ALIGN, 0);
        waiting
    }

    /// The lane that a sender has in a queue, as the window tells.
    fn lane_of(&self, queue: u32, sender: u32) -> Option<u32> {
        let geometry = self.geometry();
        let used = self.words(geometry.used_offset(queue), 32);
        (0..geometry.lanes()).find(|lane| {
            let word = used[(lane / 64) as usize].load(Acquire);
            // SAFETY: the byte lies in the window.
            let byte = unsafe {
                let byte = geometry.sender_offset(queue, *lane) as usize;
                AtomicU8::from_ptr(self.window().add(byte))
            };
            word >> (lane % 64) & 1 != 0 && u32::from(byte.load(Relaxed)) == sender
        })
    }

    /// Takes at most `most` frames that a sender sent to a queue, and checks their records.
    pub fn receive_on(&mut self, queue: u32, sender: u32, most: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let Some(sender) = self.lane_of(queue, sender) else {
            return frames;
        };
        while frames.len() < most {
            let Some(frame) = self.next(queue, sender) else {
                break;
            };
            frames.push(frame);
        }
        frames
    }

    fn next(&mut self, queue: u32, sender: u32) -> Option<Vec<u8>> {
        let geometry = self.geometry();
        let index = (queue * geometry.lanes() + sender) as usize;
        let lane = self.lane(queue, sender);
        loop {
            let waiting = self.waiting(queue, sender);
            if waiting == 0 {
                return None;
            }
            let offset = self.rx[index] & (geometry.lane() - 1);
            let stretch = waiting.min(geometry.lane() - offset);
            let at = offset as usize / 8;
            let words = (lane[at].load(Relaxed), lane[at + 1].load(Relaxed));
            let header = RecordHeader::from_words(words.0, words.1);
            let (size, frame) = if header.kind == KIND_PAD {
                assert_eq!(words, (0, PAD_WORD));
                assert_eq!(stretch, geometry.lane() - offset, "padding leads outside");
                (stretch, None)
            } else {
                assert_eq!(words, (header.length.into(), 0), "an ordinary frame");
                assert!((14..=geometry.max_frame()).contains(&header.length));
                let size = record_size(header.length) as u32;
                assert!(size <= stretch, "{header:?} leads outside");
                let body = lane[at + 2..at + size as usize / 8].iter();
                let mut bytes: Vec<u8> = body.flat_map(|w| w.load(Relaxed).to_le_bytes()).collect();
                let behind = bytes.split_off(header.length as usize);
                assert!(
                    behind.iter().all(|byte| *byte == 0),
                    "bytes behind {header:?}"
                );
                (size, Some(bytes))
            };
            self.rx[index] = self.rx[index].wrapping_add(size);
            self.consumed(queue, sender).store(self.rx[index], Release);
            if frame.is_some() {
                return frame;
            }
        }
    }

    /// Passes all that waits in a lane, whatever it is.
    pub fn skip(&mut self, queue: u32, sender: u32) {
        let index = (queue * self.geometry().lanes() + sender) as usize;
        let waiting = self.waiting(queue, sender);
        self.rx[index] = self.rx[index].wrapping_add(waiting);
        self.consumed(queue, sender).store(self.rx[index], Release);
    }

    pub fn drops(&self, cause: Cause) -> u64 {
        self.nic.drops(self.number(), cause)
    }
}
