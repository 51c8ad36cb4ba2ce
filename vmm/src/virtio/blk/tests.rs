//! A disk and a driver of it that plays by the rules, or does not.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::image::SECTOR;
use super::{Blk, DiskConfig, Error};
use crate::virtio::{Activation, ActiveQueue, DeviceStatus, Notifier, VirtioDevice};

/// Where a driver's buffers are.
const HEADER: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
const STATUS: u64 = 0x8_0000;
/// Bytes of the driver's RAM.
const RAM: usize = 0x10_0000;

/// Sectors of the disk.
const SECTORS: u64 = 64;

/// Who is told what a device does.
#[derive(Default)]
struct Witness {
    interrupts: AtomicU32,
    needs_reset: Mutex<Vec<String>>,
    told: Mutex<Vec<String>>,
}

impl Notifier for Witness {
    fn notify(&self) -> io::Result<()> {
        self.interrupts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl DeviceStatus for Witness {
    fn needs_reset(&self, why: &str) {
        self.needs_reset.lock().unwrap().push(why.to_owned());
    }

    fn tell(&self, what: &str) {
        self.told.lock().unwrap().push(what.to_owned());
    }
}

/// A descriptor: address, bytes, flags, next.
type Raw = (u64, u32, u16, u16);

/// A part of a chain: address, bytes, whether the device writes it.
type Part = (u64, u32, bool);

struct Bench {
    file: tempfile::NamedTempFile,
    config: DiskConfig,
    memory: GuestMemoryMmap,
    witness: Arc<Witness>,
    features: u64,
}

impl Bench {
    fn new() -> Bench {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..SECTORS * SECTOR)
            .map(|at| (at / SECTOR) as u8)
            .collect();
        std::fs::write(file.path(), content).unwrap();
        Bench {
            config: DiskConfig::new(file.path()),
            file,
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap(),
            witness: Arc::default(),
            features: 1 << VIRTIO_BLK_F_FLUSH,
        }
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()
    }

    fn header(&self, kind: u32, sector: u64) {
        self.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        let at = GuestAddress(HEADER + 8);
        self.memory.write_obj(sector, at).unwrap();
    }

    fn activation(&self, queue: Queue) -> (Activation, EventFd) {
        let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let driver = kick.try_clone().unwrap();
        let active = ActiveQueue {
            queue,
            kick,
            call: self.witness.clone(),
        };
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.features,
            queues: vec![Some(active)],
            config_changed: self.witness.clone(),
            status: self.witness.clone(),
        };
        (activation, driver)
    }

    /// Gives the device one chain; returns the length that it says it has written.
    fn send(&self, parts: &[Part]) -> Option<u32> {
        let descriptors: Vec<RawDescriptor> = parts
            .iter()
            .enumerate()
            .map(|(number, &(gpa, len, writable))| {
                let mut flags = 0;
                if writable {
                    flags |= VRING_DESC_F_WRITE;
                }
                if number + 1 < parts.len() {
                    flags |= VRING_DESC_F_NEXT;
                }
                Descriptor::new(gpa, len, flags as u16, number as u16 + 1).into()
            })
            .collect();
        self.send_raw(&descriptors)
    }

    fn send_raw(&self, descriptors: &[RawDescriptor]) -> Option<u32> {
        self.memory
            .write_obj(0xee_u8, GuestAddress(STATUS))
            .unwrap();
        let ring = MockSplitQueue::new(&self.memory, 16);
        ring.avail().idx().store(0);
        ring.used().idx().store(0);
        for (number, descriptor) in descriptors.iter().enumerate() {
            ring.desc_table().store(number as u16, *descriptor).unwrap();
        }
        ring.avail().ring().ref_at(0).unwrap().store(0);
        ring.avail().idx().store(1);
        let queue: Queue = ring.create_queue().unwrap();
        let blk = Blk::open(&self.config).unwrap();
        blk.serve_once(self.activation(queue).0);
        match ring.used().idx().load() {
            0 => None,
            1 => Some(ring.used().ring().ref_at(0).unwrap().load().len()),
            more => panic!("{more} chains used of one"),
        }
    }

    fn status(&self) -> u32 {
        let status: u8 = self.memory.read_obj(GuestAddress(STATUS)).unwrap();
        status.into()
    }

    /// A request with `len` bytes of data, in the usual three parts.
    fn request(&self, kind: u32, sector: u64, len: u32, to_driver: bool) -> u32 {
        self.header(kind, sector);
        let data = (DATA, len, to_driver);
        let parts = [(HEADER, 16, false), data, (STATUS, 1, true)];
        let parts = if len == 0 {
            vec![parts[0], parts[2]]
        } else {
            parts.to_vec()
        };
        assert!(self.send(&parts).is_some());
        self.status()
    }

    /// A range to discard or zero.
    fn range(&self, sector: u64, sectors: u32, flags: u32) {
        self.memory.write_obj(sector, GuestAddress(DATA)).unwrap();
        let word = |at, value: u32| self.memory.write_obj(value, GuestAddress(DATA + at));
        word(8, sectors).unwrap();
        word(12, flags).unwrap();
    }

    /// The one sentence about a queue that the driver broke.
    fn broken(&self) -> String {
        let mut reasons = self.witness.needs_reset.lock().unwrap();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        reasons.remove(0)
    }
}

#[test]
fn sectors_are_read_and_written() {
    let bench = Bench::new();
    assert_eq!(
        bench.request(VIRTIO_BLK_T_IN, 5, 1024, true),
        VIRTIO_BLK_S_OK
    );
    let mut data = [0; 1024];
    bench
        .memory
        .read_slice(&mut data, GuestAddress(DATA))
        .unwrap();
    assert_eq!((data[0], data[511], data[512], data[1023]), (5, 5, 6, 6));

    bench
        .memory
        .write_slice(&[0xab; 512], GuestAddress(DATA))
        .unwrap();
    assert_eq!(
        bench.request(VIRTIO_BLK_T_OUT, 63, 512, false),
        VIRTIO_BLK_S_OK
    );
    assert!(bench.content()[63 * 512..].iter().all(|&byte| byte == 0xab));
    assert_eq!(bench.content()[63 * 512 - 1], 62);
    assert_eq!(
        bench.request(VIRTIO_BLK_T_FLUSH, 0, 0, false),
        VIRTIO_BLK_S_OK
    );
    assert!(bench.witness.needs_reset.lock().unwrap().is_empty());
}

#[test]
fn framing_means_nothing() {
    let bench = Bench::new();
    bench.header(VIRTIO_BLK_T_IN, 7);
    // A header in four parts, data in two; the status is the last byte of the last.
    let parts = [
        (HEADER, 1, false),
        (HEADER + 1, 6, false),
        (HEADER + 7, 0, false),
        (HEADER + 7, 9, false),
        (DATA, 100, true),
        (STATUS - 412, 413, true),
    ];
    assert_eq!(bench.send(&parts), Some(513));
    assert_eq!(bench.status(), VIRTIO_BLK_S_OK);
    let mut data = [0; 412];
    bench
        .memory
        .read_slice(&mut data, GuestAddress(STATUS - 412))
        .unwrap();
    assert_eq!(data, [7; 412]);

    // Header and data in one.
    bench.header(VIRTIO_BLK_T_OUT, 1);
    bench
        .memory
        .write_slice(&[9; 512], GuestAddress(HEADER + 16))
        .unwrap();
    assert_eq!(
        bench.send(&[(HEADER, 528, false), (STATUS, 1, true)]),
        Some(1)
    );
    assert_eq!(bench.status(), VIRTIO_BLK_S_OK);
    assert_eq!(bench.content()[512..1024], [9; 512]);
}

#[test]
fn indirect_chains_are_chains() {
    let bench = Bench::new();
    bench.header(VIRTIO_BLK_T_IN, 2);
    let table = [
        Descriptor::new(HEADER, 16, VRING_DESC_F_NEXT as u16, 1),
        Descriptor::new(
            DATA,
            512,
            (VRING_DESC_F_NEXT | VRING_DESC_F_WRITE) as u16,
            2,
        ),
        Descriptor::new(STATUS, 1, VRING_DESC_F_WRITE as u16, 0),
    ];
    for (number, descriptor) in table.into_iter().enumerate() {
        let at = GuestAddress(0x9_0000 + 16 * number as u64);
        bench.memory.write_obj(descriptor, at).unwrap();
    }
    let indirect = VRING_DESC_F_INDIRECT as u16;
    let send = |len| bench.send_raw(&[Descriptor::new(0x9_0000, len, indirect, 0).into()]);
    assert_eq!(send(48), Some(513));
    assert_eq!(bench.status(), VIRTIO_BLK_S_OK);
    // Cut in the middle of a descriptor, after the second, and empty.
    for len in [47, 32, 0] {
        assert_eq!(send(len), None);
        assert!(bench.broken().contains("descriptor chain 0"));
    }
}

#[test]
fn what_is_beyond_the_end_is_refused() {
    let bench = Bench::new();
    let before = bench.content();
    for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
        let to_driver = kind == VIRTIO_BLK_T_IN;
        for (sector, len) in [
            (SECTORS, 512),
            (SECTORS - 1, 1024),
            (u64::MAX, 512),
            (1 << 55, 512),
            ((1 << 55) - 1, 512),
            (0, 511),
            (0, 513),
        ] {
            let status = bench.request(kind, sector, len, to_driver);
            assert_eq!(status, VIRTIO_BLK_S_IOERR, "{kind} {sector} {len}");
        }
        // No bytes at the end are none beyond it.
        assert_eq!(bench.request(kind, SECTORS, 0, to_driver), VIRTIO_BLK_S_OK);
    }
    assert_eq!(bench.content(), before);
    assert!(bench.witness.told.lock().unwrap().is_empty());
}

#[test]
fn requests_that_nobody_knows_are_unsupported() {
    let bench = Bench::new();
    for kind in [
        VIRTIO_BLK_T_SCSI_CMD,
        3,
        VIRTIO_BLK_T_SECURE_ERASE,
        u32::MAX,
    ] {
        assert_eq!(bench.request(kind, 0, 512, true), VIRTIO_BLK_S_UNSUPP);
    }
    bench.header(VIRTIO_BLK_T_IN, 0);
    // A header that is too short.
    for len in [0, 15] {
        assert!(
            bench
                .send(&[(HEADER, len, false), (STATUS, 1, true)])
                .is_some()
        );
        assert_eq!(bench.status(), VIRTIO_BLK_S_IOERR);
    }
}

#[test]
fn readonly_disks_are_not_written() {
    let mut bench = Bench::new();
    bench.config.readonly = true;
    let before = bench.content();
    let blk = Blk::open(&bench.config).unwrap();
    assert_ne!(blk.features() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(blk.features() & 1 << VIRTIO_BLK_F_DISCARD, 0);
    drop(blk);
    assert_eq!(
        bench.request(VIRTIO_BLK_T_OUT, 0, 512, false),
        VIRTIO_BLK_S_IOERR
    );
    bench.range(0, 8, 0);
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(bench.request(kind, 0, 16, false), VIRTIO_BLK_S_IOERR);
    }
    assert_eq!(
        bench.request(VIRTIO_BLK_T_FLUSH, 0, 0, false),
        VIRTIO_BLK_S_OK
    );
    assert_eq!(bench.content(), before);
}

#[test]
fn the_serial_number_is_told() {
    let mut bench = Bench::new();
    bench.config = format!("{},serial=vda-7", bench.config).parse().unwrap();
    assert_eq!(
        bench.request(VIRTIO_BLK_T_GET_ID, 0, 20, true),
        VIRTIO_BLK_S_OK
    );
    let mut id = [0xff; 20];
    bench
        .memory
        .read_slice(&mut id, GuestAddress(DATA))
        .unwrap();
    assert_eq!(&id, b"vda-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    // As much as there is room for.
    assert_eq!(
        bench.request(VIRTIO_BLK_T_GET_ID, 0, 3, true),
        VIRTIO_BLK_S_OK
    );
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let bench = Bench::new();
    let unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    let (discard, zero) = (VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES);
    for (kind, sector, sectors, flags, status) in [
        (zero, 0, 8, 0, VIRTIO_BLK_S_OK),
        (zero, 8, 8, unmap, VIRTIO_BLK_S_OK),
        (zero, 16, 0, 0, VIRTIO_BLK_S_OK),
        (zero, 16, 8, 2, VIRTIO_BLK_S_UNSUPP),
        (zero, SECTORS - 1, 2, 0, VIRTIO_BLK_S_IOERR),
        (zero, u64::MAX, 8, 0, VIRTIO_BLK_S_IOERR),
        (discard, 16, 8, unmap, VIRTIO_BLK_S_UNSUPP),
        (discard, 16, u32::MAX, 0, VIRTIO_BLK_S_IOERR),
        (discard, SECTORS, 1, 0, VIRTIO_BLK_S_IOERR),
    ] {
        bench.range(sector, sectors, flags);
        let got = bench.request(kind, 0, 16, false);
        assert_eq!(got, status, "{kind} {sector} {sectors} {flags}");
    }
    let content = bench.content();
    assert!(content[..16 * 512].iter().all(|&byte| byte == 0));
    assert_eq!((content[16 * 512], content[63 * 512]), (16, 63));

    if Blk::open(&bench.config).unwrap().features() & 1 << VIRTIO_BLK_F_DISCARD == 0 {
        eprintln!("SKIP: the file system of temporary files cannot punch holes");
        return;
    }
    bench.range(16, 8, 0);
    assert_eq!(bench.request(discard, 0, 16, false), VIRTIO_BLK_S_OK);
    assert_eq!(bench.content()[16 * 512], 0);
    // No whole range, and too many.
    for len in [15, 17 * 16] {
        assert_eq!(bench.request(discard, 0, len, false), VIRTIO_BLK_S_IOERR);
    }
}

#[test]
fn a_broken_chain_stops_the_device() {
    let next = VRING_DESC_F_NEXT as u16;
    let write = VRING_DESC_F_WRITE as u16;
    let cases: [(&str, &[Raw]); 9] = [
        ("runs in a circle", &[(HEADER, 16, next, 0)]),
        (
            "runs in a circle",
            &[(HEADER, 16, next, 1), (STATUS, 1, next | write, 1)],
        ),
        ("does not exist", &[(HEADER, 16, next, 16)]),
        ("does not exist", &[(HEADER, 16, next, 0xffff)]),
        (
            "more than 4 GiB",
            &[(HEADER, 16, next, 1), (STATUS, u32::MAX, write, 0)],
        ),
        ("no device-writable byte", &[(HEADER, 16, 0, 0)]),
        (
            "no device-writable byte",
            &[(HEADER, 16, next, 1), (STATUS, 0, write, 0)],
        ),
        (
            "device-readable buffer after",
            &[(STATUS, 1, next | write, 1), (HEADER, 16, 0, 0)],
        ),
        (
            "0x100000 is not in RAM",
            &[
                (HEADER, 16, next, 1),
                (RAM as u64, 512, next | write, 2),
                (STATUS, 1, write, 0),
            ],
        ),
    ];
    for (said, descriptors) in cases {
        let bench = Bench::new();
        bench.header(VIRTIO_BLK_T_IN, 0);
        let raw: Vec<RawDescriptor> = descriptors
            .iter()
            .map(|&(gpa, len, flags, next)| Descriptor::new(gpa, len, flags, next).into())
            .collect();
        assert_eq!(bench.send_raw(&raw), None, "{said}");
        let reason = bench.broken();
        assert!(reason.contains(said), "{reason}");
        assert!(reason.contains("has stopped"), "{reason}");
    }
}

#[test]
fn buffers_may_reach_to_the_end_of_ram() {
    let bench = Bench::new();
    bench.header(VIRTIO_BLK_T_IN, 3);
    let last = RAM as u64 - 512;
    let parts = [(HEADER, 16, false), (last, 512, true), (STATUS, 1, true)];
    assert_eq!(bench.send(&parts), Some(513));
    for (gpa, len) in [(last + 1, 512), (u64::MAX - 100, 512), (0, u32::MAX - 16)] {
        let parts = [(HEADER, 16, false), (gpa, len, true), (STATUS, 1, true)];
        assert_eq!(bench.send(&parts), None);
        let reason = bench.broken();
        assert!(reason.contains("not in RAM"), "{reason}");
    }
}

#[test]
fn an_available_ring_that_runs_ahead_is_broken() {
    let bench = Bench::new();
    let ring = MockSplitQueue::new(&bench.memory, 16);
    ring.avail().idx().store(17);
    let queue: Queue = ring.create_queue().unwrap();
    let blk = Blk::open(&bench.config).unwrap();
    blk.serve_once(bench.activation(queue).0);
    assert!(bench.broken().contains("invalid available ring index"));

    // A head that is no descriptor.
    let ring = MockSplitQueue::new(&bench.memory, 16);
    ring.avail().ring().ref_at(0).unwrap().store(16);
    ring.avail().idx().store(1);
    let queue: Queue = ring.create_queue().unwrap();
    blk.serve_once(bench.activation(queue).0);
    assert!(bench.broken().contains("descriptor chain 16"));
}

#[test]
fn a_disk_that_shrinks_is_an_error_that_is_told_once() {
    let bench = Bench::new();
    let ring = MockSplitQueue::new(&bench.memory, 16);
    bench.header(VIRTIO_BLK_T_IN, SECTORS - 1);
    let flags = [
        VRING_DESC_F_NEXT,
        VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
        VRING_DESC_F_WRITE,
    ];
    let chain = [(HEADER, 16), (DATA, 512), (STATUS, 1)];
    for (number, ((gpa, len), flags)) in chain.into_iter().zip(flags).enumerate() {
        let descriptor = Descriptor::new(gpa, len, flags as u16, number as u16 + 1);
        ring.desc_table()
            .store(number as u16, descriptor.into())
            .unwrap();
    }
    // Head 0, twice.
    ring.avail().idx().store(2);
    let queue: Queue = ring.create_queue().unwrap();
    let blk = Blk::open(&bench.config).unwrap();
    bench.file.as_file().set_len(SECTOR).unwrap();
    blk.serve_once(bench.activation(queue).0);
    assert_eq!(ring.used().idx().load(), 2);
    assert_eq!(bench.status(), VIRTIO_BLK_S_IOERR);
    let told = bench.witness.told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("has become smaller"), "{told:?}");
}

#[test]
fn the_page_cache_can_be_left_out() {
    let mut bench = Bench::new();
    bench.config.direct = true;
    match Blk::open(&bench.config) {
        Err(Error::Direct(_)) => {
            eprintln!("SKIP: the file system of temporary files has no O_DIRECT");
            return;
        }
        opened => drop(opened.unwrap()),
    }
    // What fits the file's blocks, and what does not, one after the other on the same bytes.
    for (sector, len, value) in [(8, 4096, 1), (9, 512, 2), (8, 4096, 3), (10, 1024, 4)] {
        let bytes = vec![value; len as usize];
        bench
            .memory
            .write_slice(&bytes, GuestAddress(DATA))
            .unwrap();
        let status = bench.request(VIRTIO_BLK_T_OUT, sector, len, false);
        assert_eq!(status, VIRTIO_BLK_S_OK, "{sector} {len}");
        bench
            .memory
            .write_slice(&[0; 4096], GuestAddress(DATA))
            .unwrap();
        let status = bench.request(VIRTIO_BLK_T_IN, sector, len, true);
        assert_eq!(status, VIRTIO_BLK_S_OK, "{sector} {len}");
        let mut read = vec![0; len as usize];
        bench
            .memory
            .read_slice(&mut read, GuestAddress(DATA))
            .unwrap();
        assert_eq!(read, bytes);
    }
    let content = bench.content();
    assert_eq!(
        [content[8 * 512], content[9 * 512], content[10 * 512]],
        [3, 3, 4]
    );
}

#[test]
fn configuration_space_ends() {
    let bench = Bench::new();
    let blk = Blk::open(&bench.config).unwrap();
    let mut capacity = [0xff; 8];
    blk.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
    for offset in [1 << 12, u64::MAX, u64::MAX - 7] {
        let mut data = [0xff; 8];
        blk.read_config(offset, &mut data);
        assert_eq!(data, [0; 8]);
    }
}

/// Waits for what another thread does; a test that fails waits for ten seconds.
fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "no {what}");
        std::thread::yield_now();
    }
}

#[test]
fn threads_work_from_activation_to_reset() {
    let mut bench = Bench::new();
    bench.features |= 1 << VIRTIO_RING_F_EVENT_IDX;
    let mut blk = Blk::open(&bench.config).unwrap();
    for round in 0..3 {
        let ring = MockSplitQueue::new(&bench.memory, 16);
        let start = bench.witness.interrupts.load(Ordering::Relaxed);
        ring.avail().idx().store(0);
        ring.used().idx().store(0);
        bench.header(VIRTIO_BLK_T_FLUSH, 0);
        let next = VRING_DESC_F_NEXT as u16;
        let header = Descriptor::new(HEADER, 16, next, 1);
        let status = Descriptor::new(STATUS, 1, VRING_DESC_F_WRITE as u16, 0);
        ring.desc_table().store(0, header.into()).unwrap();
        ring.desc_table().store(1, status.into()).unwrap();
        let mut queue: Queue = ring.create_queue().unwrap();
        queue.set_event_idx(true);
        // Behind flags, index and 16 heads.
        let used_event = GuestAddress(queue.avail_ring() + 2 * (2 + 16));
        let (activation, driver) = bench.activation(queue);
        blk.activate(activation).unwrap();
        for count in 1..=5 {
            ring.avail().idx().store(count);
            // The driver wants to hear of each.
            bench.memory.write_obj(count - 1, used_event).unwrap();
            driver.write(1).unwrap();
            until("interrupt", || {
                bench.witness.interrupts.load(Ordering::Relaxed) >= start + u32::from(count)
            });
            assert_eq!(ring.used().idx().load(), count, "round {round}");
        }
        blk.reset();
        ring.avail().idx().store(6);
        driver.write(1).unwrap();
        assert_eq!(ring.used().idx().load(), 5);
    }
    assert_eq!(bench.witness.interrupts.load(Ordering::Relaxed), 15);
}
