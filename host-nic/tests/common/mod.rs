//! A guest's ends of the rings, with nothing between a test and the memory.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use postern_abi::service::{OP_TX, TX_HOLD};
use postern_abi::window::{Geometry, PortId, Ring};
use postern_nic::caller::Caller;
use postern_nic::memory::Memory;
use postern_nic::switch::serve;

pub const BROADCAST: [u8; 6] = [0xff; 6];

pub fn geometry(ports: u32, slots: u32) -> Geometry {
    Geometry::new(ports, slots).unwrap()
}

pub fn port(number: u32) -> PortId {
    PortId::new(number).unwrap()
}

/// A station's address.
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

/// Says stop when it goes, also because a check failed: threads that wait for it end.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// One port's guest.
pub struct Guest<'a> {
    memory: &'a Memory,
    pub caller: Caller,
    pub tx: u32,
    pub rx: Vec<u32>,
}

impl<'a> Guest<'a> {
    /// Gives the port a new tenant, who begins where the window says.
    pub fn attach(memory: &'a Memory, number: u32, tenancy: u32) -> Guest<'a> {
        let port = port(number);
        memory.switch().admit(port, tenancy, mac(number as u8));
        let mut guest = Guest {
            memory,
            caller: Caller {
                geometry: memory.geometry(),
                port,
                tenancy,
            },
            tx: 0,
            rx: Vec::new(),
        };
        let geometry = memory.geometry();
        guest.tx = guest.word(geometry.consumer_offset(Ring::TX)).load(Acquire);
        for from in geometry.all_ports() {
            let offset = geometry.consumer_offset(Ring::lane(from));
            guest.rx.push(guest.word(offset).load(Acquire));
        }
        guest
    }

    /// A second vCPU of a port's guest.
    pub fn alias(memory: &'a Memory, caller: Caller) -> Guest<'a> {
        Guest {
            memory,
            caller,
            tx: 0,
            rx: Vec::new(),
        }
    }

    pub fn window(&self) -> *mut u8 {
        self.memory.switch().window(self.caller.port).unwrap()
    }

    pub fn word(&self, offset: u64) -> &'a AtomicU32 {
        // SAFETY: the offset is one of the geometry's.
        unsafe { AtomicU32::from_ptr(self.window().add(offset as usize).cast()) }
    }

    pub fn buffer(&self, ring: Ring, index: u32) -> &'a [AtomicU64; 256] {
        let offset = self.memory.geometry().buffer_offset(ring, index);
        // SAFETY: the offset is one of the geometry's, a buffer has 256 words.
        unsafe { &*self.window().add(offset as usize).cast() }
    }

    pub fn producer(&self, ring: Ring) -> &'a AtomicU32 {
        self.word(self.memory.geometry().producer_offset(ring))
    }

    pub fn consumer(&self, ring: Ring) -> &'a AtomicU32 {
        self.word(self.memory.geometry().consumer_offset(ring))
    }

    pub fn descriptor(&self, ring: Ring, index: u32) -> &'a AtomicU32 {
        self.word(self.memory.geometry().descriptor_offset(ring, index))
    }

    pub fn room(&self) -> u32 {
        let consumer = self.consumer(Ring::TX).load(Acquire);
        self.memory.geometry().slots() - self.tx.wrapping_sub(consumer)
    }

    /// Writes bytes into the next buffer, and any descriptor, valid or not.
    pub fn send_as(&mut self, bytes: &[u8], descriptor: u32) {
        let buffer = self.buffer(Ring::TX, self.tx);
        for (word, chunk) in buffer.iter().zip(bytes.chunks(8)) {
            let mut value = [0xee; 8];
            value[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(value), Relaxed);
        }
        self.descriptor(Ring::TX, self.tx)
            .store(descriptor, Relaxed);
        self.tx = self.tx.wrapping_add(1);
        self.producer(Ring::TX).store(self.tx, Release);
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.send_as(bytes, bytes.len() as u32);
    }

    pub fn call(&self, count: u64, hold: bool) -> u64 {
        let flags = if hold { TX_HOLD } else { 0 };
        self.raw_call(self.caller.encode(), OP_TX, count, flags)
    }

    pub fn raw_call(&self, caller: u64, op: u64, a: u64, b: u64) -> u64 {
        // SAFETY: the memory is that of the geometry, which is all that tests put into words.
        unsafe { serve(self.memory.base().as_ptr(), caller, op, a, b) }
    }

    /// Takes at most `most` frames that a port sent, and checks what is around them.
    pub fn receive(&mut self, from: u32, most: usize) -> Vec<Vec<u8>> {
        let ring = Ring::lane(port(from));
        let producer = self.producer(ring).load(Acquire);
        let consumer = &mut self.rx[from as usize];
        let waiting = producer.wrapping_sub(*consumer);
        assert!(
            waiting <= self.memory.geometry().slots(),
            "valid index pair"
        );
        let mut frames = Vec::new();
        for _ in 0..(waiting as usize).min(most) {
            let index = self.rx[from as usize];
            let length = self.descriptor(ring, index).load(Relaxed) as usize;
            assert!((14..=1514).contains(&length), "length {length}");
            let words = self.buffer(ring, index)[..length.div_ceil(8)].iter();
            let mut bytes: Vec<u8> = words.flat_map(|w| w.load(Relaxed).to_le_bytes()).collect();
            let behind = bytes.split_off(length);
            assert!(
                behind.iter().all(|byte| *byte == 0),
                "bytes behind the frame"
            );
            frames.push(bytes);
            self.rx[from as usize] = index.wrapping_add(1);
        }
        self.consumer(ring).store(self.rx[from as usize], Release);
        frames
    }

    pub fn drops(&self, cause: postern_nic::state::Cause) -> u64 {
        let sender = self.memory.switch().state().sender(self.caller.port);
        sender.drops[cause as usize].load(Relaxed)
    }
}
