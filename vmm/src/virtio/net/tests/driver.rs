//! The driver's side of a queue, and what a device needs of its transport.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::{ActiveQueue, DeviceStatus, Notifier};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Size of the guest's memory in bytes.
pub const MEMORY: usize = 4 << 20;

pub fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
}

/// Counts interrupts.
#[derive(Default)]
pub struct Calls {
    pub count: AtomicU32,
    pub event: Option<OwnedFd>,
}

impl Notifier for Calls {
    fn notify(&self) -> io::Result<()> {
        self.count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.event.as_ref().map(AsFd::as_fd)
    }
}

/// Remembers why a device needs a reset.
#[derive(Default)]
pub struct Status(pub Mutex<Vec<String>>);

impl DeviceStatus for Status {
    fn needs_reset(&self, why: &str) {
        self.0.lock().unwrap().push(why.to_owned());
    }

    fn tell(&self, what: &str) {
        println!("{what}");
    }
}

/// A queue as its driver has it: rings at `base`, in 64 KiB.
pub struct Driver {
    pub memory: GuestMemoryMmap,
    base: u64,
    size: u16,
    /// The next free descriptor.
    descriptor: AtomicU16,
    available: AtomicU16,
    used: AtomicU16,
    kick: EventFd,
    pub calls: Arc<Calls>,
}

impl Driver {
    pub fn new(memory: &GuestMemoryMmap, base: u64, size: u16) -> Driver {
        Driver {
            memory: memory.clone(),
            base,
            size,
            descriptor: AtomicU16::new(0),
            available: AtomicU16::new(0),
            used: AtomicU16::new(0),
            kick: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            calls: Arc::default(),
        }
    }

    fn available_ring(&self) -> u64 {
        self.base + 0x8000
    }

    fn used_ring(&self) -> u64 {
        self.base + 0xa000
    }

    /// The device's side.
    pub fn active(&self, event_idx: bool) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.set_desc_table_address(Some(self.base as u32), Some(0));
        queue.set_avail_ring_address(Some(self.available_ring() as u32), Some(0));
        queue.set_used_ring_address(Some(self.used_ring() as u32), Some(0));
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(&self.memory));
        ActiveQueue {
            queue,
            kick: self.kick.try_clone().unwrap(),
            call: Arc::clone(&self.calls) as Arc<dyn Notifier>,
        }
    }

    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = self.base + 16 * u64::from(index);
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Makes a chain of parts (address, length, flags besides NEXT) available.
    pub fn post(&self, parts: &[(u64, u32, u16)]) -> u16 {
        let count = parts.len() as u16;
        let first = self.descriptor.fetch_add(count, Ordering::SeqCst);
        for (number, &(address, len, flags)) in (0..).zip(parts) {
            let last = number + 1 == count;
            let flags = flags | if last { 0 } else { NEXT };
            let index = first.wrapping_add(number);
            let (index, next) = (index % self.size, index.wrapping_add(1) % self.size);
            self.descriptor(index, address, len, flags, next);
        }
        self.offer(first % self.size);
        first % self.size
    }

    /// Makes the chain that begins with that descriptor available.
    pub fn offer(&self, head: u16) {
        let slot = self.available.fetch_add(1, Ordering::SeqCst);
        let at = self.available_ring() + 4 + 2 * u64::from(slot % self.size);
        self.memory.write_obj(head, GuestAddress(at)).unwrap();
        self.set_available(slot.wrapping_add(1));
    }

    pub fn set_available(&self, index: u16) {
        let at = GuestAddress(self.available_ring() + 2);
        self.memory.store(index, at, Ordering::Release).unwrap();
    }

    pub fn set_flags(&self, flags: u16) {
        let at = GuestAddress(self.available_ring());
        self.memory.store(flags, at, Ordering::Release).unwrap();
    }

    pub fn set_used_event(&self, event: u16) {
        let at = GuestAddress(self.available_ring() + 4 + 2 * u64::from(self.size));
        self.memory.store(event, at, Ordering::Release).unwrap();
    }

    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Chains that the device has used since last asked: their heads, and lengths.
    pub fn take_used(&self) -> Vec<(u32, u32)> {
        let at = GuestAddress(self.used_ring() + 2);
        let index: u16 = self.memory.load(at, Ordering::Acquire).unwrap();
        let mut list = Vec::new();
        loop {
            let next = self.used.load(Ordering::SeqCst);
            if next == index {
                return list;
            }
            let at = self.used_ring() + 4 + 8 * u64::from(next % self.size);
            let head = self.memory.read_obj(GuestAddress(at)).unwrap();
            let len = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
            list.push((head, len));
            self.used.store(next.wrapping_add(1), Ordering::SeqCst);
        }
    }

    pub fn calls(&self) -> u32 {
        self.calls.count.load(Ordering::SeqCst)
    }
}
