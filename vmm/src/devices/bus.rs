//! The buses of a vCPU, for port I/O and memory-mapped I/O, and what a device is to them.
#![deny(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// What a write to a device means for the VM.
#[derive(Debug)]
pub enum Effect {
    /// The guest goes on.
    Continue,
    /// The guest ends the VM with this status.
    Exit(u8),
    /// The guest switches the VM off.
    PowerOff,
    /// The guest resets the VM.
    Reset,
    /// The guest's kernel has panicked.
    Panic,
    /// A file of the device's cannot be used; the VM cannot go on.
    Fail(DeviceError),
}

/// A device that lost its file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct DeviceError {
    /// The operation that failed.
    pub what: &'static str,
    /// The system's error.
    pub source: io::Error,
}

/// A device that is reached by IN and OUT.
pub trait PioDevice {
    /// Fills `data` (1, 2 or 4 bytes) with what a read at `offset` from the first port gives. It
    /// holds all ones before.
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        let _ = (offset, data);
    }

    /// Takes a write of `data` (1, 2 or 4 bytes) at `offset` from the first port.
    fn write(&mut self, offset: u16, data: &[u8]) -> Effect;
}

/// A device that is reached by memory accesses, at addresses that it knows itself.
pub trait MmioDevice {
    /// Fills `data` (1 to 8 bytes) with what a read at that guest-physical address gives, if the
    /// address is the device's.
    fn read(&mut self, address: u64, data: &mut [u8]) -> bool;

    /// Takes a write of `data` (1 to 8 bytes), if the address is the device's.
    fn write(&mut self, address: u64, data: &[u8]) -> Option<Effect>;
}

/// A device on the buses of several vCPUs.
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<T> Shared<T> {
    /// A device that can be put on several buses.
    pub fn new(device: T) -> Shared<T> {
        Shared(Arc::new(Mutex::new(device)))
    }

    /// Does something with the device while no vCPU uses it.
    pub fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        // A device holds no invariant that a panic elsewhere could have broken half-way.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Shared<T> {
    /// Does something with the device, unless somebody uses it now.
    pub fn try_with<R>(&self, act: impl FnOnce(&mut T) -> R) -> Option<R> {
        match self.0.try_lock() {
            Ok(mut device) => Some(act(&mut device)),
            Err(TryLockError::Poisoned(device)) => Some(act(&mut device.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared(Arc::clone(&self.0))
    }
}

impl<T: PioDevice> PioDevice for Shared<T> {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        self.with(|device| device.read(offset, data));
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.with(|device| device.write(offset, data))
    }
}

/// A device and the ports that it answers at.
struct BusEntry {
    first: u16,
    count: u16,
    device: Box<dyn PioDevice>,
}

/// The devices that one vCPU reaches.
#[derive(Default)]
pub struct Bus {
    entries: Vec<BusEntry>,
    mmio: Vec<Box<dyn MmioDevice>>,
    strays: u64,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("devices", &self.entries.len())
            .field("mmio", &self.mmio.len())
            .field("strays", &self.strays)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// A bus without devices.
    pub fn new() -> Bus {
        Bus::default()
    }

    /// Puts a device at `count` ports from `first` on. Devices are looked for in the order in which
    /// they were added: the one in most haste first.
    ///
    /// # Panics
    ///
    /// When another device has one of the ports: the ports of all devices are constants.
    pub fn add(&mut self, first: u16, count: u16, device: Box<dyn PioDevice>) {
        assert!(
            count > 0 && first.checked_add(count - 1).is_some(),
            "a device has at least one port, and its last exists"
        );
        for entry in &self.entries {
            let apart = first >= entry.first + entry.count || entry.first >= first + count;
            assert!(apart, "two devices at port {first:#x}");
        }
        self.entries.push(BusEntry {
            first,
            count,
            device,
        });
    }

    /// Reads without an effect on the VM, or all ones where no device is.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match self.find(port) {
            Some(entry) => {
                let offset = port - entry.first;
                entry.device.read(offset, data);
            }
            None => self.strays += 1,
        }
    }

    /// Writes; what no device takes is ignored.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Effect {
        match self.find(port) {
            Some(entry) => {
                let offset = port - entry.first;
                entry.device.write(offset, data)
            }
            None => {
                self.strays += 1;
                Effect::Continue
            }
        }
    }

    /// Puts a device at the addresses that it knows. The first that takes an access has it.
    pub fn add_mmio(&mut self, device: Box<dyn MmioDevice>) {
        self.mmio.push(device);
    }

    /// Reads memory where no slot is: without an effect on the VM, or all ones where no device is.
    pub fn read_mmio(&mut self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        let _taken = self.mmio.iter_mut().any(|one| one.read(address, data));
    }

    /// Writes to memory where no slot is; what no device takes is ignored.
    pub fn write_mmio(&mut self, address: u64, data: &[u8]) -> Effect {
        let mut devices = self.mmio.iter_mut();
        let taken = devices.find_map(|one| one.write(address, data));
        taken.unwrap_or(Effect::Continue)
    }

    /// How many accesses to ports met no device.
    pub fn strays(&self) -> u64 {
        self.strays
    }

    fn find(&mut self, port: u16) -> Option<&mut BusEntry> {
        self.entries
            .iter_mut()
            .find(|entry| port.wrapping_sub(entry.first) < entry.count)
    }
}

/// The 32 bits that a write to the first port of a control device carries, if it is such a write.
pub(super) fn word(offset: u16, data: &[u8]) -> Option<u32> {
    match (offset, <[u8; 4]>::try_from(data)) {
        (0, Ok(bytes)) => Some(u32::from_le_bytes(bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);

    impl PioDevice for Echo {
        fn read(&mut self, offset: u16, data: &mut [u8]) {
            data[0] = self.0 + offset as u8;
        }

        fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
            self.0 = data[0] - offset as u8;
            Effect::Continue
        }
    }

    #[test]
    fn accesses_reach_the_device_at_the_port() {
        let mut bus = Bus::new();
        bus.add(0x10, 4, Box::new(Echo(1)));
        bus.add(0x14, 1, Box::new(Echo(50)));
        let mut data = [0];
        bus.read(0x13, &mut data);
        assert_eq!(data, [4]);
        bus.read(0x14, &mut data);
        assert_eq!(data, [50]);
        assert!(matches!(bus.write(0x11, &[9]), Effect::Continue));
        bus.read(0x10, &mut data);
        assert_eq!(data, [8]);
        assert_eq!(bus.strays(), 0);
    }

    #[test]
    fn nobody_home_reads_as_ones() {
        let mut bus = Bus::new();
        bus.add(0x10, 1, Box::new(Echo(1)));
        for port in [0, 0xf, 0x11, 0xffff] {
            let mut data = [0; 4];
            bus.read(port, &mut data);
            assert_eq!(data, [0xff; 4]);
            assert!(matches!(bus.write(port, &data), Effect::Continue));
        }
        assert_eq!(bus.strays(), 8);
    }

    #[test]
    #[should_panic(expected = "two devices")]
    fn two_devices_cannot_share_a_port() {
        let mut bus = Bus::new();
        bus.add(0x10, 4, Box::new(Echo(1)));
        bus.add(0x13, 2, Box::new(Echo(1)));
    }

    #[test]
    fn a_shared_device_is_one_device() {
        let device = Shared::new(Echo(7));
        let (mut one, mut two) = (Bus::new(), Bus::new());
        one.add(0, 1, Box::new(device.clone()));
        two.add(0, 1, Box::new(device.clone()));
        assert!(matches!(one.write(0, &[3]), Effect::Continue));
        let mut data = [0];
        two.read(0, &mut data);
        assert_eq!((data, device.with(|echo| echo.0)), ([3], 3));
    }
}
