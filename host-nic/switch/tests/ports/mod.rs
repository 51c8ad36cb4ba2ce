//! A NIC, its owner, and guests at its ports, in one process.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

pub mod packet;

use std::cell::RefCell;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Relaxed, Release};

use postern_abi::service::{OP_FEATURES, OP_TX, Secret, tx_flags};
use postern_abi::window::{Geometry, PortId, RecordHeader, record_size};
use postern_guest::ring::{RxQueue, TxQueue, Window};
use postern_nic_client::memory::Memory;
use postern_nic_client::policy::port::PortPolicy;
use postern_nic_owner::installed_policies::{Policies, PolicyError};
use postern_switch::credentials::Credentials;
use postern_switch::state::{Cause, MODE_POLICY};

pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Size in bytes of rings and lanes that hold any frame.
pub const LARGE: u32 = 256 << 10;

pub fn port(number: u32) -> PortId {
    PortId::new(number).unwrap()
}

/// The secret of a tenancy of this number.
pub fn secret(tenancy: u32) -> Secret {
    Secret::from_word(0x5ec2_0000_0000_0000 + (u64::from(tenancy) << 16))
}

/// The address of a port's tenant.
pub fn mac(number: u32) -> [u8; 6] {
    [0x02, 0xaa, 0xbb, 0xcc, 0xdd, number as u8]
}

/// A NIC whose ports all have a tenant.
pub struct Net {
    pub memory: Memory,
    policies: RefCell<Policies>,
}

impl Net {
    pub fn new(ports: u32) -> Net {
        Net::sized(Geometry::new(ports, 1, LARGE, LARGE).unwrap())
    }

    pub fn sized(geometry: Geometry) -> Net {
        let memory = Memory::create(geometry).unwrap();
        for port in geometry.all_ports() {
            let number = port.number();
            memory
                .switch()
                .admit(port, 1 + number, secret(1 + number), mac(number));
        }
        let policies = RefCell::default();
        Net { memory, policies }
    }

    /// Changes a port's policy.
    pub fn set(&self, number: u32, change: impl FnOnce(&mut PortPolicy)) {
        self.try_set(number, change).unwrap();
    }

    pub fn try_set(
        &self,
        number: u32,
        change: impl FnOnce(&mut PortPolicy),
    ) -> Result<(), PolicyError> {
        let mut policies = self.policies.borrow_mut();
        let mut policy = policies.get(port(number));
        change(&mut policy);
        policies.set(&self.memory.switch(), port(number), policy)
    }

    /// Removes all policies.
    pub fn reset(&self) {
        for port in self.memory.geometry().all_ports() {
            self.set(port.number(), |policy| *policy = PortPolicy::default());
        }
    }

    pub fn guest(&self, number: u32) -> Guest<'_> {
        Guest::new(&self.memory, number)
    }

    pub fn guests(&self) -> Vec<Guest<'_>> {
        let ports = 0..self.memory.geometry().ports();
        ports.map(|number| self.guest(number)).collect()
    }

    /// Moves the clock, in ns.
    pub fn set_clock(&self, now: u64) {
        self.memory.switch().state().clock.now.store(now, Relaxed);
    }

    /// Number of frames of a port that were not delivered, by cause.
    pub fn drops(&self, number: u32, cause: Cause) -> u64 {
        let geometry = self.memory.geometry();
        let senders = (0..geometry.queues()).map(|queue| geometry.sender(port(number), queue));
        senders
            .map(|sender| {
                self.memory.switch().sender(sender).unwrap().drops[cause as usize].load(Relaxed)
            })
            .sum()
    }

    /// Number of frames for which lanes to a port had no room.
    pub fn lane_drops(&self, number: u32) -> u64 {
        let geometry = self.memory.geometry();
        let lane = |lane, queue| self.memory.switch().lane(queue, lane).unwrap();
        let queues = (0..geometry.queues()).map(|queue| geometry.sender(port(number), queue));
        queues
            .flat_map(|queue| (0..geometry.lanes()).map(move |number| (number, queue)))
            .map(|(number, queue)| lane(number, queue).drops.load(Relaxed))
            .sum()
    }

    /// Whether frames of a port meet policies.
    pub fn minds(&self, number: u32) -> bool {
        self.memory.switch().state().mode(port(number)) & MODE_POLICY != 0
    }

    pub fn hits(&self, number: u32) -> Vec<u64> {
        postern_nic_owner::installed_policies::acl_hits(&self.memory.switch(), port(number))
            .unwrap()
    }
}

/// A frame that a guest received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub queue: u32,
    pub header: RecordHeader,
    pub bytes: Vec<u8>,
}

/// The guest of one port.
pub struct Guest<'a> {
    pub memory: &'a Memory,
    pub caller: Credentials,
    senders: Vec<TxQueue>,
    receivers: Vec<RxQueue>,
}

impl<'a> Guest<'a> {
    pub fn new(memory: &'a Memory, number: u32) -> Guest<'a> {
        let geometry = memory.geometry();
        let base = memory.switch().window(port(number)).unwrap();
        let base = std::ptr::NonNull::new(base).unwrap();
        // SAFETY: the window is mapped as long as the memory lives, and only accessed atomically.
        let window = unsafe { Window::new(base, geometry.window_size()) }.unwrap();
        Guest {
            memory,
            caller: memory.switch().credentials(number).unwrap(),
            senders: (0..geometry.queues())
                .map(|queue| TxQueue::new(window, queue))
                .collect(),
            receivers: (0..geometry.queues())
                .map(|queue| RxQueue::new(window, queue))
                .collect(),
        }
    }

    pub fn number(&self) -> u32 {
        self.caller.port().number()
    }

    /// Writes a frame, which a call takes.
    pub fn put_on(&mut self, queue: u32, header: RecordHeader, frame: &[u8]) {
        let sender = &mut self.senders[queue as usize];
        sender.write_with(header, frame).unwrap();
        sender.commit();
    }

    /// Writes a record at the next position of queue 0, whatever its length. The guest library does
    /// not know of it afterwards.
    pub fn put_raw(&self, header: RecordHeader, frame: &[u8]) {
        let (switch, port) = (self.memory.switch(), self.caller.port());
        let ring = switch.tx_ring(port, 0).unwrap();
        let producer = switch.tx_producer(port, 0).unwrap();
        let position = producer.load(Relaxed);
        let offset = (position & (self.memory.geometry().ring() - 1)) as usize;
        let length = frame.len() as u32;
        let (first, second) = RecordHeader { length, ..header }.words();
        let mut bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
        bytes.extend(frame);
        bytes.resize(record_size(length) as usize, 0xee);
        assert!(offset + bytes.len() <= self.memory.geometry().ring() as usize);
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: the record lies in the ring.
            unsafe { AtomicU8::from_ptr(ring.add(offset + index)).store(*byte, Relaxed) };
        }
        producer.store(position.wrapping_add(bytes.len() as u32), Release);
    }

    pub fn put(&mut self, frame: &[u8]) {
        self.put_on(0, RecordHeader::default(), frame);
    }

    /// Number of frames that wait in the TX ring of queue 0.
    pub fn pending(&mut self) -> u32 {
        self.senders[0].pending()
    }

    pub fn call_on(&self, vcpu: u32, queue: u32, hold: bool) -> u64 {
        let flags = tx_flags(queue, hold);
        self.memory.serve(
            &self.caller,
            vcpu,
            self.caller.secret().request(OP_TX),
            u64::MAX,
            flags,
        )
    }

    pub fn call(&self) -> u64 {
        self.call_on(0, 0, false)
    }

    pub fn call_hold(&self) -> u64 {
        self.call_on(0, 0, true)
    }

    /// Sends one frame.
    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(RecordHeader::default(), frame);
    }

    pub fn send_with(&mut self, header: RecordHeader, frame: &[u8]) {
        self.put_on(0, header, frame);
        assert_eq!(self.call(), 1);
    }

    pub fn agree(&self, features: u32) {
        let agreed = self.memory.serve(
            &self.caller,
            0,
            self.caller.secret().request(OP_FEATURES),
            features.into(),
            0,
        );
        assert_eq!(agreed, u64::from(features));
    }

    /// Takes all frames that wait in all queues, with their headers.
    pub fn take(&mut self) -> Vec<Delivered> {
        let queues = 0..self.receivers.len() as u32;
        queues.flat_map(|queue| self.take_on(queue)).collect()
    }

    /// Takes all frames that wait in a queue, with their headers.
    pub fn take_on(&mut self, queue: u32) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        let receiver = &mut self.receivers[queue as usize];
        let received = receiver.receive(usize::MAX, |frame| {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(&mut bytes);
            let header = RecordHeader {
                length: 0,
                ..frame.header()
            };
            delivered.push(Delivered {
                queue,
                header,
                bytes,
            });
        });
        assert_eq!(received.malformed, 0);
        delivered
    }

    /// Writes a frame if there is room. Returns whether there was.
    pub fn try_put_on(&mut self, queue: u32, header: RecordHeader, frame: &[u8]) -> bool {
        let sender = &mut self.senders[queue as usize];
        let written = sender.write_with(header, frame).is_ok();
        sender.commit();
        written
    }

    /// Takes all frames that wait, all of them ordinary ones.
    pub fn receive(&mut self) -> Vec<Vec<u8>> {
        let ordinary = |delivered: Delivered| {
            assert_eq!(delivered.header, RecordHeader::default());
            delivered.bytes
        };
        self.take().into_iter().map(ordinary).collect()
    }
}
