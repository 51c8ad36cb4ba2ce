//! The device's interrupt, by way of UIO (Linux: Documentation/driver-api/uio-howto.rst, "Generic PCI
//! UIO driver").
//!
//! The kernel's handler ([`uio_pci_generic`'s `pci_check_and_mask_intx`]) reads the status register,
//! and would set INTx Disable in the command register, which user space had to clear again. A device
//! whose interrupt is a pulse ([`PULSE`](postern_abi::nic_device::register::PULSE)) takes the read for
//! the acknowledgement, and INTx Disable, which is set here once, means nothing to it. The kernel
//! counts interrupts for each open file of `/dev/uioN` by itself.
//!
//! [`uio_pci_generic`'s `pci_check_and_mask_intx`]: https://docs.kernel.org/driver-api/uio-howto.html
#![deny(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::device::{BUS, Device};
use super::error::Error;

/// The driver that hands a device's interrupt to user space.
const DRIVER: &str = "uio_pci_generic";
/// The program that loads drivers.
const MODPROBE: &str = "/sbin/modprobe";
/// Where devices have their files.
pub const NODES: &str = "/dev";

/// Offset of the command register in configuration space (PCI Local Bus Specification, "Device
/// Control").
const COMMAND: u64 = 4;
/// Bit of the command register: the function raises no INTx interrupt.
const INTX_DISABLE: u16 = 1 << 10;

/// A listener of the device's interrupt, independent of all others, in this process or another.
#[derive(Debug)]
pub struct Interrupt {
    events: File,
    address: String,
}

impl Interrupt {
    /// Binds the device to the driver, if it has none, and listens.
    ///
    /// # Errors
    ///
    /// The device has another driver, or the kernel has none for it; or a refusal of the kernel.
    pub fn open(device: &Device, nodes: &Path) -> Result<Interrupt, Error> {
        bind(device)?;
        let node = nodes.join(name(device)?);
        let events = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&node)
            .map_err(|error| Error::of("listen to the device's interrupt", &node, error))?;
        let path = device.file("config");
        let failed = |error| Error::of("set up the device's interrupt", &path, error);
        let config = File::options().read(true).write(true).open(&path);
        let config = config.map_err(failed)?;
        let mut command = [0; 2];
        let read = config.read_exact_at(&mut command, COMMAND);
        read.map_err(failed)?;
        let command = u16::from_le_bytes(command) | INTX_DISABLE;
        let written = config.write_all_at(&command.to_le_bytes(), COMMAND);
        written.map_err(failed)?;
        Ok(Interrupt {
            events,
            address: device.address().to_owned(),
        })
    }

    /// Whether there was an interrupt since this was asked last.
    ///
    /// # Errors
    ///
    /// The device is gone, or has no interrupt.
    pub fn take(&self) -> Result<bool, Error> {
        let mut count = [0; 4];
        loop {
            match (&self.events).read_exact(&mut count) {
                Ok(()) => return Ok(true),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(false),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(self.failed("wait for the interrupt of", error)),
                },
            }
        }
    }

    fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        let address = self.address.clone();
        match error.raw_os_error() {
            // What UIO says of a device without an interrupt line.
            Some(libc::EIO) => Error::NoInterrupt(address),
            _ => Error::System {
                operation,
                path: address.into(),
                error,
            },
        }
    }
}

impl AsFd for Interrupt {
    /// Readable while there was an interrupt since [`Interrupt::take`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// The name of the driver that a device has.
fn driver(device: &Device) -> Option<String> {
    let link = fs::read_link(device.file("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Gives the device to the driver, unless it has it.
fn bind(device: &Device) -> Result<(), Error> {
    let address = || device.address().to_owned();
    match driver(device) {
        Some(driver) if driver == DRIVER => return Ok(()),
        Some(driver) => {
            return Err(Error::OtherDriver {
                address: address(),
                driver,
            });
        }
        None => {}
    }
    let bus = device.bus();
    let known = bus.join("drivers").join(DRIVER);
    if !known.exists() && bus == Path::new(BUS) {
        load_driver();
    }
    if !known.exists() {
        return Err(Error::NoUio);
    }
    let write = |path: PathBuf, text: &str| {
        let written = fs::write(&path, text);
        written.map_err(|error| Error::of("give the device to uio_pci_generic", path, error))
    };
    write(device.file("driver_override"), DRIVER)?;
    write(bus.join("drivers_probe"), device.address())?;
    match driver(device) {
        Some(driver) if driver == DRIVER => Ok(()),
        _ => Err(Error::NoInterrupt(address())),
    }
}

/// Has the kernel load the driver, if there is the program for that.
fn load_driver() {
    let mut modprobe = Command::new(MODPROBE);
    modprobe.arg(DRIVER).stdin(Stdio::null());
    // Whether there is a driver now is looked at next.
    let _ = modprobe
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// The name of the device's UIO device, `uioN`.
fn name(device: &Device) -> Result<String, Error> {
    let folder = device.file("uio");
    let failed = |error| Error::of("find the UIO device", &folder, error);
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("uio") {
            return Ok(name.into_owned());
        }
    }
    Err(failed(io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use postern_abi::nic_device::{self, CONFIG_SIZE, NicDevice};
    use postern_abi::platform::CallPath;
    use postern_abi::window::PortId;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const ADDRESS: &str = "0000:00:03.0";
    /// Memory and bus mastering are on.
    const COMMAND_BEFORE: u16 = 0x006;

    /// A folder like that of a PCI bus, with a NIC port, and one like `/dev`.
    pub struct Bus {
        folder: tempfile::TempDir,
        pub device: Device,
        /// What the kernel counts interrupts to.
        rung: Option<File>,
    }

    impl Bus {
        /// A bus whose kernel has the driver, and a device that has none.
        pub fn new() -> Bus {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            let device = at("devices").join(ADDRESS);
            fs::create_dir_all(device.join("uio/uio7")).unwrap();
            fs::create_dir_all(at("drivers").join(DRIVER)).unwrap();
            fs::create_dir(at("dev")).unwrap();
            mknodat(
                CWD,
                at("dev/uio7"),
                FileType::Fifo,
                Mode::RUSR | Mode::WUSR,
                0,
            )
            .unwrap();
            let capability = NicDevice {
                path: CallPath::Direct,
                port: PortId::new(1).unwrap(),
                size: 4096,
                vectors: 1,
            };
            let mut config = [0; CONFIG_SIZE];
            config[..2].copy_from_slice(&nic_device::VENDOR_ID.to_le_bytes());
            config[2..4].copy_from_slice(&nic_device::DEVICE_ID.to_le_bytes());
            config[4..6].copy_from_slice(&COMMAND_BEFORE.to_le_bytes());
            config[6] = 0x10;
            config[0x34] = 0x40;
            config[0x40] = nic_device::CAPABILITY_ID;
            let capability = capability.capability();
            config[0x42..0x42 + capability.len()].copy_from_slice(&capability);
            fs::write(device.join("config"), config).unwrap();
            let device = Device::at(&device).unwrap();
            Bus {
                folder,
                device,
                rung: None,
            }
        }

        /// The kernel's driver takes the device.
        pub fn bound(self) -> Bus {
            let driver = self.folder.path().join("drivers").join(DRIVER);
            symlink(driver, self.device.file("driver")).unwrap();
            self
        }

        pub fn open(&mut self) -> Result<Interrupt, Error> {
            let nodes = self.folder.path().join("dev");
            let interrupt = Interrupt::open(&self.device, &nodes)?;
            let node = nodes.join("uio7");
            self.rung = Some(File::options().read(true).write(true).open(node).unwrap());
            Ok(interrupt)
        }

        /// The device interrupts.
        pub fn interrupt(&self) {
            let mut events = self.rung.as_ref().unwrap();
            events.write_all(&1u32.to_ne_bytes()).unwrap();
        }

        /// The command register as it was written last.
        pub fn command(&self) -> u16 {
            let config = fs::read(self.device.file("config")).unwrap();
            u16::from_le_bytes([config[4], config[5]])
        }
    }

    #[test]
    fn the_device_is_given_to_the_driver_for_user_space() {
        let mut bus = Bus::new();
        // This kernel does nothing with what is written.
        assert!(matches!(bus.open(), Err(Error::NoInterrupt(address)) if address == ADDRESS));
        let at = |name: &str| fs::read_to_string(bus.folder.path().join(name)).unwrap();
        assert_eq!(at(&format!("devices/{ADDRESS}/driver_override")), DRIVER);
        assert_eq!(at("drivers_probe"), ADDRESS);
        fs::remove_dir(bus.folder.path().join("drivers").join(DRIVER)).unwrap();
        assert!(matches!(bus.open(), Err(Error::NoUio)));
        let other = bus.folder.path().join("drivers/vfio-pci");
        symlink(other, bus.device.file("driver")).unwrap();
        let error = bus.open().unwrap_err().to_string();
        assert!(error.contains("vfio-pci/unbind"), "{error}");
    }

    #[test]
    fn the_handler_finds_the_interrupt_masked_and_the_rest_as_it_was() {
        let mut bus = Bus::new().bound();
        bus.open().unwrap();
        assert_eq!(bus.command(), COMMAND_BEFORE | INTX_DISABLE);
    }

    #[test]
    fn an_interrupt_is_seen_once() {
        let mut bus = Bus::new().bound();
        let interrupt = bus.open().unwrap();
        assert!(!interrupt.take().unwrap());
        bus.interrupt();
        assert!(interrupt.take().unwrap());
        assert!(!interrupt.take().unwrap());
    }
}
