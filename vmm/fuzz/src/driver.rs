//! What drivers that write what they like have in common: their RAM, what they write to rings, and what
//! devices tell them.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use postern_fuzz_input::Bytes;
use postern_vmm::virtio::{ActiveQueue, DeviceStatus, Notifier};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// RAM of a driver: two parts, with a hole between them.
pub const RAM: [(GuestAddress, usize); 2] = [
    (GuestAddress(0), 0x1_0000),
    (GuestAddress(0x2_0000), 0x8000),
];

/// That RAM, all zeros.
pub fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&RAM).unwrap()
}

/// How often a device told something, from one activation to the next.
#[derive(Default)]
pub struct Told {
    needs_reset: AtomicU32,
    errors: AtomicU32,
}

impl Told {
    /// Panics where it told more than a guest's mistakes may cost.
    pub fn check(&self) {
        assert!(self.needs_reset.load(Ordering::Relaxed) <= 1);
        let errors = self.errors.load(Ordering::Relaxed);
        assert_eq!(errors, 0, "an error of the host's");
    }
}

impl Notifier for Told {
    fn notify(&self) -> io::Result<()> {
        Ok(())
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl DeviceStatus for Told {
    fn needs_reset(&self, why: &str) {
        assert!(!why.contains('\n'));
        self.needs_reset.fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&self, _: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the rings of a queue are.
#[derive(Clone, Copy)]
pub struct Rings {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

impl Rings {
    /// Writes the descriptor `index`, mostly of a buffer where there is RAM, whose length is mostly a
    /// few times `unit`.
    pub fn write_descriptor(
        &self,
        memory: &GuestMemoryMmap,
        index: u16,
        unit: u32,
        input: &mut Bytes<'_>,
    ) {
        let at = self.descriptors + 16 * u64::from(index);
        let gpa = match input.u8() {
            0 => input.u64(),
            high => u64::from(high & 3) << 16 | u64::from(input.u16()),
        };
        let len = match input.u8() {
            0xff => input.u32(),
            short => u32::from(short) * unit,
        };
        memory.write_obj(gpa, GuestAddress(at)).unwrap();
        memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        let (flags, follows) = (u16::from(input.u8()), u16::from(input.u8()));
        memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        memory.write_obj(follows, GuestAddress(at + 14)).unwrap();
    }

    /// Writes the head of a chain to the available ring.
    pub fn write_head(&self, memory: &GuestMemoryMmap, at: u8, head: u8) {
        let at = GuestAddress(self.available + 4 + 2 * u64::from(at));
        memory.write_obj(u16::from(head), at).unwrap();
    }

    /// Writes the index of the available ring.
    pub fn write_available(&self, memory: &GuestMemoryMmap, index: u8) {
        let at = GuestAddress(self.available + 2);
        memory.write_obj(u16::from(index), at).unwrap();
    }

    /// The index of the available ring.
    pub fn available(&self, memory: &GuestMemoryMmap) -> u16 {
        memory.read_obj(GuestAddress(self.available + 2)).unwrap()
    }

    /// The queue for a device, of these sizes, which goes on at the index `next`.
    pub fn active(
        &self,
        (max_size, size): (u16, u16),
        event_idx: bool,
        next: u16,
        call: Arc<Told>,
    ) -> ActiveQueue {
        let mut queue = Queue::new(max_size).unwrap();
        queue.set_size(size);
        queue.set_desc_table_address(Some(self.descriptors as u32), Some(0));
        queue.set_avail_ring_address(Some(self.available as u32), Some(0));
        queue.set_used_ring_address(Some(self.used as u32), Some(0));
        queue.set_event_idx(event_idx);
        queue.set_next_avail(next);
        queue.set_ready(true);
        let kick = EventFd::new(0).unwrap();
        ActiveQueue { queue, kick, call }
    }
}
