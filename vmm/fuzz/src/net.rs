//! A network device whose driver writes what it likes into its rings and its RAM. Input: a byte of
//! features, then steps.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use postern_vmm::virtio::net::serve_once;
use postern_vmm::virtio::{Activation, ActiveQueue, DeviceStatus, Notifier};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::bytes::Bytes;

/// RAM of the driver: two parts, with a hole between them.
const RAM: [(GuestAddress, usize); 2] = [
    (GuestAddress(0), 0x1_0000),
    (GuestAddress(0x2_0000), 0x8000),
];
/// The queues: to receive, to transmit, and for commands. Each has 4 KiB for its descriptors, its
/// available ring and its used ring, one after another.
const QUEUES: u64 = 3;
const SIZE: u16 = 16;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// `VIRTIO_NET_F_MRG_RXBUF`.
const MERGEABLE: u64 = 1 << 15;

/// How often the device said that it cannot go on.
#[derive(Default)]
struct Told(AtomicU32);

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
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&self, _: &str) {
        unreachable!("a network device has nothing to tell");
    }
}

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let choice = input.u8();
    let memory = GuestMemoryMmap::from_ranges(&RAM).unwrap();
    let (tap, network) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    network.set_nonblocking(true).unwrap();
    let mut next = [0; QUEUES as usize];
    // Each step is short, and so is an input.
    while !input.is_empty() {
        let step = input.u8();
        let base = 0x1000 * (1 + u64::from(step >> 4) % QUEUES);
        match step % 6 {
            0 => {
                let index = u64::from(input.u8()) % u64::from(SIZE);
                let at = GuestAddress(base + 16 * index);
                // Mostly where there is RAM.
                let gpa = match input.u8() {
                    0 => input.u64(),
                    high => u64::from(high & 3) << 16 | u64::from(input.u16()),
                };
                let len = match input.u8() {
                    0xff => input.u32(),
                    short => u32::from(short),
                };
                memory.write_obj(gpa, at).unwrap();
                memory.write_obj(len, GuestAddress(at.0 + 8)).unwrap();
                let (flags, follows) = (u16::from(input.u8()), u16::from(input.u8()));
                memory.write_obj(flags, GuestAddress(at.0 + 12)).unwrap();
                memory.write_obj(follows, GuestAddress(at.0 + 14)).unwrap();
            }
            1 => {
                let (at, head) = (u64::from(input.u8() % 32), u16::from(input.u8()));
                let at = GuestAddress(base + AVAILABLE + 4 + 2 * at);
                memory.write_obj(head, at).unwrap();
            }
            2 => {
                let index = u16::from(input.u8());
                let at = GuestAddress(base + AVAILABLE + 2);
                memory.write_obj(index, at).unwrap();
            }
            3 => {
                // A command, or anything else.
                let at = GuestAddress(u64::from(input.u16() & 0x7fff));
                let count = usize::from(input.u8());
                memory.write_slice(input.take(count), at).unwrap();
            }
            4 => {
                // A frame of the network's. The socket may be full.
                let _ = network.send(&vec![input.u8(); usize::from(input.u16())]);
            }
            _ => {
                let told = Arc::new(Told::default());
                let queues = (0..QUEUES).map(|number| {
                    let base = 0x1000 * (1 + number);
                    let mut queue = Queue::new(SIZE).unwrap();
                    queue.set_desc_table_address(Some(base as u32), Some(0));
                    let (available, used) = (base + AVAILABLE, base + USED);
                    queue.set_avail_ring_address(Some(available as u32), Some(0));
                    queue.set_used_ring_address(Some(used as u32), Some(0));
                    queue.set_event_idx(choice & 1 != 0);
                    queue.set_next_avail(next[number as usize]);
                    queue.set_ready(true);
                    Some(ActiveQueue {
                        queue,
                        kick: EventFd::new(0).unwrap(),
                        call: told.clone(),
                    })
                });
                serve_once(
                    Activation {
                        memory: memory.clone(),
                        features: u64::from(choice >> 1 & 1) * MERGEABLE,
                        queues: queues.collect(),
                        config_changed: told.clone(),
                        status: told.clone(),
                    },
                    &tap,
                );
                // What the guest's mistakes may cost at most.
                assert!(told.0.load(Ordering::Relaxed) <= 1);
                for (number, next) in (1..).zip(&mut next) {
                    let at = GuestAddress(0x1000 * number + AVAILABLE + 2);
                    *next = memory.read_obj(at).unwrap();
                }
                // What is sent has a header, and is the guest's RAM at most once a descriptor.
                let mut frame = vec![0; 0x1_8000 + 1];
                while let Ok(len) = network.recv(&mut frame) {
                    assert!(len >= 12);
                }
            }
        }
    }
}
