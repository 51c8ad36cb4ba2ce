//! Disk and entropy device as PCI functions, with their threads, whose guest writes what it likes to
//! registers and RAM. Input: steps.
#![forbid(unsafe_code)]

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

use postern_fuzz_input::Bytes;
use postern_vmm::devices::MmioDevice;
use postern_vmm::pci::{Detached, Segment};
use postern_vmm::virtio::VirtioDevice;
use postern_vmm::virtio::blk::{Blk, DiskConfig};
use postern_vmm::virtio::pci::VirtioPci;
use postern_vmm::virtio::rng::Rng;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

const RAM: usize = 0x1_0000;
/// The most that people are told of a device, however often its driver breaks it.
const MOST_TOLD: u32 = 16;

/// Panics of any thread: one of a device's own would go unseen.
static PANICS: AtomicU32 = AtomicU32::new(0);

/// Runs an input.
pub fn run(data: &[u8]) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(info);
        }));
    });
    let panics = PANICS.load(Ordering::Relaxed);

    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[1; 0x4000], 0).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let told = Arc::new(AtomicU32::new(0));
    let segment = Segment::new(Arc::new(Detached::default())).unwrap();
    let disk: Box<dyn VirtioDevice> = Box::new(Blk::open(&DiskConfig::new(path)).unwrap());
    for device in [disk, Box::new(Rng::new())] {
        let told = Arc::clone(&told);
        let tell = Box::new(move |text: &str| {
            assert!(!text.contains('\n'));
            told.fetch_add(1, Ordering::Relaxed);
        });
        let function = VirtioPci::new(device, memory.clone(), tell).unwrap();
        segment.plug(Box::new(function)).unwrap();
    }
    let mut segment = Arc::new(segment);

    let mut input = Bytes(data);
    while !input.is_empty() {
        let step = input.u8();
        let device = 1 + usize::from(step >> 7);
        let base = segment.bar(device, 0).unwrap();
        let write = |segment: &mut Arc<Segment>, offset: u64, data: &[u8]| {
            segment.write(base + offset, data);
        };
        match step & 7 {
            0 => start(&mut segment, base, input.u8()),
            1 => {
                let offset = u64::from(input.u8() & 0x3f);
                let data = input.u32().to_le_bytes();
                write(
                    &mut segment,
                    offset,
                    &data[..[1, 2, 4][usize::from(step >> 3) % 3]],
                );
            }
            2 => write(&mut segment, 0x3000 + u64::from(input.u8() & 7), &[0, 0]),
            3 => write(&mut segment, 0x2000 + u64::from(input.u8()), &[step]),
            4 => {
                let mut data = [0; 4];
                segment.read(base + u64::from(input.u16() & 0x3fff), &mut data);
            }
            5 => {
                let at = GuestAddress(u64::from(input.u16() & 0x7fff));
                let count = usize::from(input.u8());
                memory.write_slice(input.take(count), at).unwrap();
            }
            6 => {
                // A descriptor, a head and the index: what a driver does.
                let at = 0x1000 + 16 * u64::from(input.u8() & 15);
                let gpa = u64::from(input.u16());
                memory.write_obj(gpa, GuestAddress(at)).unwrap();
                let len = u32::from(input.u16());
                memory.write_obj(len, GuestAddress(at + 8)).unwrap();
                let (flags, next) = (u16::from(input.u8() & 7), u16::from(input.u8()));
                memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
                memory.write_obj(next, GuestAddress(at + 14)).unwrap();
                let index = u16::from(input.u8());
                memory.write_obj(index, GuestAddress(0x2002)).unwrap();
            }
            _ => write(&mut segment, 20, &[0]),
        }
    }
    segment.reset();
    drop(segment);
    assert_eq!(PANICS.load(Ordering::Relaxed), panics, "a thread panicked");
    assert!(told.load(Ordering::Relaxed) <= 2 * MOST_TOLD);
    assert_eq!(file.metadata().unwrap().len(), 0x4000);
}

/// What a driver does to start a device with one queue.
fn start(segment: &mut Arc<Segment>, base: u64, choice: u8) {
    let mut write = |offset: u64, data: &[u8]| {
        segment.write(base + offset, data);
    };
    write(20, &[0]);
    write(20, &[3]);
    // All features of the lower half that are chosen; VIRTIO_F_VERSION_1.
    for (select, features) in [(0, u32::from(choice) << 24 | 0x7e44), (1, 1)] {
        write(8, &u32::to_le_bytes(select));
        write(12, &features.to_le_bytes());
    }
    write(20, &[11]);
    write(22, &[0, 0]);
    write(24, &[16, 0]);
    for (offset, area) in [(32, 0x1000_u32), (40, 0x2000), (48, 0x3000)] {
        write(offset, &area.to_le_bytes());
        write(offset + 4, &[0; 4]);
    }
    write(28, &[1, 0]);
    write(20, &[15]);
}
