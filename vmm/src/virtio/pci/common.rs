//! The common configuration registers (VIRTIO 1.2, "Common configuration structure layout").
#![deny(unsafe_code)]

use super::signals::Signals;

/// Size of the registers in bytes.
pub const SIZE: usize = 0x38;

/// Offsets of the registers.
mod offset {
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    pub const DEVICE_FEATURE: usize = 4;
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    pub const DRIVER_FEATURE: usize = 12;
    pub const CONFIG_VECTOR: usize = 16;
    pub const NUM_QUEUES: usize = 18;
    pub const STATUS: usize = 20;
    pub const GENERATION: usize = 21;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_VECTOR: usize = 26;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    pub const QUEUE_DESC: usize = 32;
    pub const QUEUE_DRIVER: usize = 40;
    pub const QUEUE_DEVICE: usize = 48;
    pub const END: usize = 56;
}

const _: () = assert!(offset::END == SIZE);

/// Bits of the device status ("Device Status Field").
pub mod status {
    /// The driver knows how to drive the device.
    pub const DRIVER_OK: u8 = 4;
    /// The driver has negotiated features.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// What a driver can set: ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED.
    pub const DRIVERS: u8 = 1 | 2 | DRIVER_OK | FEATURES_OK | 128;
}

/// Feature: the device is not a legacy one. The driver has to accept it.
pub const VERSION_1: u64 = 1 << 32;

/// What the driver has set for one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// The largest size.
    pub max: u16,
    /// Number of descriptors, a power of two, at most `max`.
    pub size: u16,
    /// Whether the driver uses the queue; it cannot be changed then.
    pub enabled: bool,
    /// Guest-physical addresses: descriptor table, available ring (driver area), used ring (device
    /// area). Unchecked.
    pub areas: [u64; 3],
}

/// What the transport has to do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing.
    None,
    /// The driver resets the device.
    Reset,
    /// The driver has set DRIVER_OK for the first time.
    Activate,
}

/// The registers.
#[derive(Debug)]
pub struct CommonConfig {
    offered: u64,
    accepted: u64,
    device_select: u32,
    driver_select: u32,
    queue_select: u16,
    status: u8,
    queues: Vec<QueueConfig>,
}

impl CommonConfig {
    /// The registers of a device that offers these features, its transport's included, and has
    /// queues of at most these sizes.
    pub fn new(offered: u64, sizes: &[u16]) -> CommonConfig {
        let mut config = CommonConfig {
            offered,
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            status: 0,
            queues: sizes
                .iter()
                .map(|&max| QueueConfig {
                    max,
                    size: max,
                    enabled: false,
                    areas: [0; 3],
                })
                .collect(),
        };
        config.reset();
        config
    }

    /// Back to what the device has after a reset.
    pub fn reset(&mut self) {
        self.accepted = 0;
        self.device_select = 0;
        self.driver_select = 0;
        self.queue_select = 0;
        self.status = 0;
        for queue in &mut self.queues {
            queue.size = queue.max;
            queue.enabled = false;
            queue.areas = [0; 3];
        }
    }

    /// The features that the driver has accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// What the driver has set for each queue.
    pub fn queues(&self) -> &[QueueConfig] {
        &self.queues
    }

    fn selected(&mut self) -> Option<&mut QueueConfig> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    /// Fills `data` with the registers from `at` on; zeros behind them.
    pub fn read(&self, at: usize, data: &mut [u8], signals: &Signals) {
        let mut all = [0; SIZE];
        let mut put = |offset: usize, bytes: &[u8]| {
            all[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(
            offset::DEVICE_FEATURE_SELECT,
            &self.device_select.to_le_bytes(),
        );
        put(
            offset::DEVICE_FEATURE,
            &half(self.offered, self.device_select).to_le_bytes(),
        );
        put(
            offset::DRIVER_FEATURE_SELECT,
            &self.driver_select.to_le_bytes(),
        );
        put(
            offset::DRIVER_FEATURE,
            &half(self.accepted, self.driver_select).to_le_bytes(),
        );
        put(
            offset::CONFIG_VECTOR,
            &signals.config_vector().to_le_bytes(),
        );
        put(
            offset::NUM_QUEUES,
            &(self.queues.len() as u16).to_le_bytes(),
        );
        let broken = u8::from(signals.is_broken()) * status::DEVICE_NEEDS_RESET;
        put(offset::STATUS, &[self.status | broken]);
        put(offset::GENERATION, &[signals.generation()]);
        put(offset::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        let index = usize::from(self.queue_select);
        // A queue that is not there has size 0, and zeros in all other registers.
        if let Some(queue) = self.queues.get(index) {
            put(offset::QUEUE_SIZE, &queue.size.to_le_bytes());
            let vector = signals.queue_vector(index);
            put(offset::QUEUE_VECTOR, &vector.to_le_bytes());
            put(
                offset::QUEUE_ENABLE,
                &u16::from(queue.enabled).to_le_bytes(),
            );
            put(offset::QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            let areas = [
                offset::QUEUE_DESC,
                offset::QUEUE_DRIVER,
                offset::QUEUE_DEVICE,
            ];
            for (offset, area) in areas.into_iter().zip(queue.areas) {
                put(offset, &area.to_le_bytes());
            }
        }
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = all.get(at + index).copied().unwrap_or(0);
        }
    }

    /// Takes a write to a register, in the register's width; the areas of queues also in halves.
    /// Others are ignored.
    pub fn write(&mut self, at: usize, data: &[u8], signals: &Signals) -> Request {
        match *data {
            [value] if at == offset::STATUS => return self.write_status(value),
            [low, high] => self.write_16(at, u16::from_le_bytes([low, high]), signals),
            [a, b, c, d] => self.write_32(at, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if at.is_multiple_of(8) => {
                self.write_area(at, u32::from_le_bytes([a, b, c, d]));
                self.write_area(at + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        Request::None
    }

    fn write_16(&mut self, at: usize, value: u16, signals: &Signals) {
        let index = usize::from(self.queue_select);
        match at {
            offset::CONFIG_VECTOR => signals.set_config_vector(value),
            offset::QUEUE_SELECT => self.queue_select = value,
            offset::QUEUE_SIZE => {
                if let Some(queue) = self.selected().filter(|queue| !queue.enabled)
                    && value.is_power_of_two()
                    && value <= queue.max
                {
                    queue.size = value;
                }
            }
            offset::QUEUE_VECTOR => signals.set_queue_vector(index, value),
            offset::QUEUE_ENABLE => {
                let live = self.status & status::DRIVER_OK != 0;
                if let Some(queue) = self.selected().filter(|_| value == 1 && !live) {
                    queue.enabled = true;
                }
            }
            _ => {}
        }
    }

    fn write_32(&mut self, at: usize, value: u32) {
        match at {
            offset::DEVICE_FEATURE_SELECT => self.device_select = value,
            offset::DRIVER_FEATURE_SELECT => self.driver_select = value,
            offset::DRIVER_FEATURE => {
                let negotiated = self.status & status::FEATURES_OK != 0;
                if self.driver_select < 2 && !negotiated {
                    let shift = 32 * self.driver_select;
                    self.accepted &= !(u64::from(u32::MAX) << shift);
                    self.accepted |= u64::from(value) << shift;
                }
            }
            _ => self.write_area(at, value),
        }
    }

    /// Sets the low or high half of an area's address.
    fn write_area(&mut self, at: usize, value: u32) {
        let Some(from) = at.checked_sub(offset::QUEUE_DESC) else {
            return;
        };
        let (area, shift) = (from / 8, 32 * (from / 4 % 2));
        if let Some(queue) = self.selected().filter(|queue| !queue.enabled)
            && let Some(address) = queue.areas.get_mut(area)
            && from.is_multiple_of(4)
        {
            *address &= !(u64::from(u32::MAX) << shift);
            *address |= u64::from(value) << shift;
        }
    }

    /// The driver sets bits of the status, or resets the device by 0; it cannot clear single bits.
    fn write_status(&mut self, value: u8) -> Request {
        if value == 0 {
            return Request::Reset;
        }
        let mut new = value & status::DRIVERS & !self.status;
        let unknown = self.accepted & !self.offered != 0;
        if unknown || self.accepted & VERSION_1 == 0 {
            // The driver sees that its features are refused.
            new &= !status::FEATURES_OK;
        }
        if (self.status | new) & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
        }
        self.status |= new;
        match new & status::DRIVER_OK {
            0 => Request::None,
            _ => Request::Activate,
        }
    }
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
