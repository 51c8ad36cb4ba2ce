//! A disk whose driver writes what it likes into its rings and its RAM. Input: a byte of features,
//! then steps.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use postern_vmm::virtio::blk::{Blk, DiskConfig};
use postern_vmm::virtio::{Activation, ActiveQueue, DeviceStatus, Notifier, VirtioDevice};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::bytes::Bytes;

/// RAM of the driver: two parts, with a hole between them.
const RAM: [(GuestAddress, usize); 2] = [
    (GuestAddress(0), 0x1_0000),
    (GuestAddress(0x2_0000), 0x8000),
];
/// Where its rings are; they fit for all sizes.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
/// Descriptors at most.
const MAX_SIZE: u16 = 64;
/// Sectors of the disk.
const SECTORS: u64 = 32;
/// `VIRTIO_BLK_F_FLUSH`.
const FLUSH: u64 = 1 << 9;

/// How often a device told something, from one activation to the next.
#[derive(Default)]
struct Told {
    needs_reset: AtomicU32,
    errors: AtomicU32,
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

/// What all bytes of a sector are.
fn content() -> Vec<u8> {
    (0..SECTORS * 512)
        .map(|at| (at / 512) as u8 | 0x80)
        .collect()
}

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let choice = input.u8();
    let readonly = choice & 1 != 0;
    let memory = GuestMemoryMmap::from_ranges(&RAM).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&content(), 0).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let blk = Blk::open(&DiskConfig {
        readonly,
        ..DiskConfig::new(path)
    })
    .unwrap();
    let mut next = 0;
    // Each step is short, and so is an input.
    while !input.is_empty() {
        match input.u8() % 6 {
            0 => {
                let index = u64::from(input.u16() % MAX_SIZE);
                let at = GuestAddress(DESCRIPTORS + 16 * index);
                // Mostly where there is RAM.
                let gpa = match input.u8() {
                    0 => input.u64(),
                    high => u64::from(high & 3) << 16 | u64::from(input.u16()),
                };
                let len = match input.u8() {
                    0xff => input.u32(),
                    short => u32::from(short) * 16,
                };
                memory.write_obj(gpa, at).unwrap();
                memory.write_obj(len, GuestAddress(at.0 + 8)).unwrap();
                let (flags, follows) = (u16::from(input.u8()), u16::from(input.u8()));
                memory.write_obj(flags, GuestAddress(at.0 + 12)).unwrap();
                memory.write_obj(follows, GuestAddress(at.0 + 14)).unwrap();
            }
            1 => {
                let (at, head) = (u64::from(input.u8()), u16::from(input.u8()));
                let at = GuestAddress(AVAILABLE + 4 + 2 * at);
                memory.write_obj(head, at).unwrap();
            }
            2 => {
                let index = u16::from(input.u8());
                memory
                    .write_obj(index, GuestAddress(AVAILABLE + 2))
                    .unwrap();
            }
            3 => {
                // A header, or a range to discard.
                let at = GuestAddress(u64::from(input.u16() & 0x7ff0));
                memory.write_obj(u32::from(input.u8()), at).unwrap();
                let (sector, high) = (u64::from(input.u8()), u64::from(input.u8()));
                let sector = sector | high << 56;
                memory.write_obj(sector, GuestAddress(at.0 + 8)).unwrap();
            }
            4 => {
                let at = GuestAddress(u64::from(input.u16() & 0x7fff));
                let count = usize::from(input.u8());
                memory.write_slice(input.take(count), at).unwrap();
            }
            _ => {
                let told = Arc::new(Told::default());
                let mut queue = Queue::new(MAX_SIZE).unwrap();
                queue.set_size(1 << (choice >> 1 & 3) << 3);
                queue.set_desc_table_address(Some(DESCRIPTORS as u32), Some(0));
                queue.set_avail_ring_address(Some(AVAILABLE as u32), Some(0));
                queue.set_used_ring_address(Some(USED as u32), Some(0));
                queue.set_event_idx(choice & 8 != 0);
                queue.set_next_avail(next);
                queue.set_ready(true);
                let active = ActiveQueue {
                    queue,
                    kick: EventFd::new(0).unwrap(),
                    call: told.clone(),
                };
                blk.serve_once(Activation {
                    memory: memory.clone(),
                    features: u64::from(choice >> 4 & 1) * FLUSH,
                    queues: vec![Some(active)],
                    config_changed: told.clone(),
                    status: told.clone(),
                });
                // What the guest's mistakes may cost at most.
                let told = (&told.needs_reset, &told.errors);
                assert!(told.0.load(Ordering::Relaxed) <= 1);
                assert_eq!(told.1.load(Ordering::Relaxed), 0, "an error of the host's");
                next = memory.read_obj(GuestAddress(AVAILABLE + 2)).unwrap();
            }
        }
    }
    let mut config = [0; 64];
    blk.read_config(input.u64(), &mut config);
    drop(blk);
    assert_eq!(file.metadata().unwrap().len(), SECTORS * 512);
    if readonly {
        let mut now = vec![0; content().len()];
        file.read_exact_at(&mut now, 0).unwrap();
        assert_eq!(now, content());
    }
    assert_eq!(memory.num_regions(), 2);
}
