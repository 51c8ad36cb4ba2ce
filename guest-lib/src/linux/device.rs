//! The NIC port's PCI device, as sysfs shows it (Linux: Documentation/PCI/sysfs-pci.rst).
#![deny(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use postern_abi::nic_device::{BAR_WINDOW, CONFIG_SIZE, NicDevice, NicDeviceError};

use super::error::Error;

/// The folder of the PCI bus in sysfs.
pub(super) const BUS: &str = "/sys/bus/pci";
/// The folder in which sysfs has a folder for each PCI device, named by its address.
pub const DEVICES: &str = "/sys/bus/pci/devices";

/// A PCI device that is a NIC port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    folder: PathBuf,
    address: String,
    description: NicDevice,
}

impl Device {
    /// Finds the only device in a folder like [`DEVICES`] that is a NIC port.
    ///
    /// # Errors
    ///
    /// There is none or more than one, or it is of another version, or may not be read.
    pub fn find(devices: &Path) -> Result<Device, Error> {
        let error = |error| Error::of("list PCI devices", devices, error);
        let entries = match fs::read_dir(devices) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoDevice(devices.to_owned()));
            }
            entries => entries.map_err(error)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let folder = entry.map_err(error)?.path();
            match Device::at(&folder) {
                Ok(device) => found.push(Ok((device.address.clone(), device))),
                // A device of another kind, or one that was removed meanwhile.
                Err(Error::NoSuchDevice(_)) => {}
                Err(Error::Device {
                    error: NicDeviceError::OtherDevice | NicDeviceError::OtherIvshmem,
                    ..
                }) => {}
                Err(error) => found.push(Err(error)),
            }
        }
        match found.len() {
            0 => Err(Error::NoDevice(devices.to_owned())),
            1 => found.remove(0).map(|(_, device)| device),
            _ => {
                // One that cannot be used says more than that there are several.
                let found = found.into_iter().collect::<Result<Vec<_>, Error>>()?;
                let mut addresses: Vec<String> =
                    found.into_iter().map(|(address, _)| address).collect();
                addresses.sort();
                Err(Error::SeveralDevices(addresses))
            }
        }
    }

    /// The device that has this folder.
    ///
    /// # Errors
    ///
    /// It does not exist, is no NIC port, is of another version, or may not be read.
    pub fn at(folder: &Path) -> Result<Device, Error> {
        let path = folder.join("config");
        let mut config = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(CONFIG_SIZE as u64).read_to_end(&mut config));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoSuchDevice(folder.to_owned()));
            }
            read => {
                read.map_err(|error| Error::of("read the configuration space", &path, error))?
            }
        };
        let address = folder.file_name().unwrap_or(folder.as_os_str());
        let address = address.to_string_lossy().into_owned();
        match NicDevice::find(&config) {
            Ok(description) => Ok(Device {
                folder: folder.to_owned(),
                address,
                description,
            }),
            Err(error) => Err(Error::Device { address, error }),
        }
    }

    /// Its address: domain, bus, device and function.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it says of the port.
    pub fn description(&self) -> NicDevice {
        self.description
    }

    /// A file of the device.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of the bus: that of the folder with the devices.
    pub(super) fn bus(&self) -> PathBuf {
        // Devices are links: `..` would not lead there.
        let bus = self.folder.parent().and_then(Path::parent);
        bus.unwrap_or(Path::new(BUS)).to_owned()
    }

    /// The file of a BAR.
    pub fn resource(&self, bar: usize) -> PathBuf {
        self.file(&format!("resource{bar}"))
    }

    /// Switches the device on, so that it decodes its memory's addresses. Nothing is done where that
    /// is so: a driver such as `uio_pci_generic` may have the device.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn enable(&self) -> Result<(), Error> {
        let path = self.folder.join("enable");
        let count = fs::read_to_string(&path)
            .map_err(|error| Error::of("read whether the device is on", &path, error))?;
        if count.trim() != "0" {
            return Ok(());
        }
        fs::write(&path, "1").map_err(|error| Error::of("switch the device on", &path, error))
    }

    /// Opens the device's memory, BAR 2.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open_memory(&self) -> Result<File, Error> {
        self.open_resource(BAR_WINDOW)
    }

    /// Opens the file of a BAR.
    pub(super) fn open_resource(&self, bar: usize) -> Result<File, Error> {
        let path = self.resource(bar);
        let opened = File::options().read(true).write(true).open(&path);
        opened.map_err(|error| Error::of("open the device's memory", &path, error))
    }
}
