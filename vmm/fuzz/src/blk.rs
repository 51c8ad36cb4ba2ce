//! A disk whose driver writes what it likes into its rings and its RAM. Input: a byte of features,
//! then steps.
#![forbid(unsafe_code)]

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use postern_fuzz_input::Bytes;
use postern_vmm::virtio::blk::{Blk, DiskConfig};
use postern_vmm::virtio::{Activation, VirtioDevice};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend};

use super::driver::{self, Rings, Told};

/// Where its rings are; they fit for all sizes.
const RINGS: Rings = Rings {
    descriptors: 0x1000,
    available: 0x2000,
    used: 0x3000,
};
/// Descriptors at most.
const MAX_SIZE: u16 = 64;
/// Sectors of the disk.
const SECTORS: u64 = 32;
/// `VIRTIO_BLK_F_FLUSH`.
const FLUSH: u64 = 1 << 9;

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
    let memory = driver::memory();
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
                let index = input.u16() % MAX_SIZE;
                RINGS.write_descriptor(&memory, index, 16, &mut input);
            }
            1 => RINGS.write_head(&memory, input.u8(), input.u8()),
            2 => RINGS.write_available(&memory, input.u8()),
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
                let sizes = (MAX_SIZE, 1 << (choice >> 1 & 3) << 3);
                let active = RINGS.active(sizes, choice & 8 != 0, next, told.clone());
                blk.serve_once(Activation {
                    memory: memory.clone(),
                    features: u64::from(choice >> 4 & 1) * FLUSH,
                    queues: vec![Some(active)],
                    config_changed: told.clone(),
                    status: told.clone(),
                });
                told.check();
                next = RINGS.available(&memory);
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
