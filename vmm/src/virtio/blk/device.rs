//! A disk, as the transport sees it.
#![deny(unsafe_code)]

use std::fmt;
use std::mem::{offset_of, size_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use postern_confine::Kind;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES, virtio_blk_config,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use super::config::DiskConfig;
use super::image::{Error, Image, SECTOR};
use super::request::{MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZERO_RANGES, MAX_ZERO_SECTORS};
use super::worker::{Common, Worker};
use crate::virtio::device::read_space;
use crate::virtio::kick::Kick;
use crate::virtio::{ActivateError, Activation, ActiveQueue, VirtioDevice};

/// Descriptors of a queue.
const QUEUE_SIZE: u16 = 256;
/// Most data buffers of a request: what remains of a queue beside header and status.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Most bytes of one data buffer.
const MAX_SEGMENT_SIZE: u32 = 4 << 20;

/// Bytes of the configuration space.
const CONFIG_SIZE: usize = size_of::<virtio_blk_config>();

/// A disk.
pub struct Blk {
    image: Arc<Image>,
    serial: [u8; 20],
    queues: u16,
    running: Option<Running>,
}

/// The threads of a disk that its driver has started.
struct Running {
    common: Arc<Common>,
    workers: Vec<(JoinHandle<()>, EventFd)>,
}

impl fmt::Debug for Blk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blk")
            .field("image", &self.image)
            .field("queues", &self.queues)
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}

impl Blk {
    /// Opens and locks the image.
    ///
    /// # Errors
    ///
    /// When there is none, it is unfit, or another VM has it.
    pub fn open(config: &DiskConfig) -> Result<Blk, Error> {
        Ok(Blk {
            image: Arc::new(Image::open(config)?),
            serial: config.serial.as_ref().map_or([0; 20], |one| one.bytes()),
            queues: config.queues.map_or(1, u16::from),
            running: None,
        })
    }

    /// What activation gives to all threads, and the queues.
    fn common(&self, activation: Activation) -> (Arc<Common>, Vec<Option<ActiveQueue>>) {
        let common = Common {
            image: Arc::clone(&self.image),
            serial: self.serial,
            write_through: activation.features & 1 << VIRTIO_BLK_F_FLUSH == 0,
            memory: activation.memory,
            status: activation.status,
            stop: AtomicBool::new(false),
            told: AtomicBool::new(false),
        };
        (Arc::new(common), activation.queues)
    }

    /// Serves on the calling thread what is in the queues, as the device's threads do when they are
    /// notified, without any thread: for who wants to see what one look at the queues does.
    pub fn serve_once(&self, activation: Activation) {
        let (common, queues) = self.common(activation);
        for active in queues.into_iter().flatten() {
            let worker = Worker {
                common: Arc::clone(&common),
                queue: active.queue,
                call: active.call,
            };
            worker.run_once();
        }
    }

    /// The configuration space ("Device configuration layout").
    fn config_space(&self) -> [u8; CONFIG_SIZE] {
        let mut space = [0; CONFIG_SIZE];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        let (logical, physical) = self.image.blocks();
        let sectors = self.image.size() / SECTOR;
        let alignment = u64::from(physical) / SECTOR;
        put(
            offset_of!(virtio_blk_config, capacity),
            &sectors.to_le_bytes(),
        );
        for (at, value) in [
            (offset_of!(virtio_blk_config, size_max), MAX_SEGMENT_SIZE),
            (offset_of!(virtio_blk_config, seg_max), MAX_SEGMENTS),
            (offset_of!(virtio_blk_config, blk_size), logical),
            (
                offset_of!(virtio_blk_config, max_discard_sectors),
                MAX_DISCARD_SECTORS,
            ),
            (
                offset_of!(virtio_blk_config, max_discard_seg),
                MAX_DISCARD_RANGES,
            ),
            (
                offset_of!(virtio_blk_config, discard_sector_alignment),
                alignment as u32,
            ),
            (
                offset_of!(virtio_blk_config, max_write_zeroes_sectors),
                MAX_ZERO_SECTORS,
            ),
            (
                offset_of!(virtio_blk_config, max_write_zeroes_seg),
                MAX_ZERO_RANGES,
            ),
        ] {
            put(at, &value.to_le_bytes());
        }
        let exponent = (physical / logical.max(1)).max(1).ilog2() as u8;
        put(
            offset_of!(virtio_blk_config, physical_block_exp),
            &[exponent],
        );
        // In logical blocks.
        let minimum = (physical / logical.max(1)).max(1) as u16;
        put(
            offset_of!(virtio_blk_config, min_io_size),
            &minimum.to_le_bytes(),
        );
        put(
            offset_of!(virtio_blk_config, num_queues),
            &self.queues.to_le_bytes(),
        );
        let unmaps = u8::from(self.image.discards());
        put(
            offset_of!(virtio_blk_config, write_zeroes_may_unmap),
            &[unmaps],
        );
        space
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u16 {
        VIRTIO_ID_BLOCK as u16
    }

    fn features(&self) -> u64 {
        let mut features = vec![
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
        ];
        if self.queues > 1 {
            features.push(VIRTIO_BLK_F_MQ);
        }
        if self.image.readonly() {
            features.push(VIRTIO_BLK_F_RO);
        } else {
            features.push(VIRTIO_BLK_F_WRITE_ZEROES);
        }
        if self.image.discards() {
            features.push(VIRTIO_BLK_F_DISCARD);
        }
        features.into_iter().fold(0, |all, bit| all | 1 << bit)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config_space(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let started = self.start(activation);
        if started.is_err() {
            self.reset();
        }
        started
    }

    fn reset(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.common.stop.store(true, Ordering::Release);
        for (_, waker) in &running.workers {
            // It does not block: nobody has written so often that the counter is full.
            let _ = waker.write(1);
        }
        for (thread, _) in running.workers {
            // One that panicked has ended.
            let _ = thread.join();
        }
    }
}

impl Blk {
    /// Starts a thread for each queue. What fails leaves to `reset` those that have been started.
    fn start(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let failed = |what: &str| {
            let what = format!("{what} of the disk {}", self.image.path().display());
            move |source| ActivateError { what, source }
        };
        let (common, queues) = self.common(activation);
        let running = self.running.insert(Running {
            common: Arc::clone(&common),
            workers: Vec::new(),
        });
        for (number, active) in queues.into_iter().enumerate() {
            let Some(active) = active else { continue };
            let kick = Kick::new(active.kick).map_err(failed("use a queue's event"))?;
            let waker = kick.waker().map_err(failed("duplicate a queue's event"))?;
            let worker = Worker {
                common: Arc::clone(&common),
                queue: active.queue,
                call: active.call,
            };
            let name = format!("disk-queue{number}");
            let thread = postern_confine::spawn(Kind::Disk, name, move || worker.run(&kick))
                .map_err(failed("start a thread"))?;
            running.workers.push((thread, waker));
        }
        Ok(())
    }
}

impl Drop for Blk {
    fn drop(&mut self) {
        self.reset();
        // The guest cannot ask for it any more. If it fails, there is nobody to tell.
        let _ = self.image.flush();
    }
}
