//! A NIC between two pages that fault, and a check of all that a call changed.

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use postern_abi::service::{OP_FEATURES, OP_TX, Secret};
use postern_abi::window::{Geometry, LINE_SIZE, PortId};
use postern_guest::ring::{RxQueue, Window};
use postern_switch::credentials::Credentials;
use postern_switch::layout::{lane_offset, port_offset, sender_offset, sender_stride};
use postern_switch::layout::{memory_size, window_offset};
use postern_switch::state::{LaneState, PortState, SenderState, State};
use postern_switch::switch::{Switch, serve};

const PAGE: usize = 4096;

/// The memory of a NIC, zero at first.
pub struct FuzzNic {
    base: *mut u8,
    size: usize,
    /// Ports, queues and sizes.
    pub geometry: Geometry,
    before: Vec<u64>,
}

/// The port of that number.
pub fn port(number: u32) -> PortId {
    PortId::new(number).unwrap()
}

/// The secret of a tenancy of this number.
pub fn secret(tenancy: u32) -> Secret {
    Secret::from_word(0x5ec2_0000_0000_0000 + (u64::from(tenancy) << 16))
}

/// The address of a port's guest.
pub fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

impl FuzzNic {
    /// A NIC with tenant 1 at each of its ports.
    pub fn new(geometry: Geometry) -> FuzzNic {
        let size = (memory_size(geometry) as usize).next_multiple_of(PAGE);
        // SAFETY: a new anonymous mapping, of which all but the first and the last page is opened.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(ptr::null_mut(), size + 2 * PAGE, 0, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            let base = base.cast::<u8>().add(PAGE);
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(base.cast(), size, prot), 0);
            base
        };
        let nic = FuzzNic {
            base,
            size,
            geometry,
            before: Vec::new(),
        };
        let switch = nic.switch();
        let state = switch.state();
        state.generation.store(1, Relaxed);
        state.key[0].store(0x0123_4567_89ab_cdef, Relaxed);
        state.key[1].store(0xfedc_ba98_7654_3211, Relaxed);
        state.set_geometry(geometry);
        for number in 0..geometry.ports() {
            switch.admit(port(number), 1, secret(1), mac(number as u8));
        }
        nic
    }

    /// The switch.
    pub fn switch(&self) -> Switch<'_> {
        // SAFETY: the mapping is of that geometry, page aligned, and accessed atomically.
        unsafe { Switch::from_base(self.base, self.geometry) }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page aligned, open, of that size, and accessed atomically.
        unsafe { std::slice::from_raw_parts(self.base.cast(), self.size / 8) }
    }

    /// All of the memory while nobody changes it.
    fn plain(&self) -> &[u64] {
        // SAFETY: the mapping is page aligned, open and of that size. There is one thread, so
        // nobody writes to it as long as the borrow lasts.
        unsafe { std::slice::from_raw_parts(self.base.cast(), self.size / 8) }
    }

    /// A word of a port's window; the offset is brought into it.
    pub fn long(&self, number: u32, offset: u64) -> &AtomicU64 {
        let offset = (offset % self.geometry.window_size()) & !7;
        &self.words()[(window_offset(self.geometry, port(number)) + offset) as usize / 8]
    }

    /// A word of 4 bytes of a port's window; the offset is brought into it.
    pub fn word(&self, number: u32, offset: u64) -> &AtomicU32 {
        let offset = (offset % self.geometry.window_size()) & !3;
        let offset = window_offset(self.geometry, port(number)) + offset;
        // SAFETY: the word is aligned and lies in a window, which is mapped while `self` lives.
        unsafe { AtomicU32::from_ptr(self.base.add(offset as usize).cast()) }
    }

    /// The window of a port as its guest sees it, if it still has a header.
    pub fn window(&self, number: u32) -> Option<Window> {
        let offset = window_offset(self.geometry, port(number)) as usize;
        // SAFETY: the window is mapped and aligned, and only used as long as the NIC.
        unsafe {
            let base = NonNull::new_unchecked(self.base.add(offset));
            Window::new(base, self.geometry.window_size()).ok()
        }
    }

    /// A receiver of a port's queue.
    pub fn receiver(&self, number: u32, queue: u32) -> Option<RxQueue> {
        Some(RxQueue::new(self.window(number)?, queue))
    }

    /// Puts bytes into a TX ring at the producer's position and moves that on by so many.
    pub fn append(&self, number: u32, queue: u32, words: &[u64], moved: u32) {
        let producer = self.word(number, self.geometry.tx_producer_offset(queue));
        let position = producer.load(Relaxed);
        let ring = self.geometry.ring();
        for (index, word) in (0u32..).zip(words) {
            let offset = u64::from(position.wrapping_add(index * 8) & (ring - 1));
            let offset = self.geometry.tx_ring_offset(queue) + offset;
            self.long(number, offset).store(*word, Relaxed);
        }
        producer.store(position.wrapping_add(moved), Relaxed);
    }

    /// The credentials of a port's present tenant, or those that the first one would have.
    fn caller(&self, number: u32) -> Credentials {
        let tenancy = self.switch().state().tenancy(port(number)).max(1);
        Credentials::new(self.geometry, port(number), tenancy, secret(tenancy))
    }

    /// A call with the port's secret, after which everything that it had no business with must be as
    /// before.
    pub fn call(&mut self, number: u32, vcpu: u32, op: u64, a: u64, b: u64) -> u64 {
        let request = self.caller(number).secret().request(op);
        self.call_with(number, vcpu, request, a, b)
    }

    /// A call with any word as its request.
    pub fn call_with(&mut self, number: u32, vcpu: u32, request: u64, a: u64, b: u64) -> u64 {
        let mut before = std::mem::take(&mut self.before);
        before.clear();
        before.extend_from_slice(self.plain());
        let caller = self.caller(number);
        let unread = self.unread();
        // SAFETY: the mapping is of the caller's geometry; there is one call at a time.
        let result = unsafe { serve(self.base, &caller, vcpu, request, a, b) };
        let allowed = self.allowed(number, vcpu, caller.secret().op(request));
        let pages = self.plain().chunks(PAGE / 8).zip(before.chunks(PAGE / 8));
        for (page, (words, before)) in pages
            .enumerate()
            .filter(|(_, (words, before))| words != before)
        {
            for (index, (word, before)) in words.iter().zip(before).enumerate() {
                let changed = word ^ before;
                for byte in (0..8).filter(|byte| changed >> (byte * 8) & 0xff != 0) {
                    let at = page * PAGE + index * 8 + byte;
                    let inside =
                        |parts: &[Range<usize>]| parts.iter().any(|part| part.contains(&at));
                    assert!(
                        inside(&allowed),
                        "a call of {number}.{vcpu} changed {at:#x}"
                    );
                    assert!(!inside(&unread), "unread bytes changed at {at:#x}");
                }
            }
        }
        self.before = before;
        result
    }

    /// The parts of the memory that a call may change.
    fn allowed(&self, number: u32, vcpu: u32, op: u64) -> Vec<Range<usize>> {
        let geometry = self.geometry;
        let range = |start: u64, size: usize| start as usize..start as usize + size;
        let own = window_offset(geometry, port(number));
        let states = |number: u32| range(port_offset(number), size_of::<PortState>());
        let mut parts = Vec::new();
        if op == OP_FEATURES {
            parts.push(states(number));
        }
        if op > OP_FEATURES {
            let refused = std::mem::offset_of!(PortState, refused);
            parts.push(range(port_offset(number) + refused as u64, 8));
        }
        if op != OP_TX || vcpu >= geometry.queues() {
            return parts;
        }
        let fdb = std::mem::offset_of!(State, fdb);
        parts.push(fdb..size_of::<State>());
        parts.push(range(std::mem::offset_of!(State, generation) as u64, 8));
        // Buckets and hits.
        parts.extend((0..geometry.ports()).map(states));
        let sender = geometry.sender(port(number), vcpu);
        for queue in 0..geometry.queues() {
            let other = geometry.sender(port(number), queue);
            // The position of the queue, and how far its first frame came.
            parts.push(range(sender_offset(geometry, other), LINE_SIZE as usize));
            parts.push(range(own + geometry.tx_consumer_offset(queue), 4));
            parts.push(range(own + geometry.bells_offset(queue), 32));
        }
        let stride = sender_stride(geometry) as usize;
        assert!(stride > size_of::<SenderState>());
        parts.push(range(sender_offset(geometry, sender), stride));
        for to in geometry.all_ports() {
            let window = window_offset(geometry, to);
            for queue in 0..geometry.queues() {
                let wanted = std::mem::offset_of!(LaneState, wanted) as u64;
                let first = lane_offset(geometry, geometry.rx_queue(to, queue), 0);
                parts.push(range(first + wanted, 8));
                let Some((lane, _)) = self
                    .switch()
                    .lane_from(sender, geometry.rx_queue(to, queue))
                else {
                    continue;
                };
                let state = lane_offset(geometry, geometry.rx_queue(to, queue), lane);
                parts.push(range(state, size_of::<LaneState>()));
                parts.push(range(window + geometry.latest_offset(queue), 8));
                parts.push(range(window + geometry.used_offset(queue), 32));
                parts.push(range(window + geometry.sender_offset(queue, lane), 1));
                parts.push(range(window + geometry.published_offset(queue, lane), 8));
                let lane = window + geometry.lane_offset(queue, lane);
                parts.push(range(lane, geometry.lane() as usize));
            }
        }
        parts
    }

    /// The parts of the honest port's lanes that hold unread records, which no call may change. Nothing
    /// says what is unread where receivers spoil their own words.
    fn unread(&self) -> Vec<Range<usize>> {
        let geometry = self.geometry;
        let (mut parts, to) = (Vec::new(), self.honest());
        for queue in 0..geometry.queues() {
            for number in 0..geometry.lanes() {
                let published = geometry.published_offset(queue, number);
                let published = self.long(to, published).load(Relaxed) as u32;
                let consumed = geometry.consumed_offset(queue, number);
                let consumed = self.word(to, consumed).load(Relaxed);
                let filled = Geometry::filled(geometry.lane(), published, consumed);
                let filled = filled.expect("an honest receiver's lane");
                let lane = window_offset(geometry, port(to)) + geometry.lane_offset(queue, number);
                let offset = consumed & (geometry.lane() - 1);
                let first = filled.min(geometry.lane() - offset);
                let at = |from: u32, size: u32| {
                    let from = lane as usize + from as usize;
                    from..from + size as usize
                };
                parts.extend([at(offset, first), at(0, filled - first)]);
            }
        }
        parts
    }

    /// The port whose guest does nothing wrong: the last one.
    pub fn honest(&self) -> u32 {
        self.geometry.ports() - 1
    }

    /// Gives a port its next tenant.
    pub fn admit(&self, number: u32, tenancy: u32) {
        let (port, mac) = (port(number), mac(number as u8));
        self.switch().admit(port, tenancy, secret(tenancy), mac);
    }

    /// The receivers of all of a port's queues.
    pub fn receivers(&self, number: u32) -> Vec<RxQueue> {
        let queues = 0..self.geometry.queues();
        queues
            .filter_map(|queue| self.receiver(number, queue))
            .collect()
    }
}

impl Drop for FuzzNic {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to `self`.
        unsafe { libc::munmap(self.base.sub(PAGE).cast(), self.size + 2 * PAGE) };
    }
}
