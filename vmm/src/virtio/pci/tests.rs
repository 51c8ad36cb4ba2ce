//! The transport as a driver sees it, on a bus without a VM.

use std::sync::Mutex;

use proptest::prelude::*;

use super::common::status;
use super::signals::NO_VECTOR;
use super::*;
use crate::devices::MmioDevice;
use crate::memory::reserve_ram;
use crate::pci::{Detached, Segment};
use crate::virtio::ActivateError;

const RAM: u64 = 4 << 20;
const SIZES: [u16; 2] = [64, 16];
const FEATURES: u64 = 0x1234 | EVENT_IDX;

#[derive(Default)]
struct Seen {
    activation: Option<Activation>,
    activations: usize,
    resets: usize,
    config: Vec<(u64, Vec<u8>)>,
    refuse: bool,
}

struct Fake(Arc<Mutex<Seen>>);

impl VirtioDevice for Fake {
    fn device_type(&self) -> u16 {
        4
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        SIZES.to_vec()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut seen = self.0.lock().unwrap();
        seen.config.push((offset, data.to_vec()));
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut seen = self.0.lock().unwrap();
        if seen.refuse {
            return Err(ActivateError {
                what: "open the lid".to_owned(),
                source: io::Error::other("stuck"),
            });
        }
        seen.activation = Some(activation);
        seen.activations += 1;
        Ok(())
    }

    fn reset(&mut self) {
        let mut seen = self.0.lock().unwrap();
        seen.activation = None;
        seen.resets += 1;
    }
}

struct Driver {
    segment: Arc<Segment>,
    seen: Arc<Mutex<Seen>>,
    told: Arc<Mutex<Vec<String>>>,
    base: u64,
}

impl Driver {
    fn new() -> Driver {
        let segment = Arc::new(Segment::new(Arc::new(Detached::default())).unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let function = VirtioPci::new(
            Box::new(Fake(Arc::clone(&seen))),
            reserve_ram(RAM).unwrap(),
            Box::new(move |text| tell.lock().unwrap().push(text.to_owned())),
        );
        let device = segment.plug(Box::new(function.unwrap())).unwrap();
        let base = segment.bar(device, BAR).unwrap();
        Driver {
            segment,
            seen,
            told,
            base,
        }
    }

    fn get<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        assert!(self.segment.read(self.base + offset, &mut data));
        data
    }

    fn set(&mut self, offset: u64, data: &[u8]) {
        let effect = self.segment.write(self.base + offset, data);
        assert!(matches!(effect, Some(Effect::Continue)));
    }

    fn set_16(&mut self, offset: u64, value: u16) {
        self.set(offset, &value.to_le_bytes());
    }

    fn status(&mut self) -> u8 {
        self.get::<1>(20)[0]
    }

    fn features(&mut self, features: u64) {
        self.set(20, &[0]);
        self.set(20, &[3]);
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.set(8, &select.to_le_bytes());
            self.set(12, &half.to_le_bytes());
        }
        self.set(20, &[3 | status::FEATURES_OK]);
    }

    fn queue(&mut self, queue: u16, areas: [u64; 3]) {
        self.set_16(22, queue);
        for (index, area) in areas.into_iter().enumerate() {
            let at = 32 + 8 * index as u64;
            self.set(at, &(area as u32).to_le_bytes());
            self.set(at + 4, &((area >> 32) as u32).to_le_bytes());
        }
        self.set_16(28, 1);
    }

    fn start(&mut self) {
        self.set(20, &[3 | status::FEATURES_OK | status::DRIVER_OK]);
    }

    fn activations(&self) -> usize {
        self.seen.lock().unwrap().activations
    }
}

const GOOD: [u64; 3] = [0x10_0000, 0x10_1000, 0x10_2000];
const WANTED: u64 = VERSION_1 | EVENT_IDX | 4;

#[test]
fn a_driver_starts_the_device_and_resets_it() {
    let mut driver = Driver::new();
    assert_eq!(driver.get(18), 2u16.to_le_bytes());
    driver.set(0, &[1, 0, 0, 0]);
    assert_eq!(driver.get(4), [1, 0, 0, 0], "VIRTIO_F_VERSION_1");
    driver.set(0, &[2, 0, 0, 0]);
    assert_eq!(driver.get(4), [0; 4]);
    driver.features(WANTED);
    assert_eq!(driver.status(), 11);
    driver.set_16(22, 1);
    assert_eq!(driver.get(24), 16u16.to_le_bytes());
    driver.set_16(24, 8);
    assert_eq!(driver.get(30), 1u16.to_le_bytes(), "queue_notify_off");
    driver.queue(1, GOOD);
    driver.start();
    assert_eq!((driver.status(), driver.activations()), (15, 1));
    {
        let seen = driver.seen.lock().unwrap();
        let activation = seen.activation.as_ref().unwrap();
        assert_eq!(activation.features, WANTED);
        assert!(activation.queues[0].is_none());
        let queue = &activation.queues[1].as_ref().unwrap().queue;
        assert_eq!(queue.size(), 8);
        assert!(queue.event_idx_enabled());
        let areas = [queue.desc_table(), queue.avail_ring(), queue.used_ring()];
        assert_eq!(areas, GOOD);
    }
    driver.set(NOTIFY + 4, &[1, 0]);
    {
        let seen = driver.seen.lock().unwrap();
        let activation = seen.activation.as_ref().unwrap();
        assert_eq!(
            activation.queues[1].as_ref().unwrap().kick.read().unwrap(),
            1
        );
    }
    driver.start();
    assert_eq!(driver.activations(), 1, "DRIVER_OK is set once");
    driver.queue(0, GOOD);
    driver.set_16(22, 0);
    assert_eq!(driver.get(28), [0; 2], "too late");
    driver.set(20, &[0]);
    assert_eq!((driver.status(), driver.get(24)), (0, 64u16.to_le_bytes()));
    assert_eq!(driver.seen.lock().unwrap().resets, 1);
    driver.set(20, &[0]);
    assert_eq!(driver.seen.lock().unwrap().resets, 1, "it was not at work");
}

#[test]
fn features_that_are_not_offered_are_refused() {
    for features in [0, EVENT_IDX, VERSION_1 | 1 << 33, VERSION_1 | 2, u64::MAX] {
        let mut driver = Driver::new();
        driver.features(features);
        assert_eq!(driver.status(), 3, "{features:#x}");
        driver.queue(0, GOOD);
        driver.start();
        assert_eq!((driver.status(), driver.activations()), (3, 0));
    }
    let mut driver = Driver::new();
    driver.features(WANTED);
    driver.set(12, &[0xff; 4]);
    assert_eq!(driver.get::<4>(12), [1, 0, 0, 0], "negotiated");
}

#[test]
fn queues_outside_of_ram_need_a_reset() {
    let [desc, driver_area, device_area] = GOOD;
    for areas in [
        [desc + 8, driver_area, device_area],
        [desc, driver_area + 1, device_area],
        [desc, driver_area, device_area + 2],
        [RAM - 16, driver_area, device_area],
        [desc, RAM, device_area],
        [desc, driver_area, !3],
        [postern_abi::platform::NIC_GPA, driver_area, device_area],
    ] {
        let mut driver = Driver::new();
        driver.features(WANTED);
        driver.queue(0, areas);
        driver.start();
        assert_eq!(
            driver.status(),
            15 | status::DEVICE_NEEDS_RESET,
            "{areas:x?}"
        );
        assert_eq!(driver.activations(), 0);
        assert_eq!(driver.get(ISR), [2], "a configuration change");
        let told = driver.told.lock().unwrap().clone();
        assert_eq!(told.len(), 1);
        assert!(
            told[0].contains("virtio-rng: the driver has put queue 0"),
            "{told:?}"
        );
        driver.set(20, &[0]);
        assert_eq!(driver.status(), 0);
    }
}

#[test]
fn people_are_told_a_limited_number_of_times() {
    let mut driver = Driver::new();
    driver.seen.lock().unwrap().refuse = true;
    for _ in 0..50 {
        driver.features(WANTED);
        driver.start();
        assert_ne!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
    }
    let told = driver.told.lock().unwrap().clone();
    assert_eq!(told.len(), 16);
    assert!(told[0].contains("cannot open the lid: stuck"), "{told:?}");
}

#[test]
fn interrupts_go_by_vector_or_by_pin() {
    let mut driver = Driver::new();
    driver.features(WANTED);
    driver.set_16(22, 0);
    for (vector, kept) in [(2, 2), (3, NO_VECTOR), (NO_VECTOR, NO_VECTOR), (1, 1)] {
        driver.set_16(26, vector);
        driver.set_16(16, vector);
        assert_eq!(driver.get(26), kept.to_le_bytes());
        assert_eq!(driver.get(16), kept.to_le_bytes());
    }
    driver.queue(0, GOOD);
    driver.start();
    let (call, config) = {
        let seen = driver.seen.lock().unwrap();
        let activation = seen.activation.as_ref().unwrap();
        let queue = activation.queues[0].as_ref().unwrap();
        (
            Arc::clone(&queue.call),
            Arc::clone(&activation.config_changed),
        )
    };
    assert!(call.event().is_none(), "INTx has none");
    call.notify().unwrap();
    config.notify().unwrap();
    let interrupt = |driver: &Driver| {
        let mut status = [0; 2];
        driver.segment.read_config(8, 6, &mut status);
        status[0] & 8 != 0
    };
    assert!(interrupt(&driver));
    assert_eq!([driver.get::<1>(ISR), driver.get::<1>(ISR)], [[3], [0]]);
    assert!(!interrupt(&driver));
    assert_eq!(driver.get(21), [1], "config_generation");
    // MSI-X on.
    driver.segment.write_config(8, 0x42, &[0, 0x80]);
    assert!(call.event().is_some());
    call.notify().unwrap();
    assert_eq!(driver.get::<1>(ISR), [0]);
    assert!(!interrupt(&driver));
}

#[test]
fn a_driver_without_access_to_bars_reaches_them() {
    let driver = Driver::new();
    let config = |offset: usize| {
        let mut data = [0; 4];
        driver.segment.read_config(8, offset, &mut data);
        data
    };
    // The last capability is the one for this.
    let mut at = usize::from(config(0x34)[0]);
    let mut kinds = Vec::new();
    while config(at)[3] != 5 {
        kinds.push((config(at)[0], config(at)[3]));
        at = usize::from(config(at)[1]);
    }
    assert_eq!(kinds.len(), 5);
    assert_eq!(kinds[1..], [(9, 1), (9, 2), (9, 3), (9, 4)]);
    let set = |offset: usize, data: &[u8]| {
        driver.segment.write_config(8, at + offset, data);
    };
    set(8, &18u32.to_le_bytes());
    set(12, &2u32.to_le_bytes());
    assert_eq!(config(at + 16), [2, 0, 0, 0], "num_queues");
    set(8, &20u32.to_le_bytes());
    set(12, &1u32.to_le_bytes());
    set(16, &[1, 0, 0, 0]);
    assert_eq!(config(at + 16), [1, 0, 0, 0], "the status");
    for (bar, offset, length) in [(1, 0, 4), (0, 2, 4), (0, 0x4000, 4), (0, 0, 8), (0, !3, 4)] {
        set(4, &[bar]);
        set(8, &u32::to_le_bytes(offset));
        set(12, &u32::to_le_bytes(length));
        set(16, &[0xee; 4]);
        assert_eq!(config(at + 16), [0xee; 4], "nothing is selected");
    }
}

#[test]
fn the_devices_own_registers_are_its() {
    let mut driver = Driver::new();
    assert_eq!(driver.get(DEVICE + 9), [9, 9]);
    driver.set(DEVICE + 6, &[1, 2]);
    assert_eq!(driver.seen.lock().unwrap().config, [(6, vec![1, 2])]);
    assert_eq!(driver.get(COMMON + 0x38), [0; 8]);
    assert_eq!(driver.get(ISR + 1), [0; 4]);
    assert_eq!(driver.get(NOTIFY), [0; 4]);
}

proptest! {
    #[test]
    fn no_writes_start_a_device_on_bad_queues(
        writes in proptest::collection::vec(
            (prop_oneof![0..0x40u64, 0..BAR_SIZE - 8], any::<u64>(), 0..4u32),
            0..100,
        ),
    ) {
        let mut driver = Driver::new();
        driver.features(WANTED);
        for (offset, value, width) in writes {
            let data = value.to_le_bytes();
            driver.set(offset, &data[..1 << width]);
            driver.get::<8>(offset);
        }
        driver.start();
        let seen = driver.seen.lock().unwrap();
        if let Some(activation) = &seen.activation {
            let memory = &activation.memory;
            let queues = activation.queues.iter().flatten();
            prop_assert!(queues.into_iter().all(|one| one.queue.is_valid(memory)));
            prop_assert_eq!(activation.features & !(FEATURES | VERSION_1), 0);
        }
    }
}
