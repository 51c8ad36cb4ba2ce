//! PCI devices that are NIC ports and whose files are files, and a NIC that is a file.
#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::path::{Path, PathBuf};

use postern_abi::nic_device::{self, CAPABILITY_ID, CONFIG_SIZE, NicDevice};
use postern_abi::platform::CallPath;
use postern_abi::window::{Geometry, PortId};
use postern_nic_client::memory::{Memory, draw_secret};

/// Queues of each port.
pub const QUEUES: u32 = 2;
/// Where the capability lies in the configuration space of these devices.
pub const AT: usize = 0x40;

/// Address of the registers of these devices.
const REGISTERS_AT: u64 = 0xfebf_1800;

/// A folder like `/sys/bus/pci/devices`.
pub struct Devices(tempfile::TempDir);

impl Devices {
    pub fn new() -> Devices {
        Devices(tempfile::tempdir().unwrap())
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Adds a function with this configuration space, and memory.
    pub fn add(&self, address: &str, config: &[u8], memory: &Path) -> PathBuf {
        let folder = self.folder().join(address);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("config"), config).unwrap();
        fs::write(folder.join("enable"), "0\n").unwrap();
        std::os::unix::fs::symlink(memory, folder.join("resource2")).unwrap();
        // The registers begin in the middle of a page.
        fs::write(folder.join("resource0"), [0; 4096]).unwrap();
        let end = REGISTERS_AT + nic_device::REGISTERS_SIZE - 1;
        let resource = format!("{:#018x} {end:#018x} 0x0000000000040200\n", REGISTERS_AT);
        fs::write(folder.join("resource"), resource).unwrap();
        folder
    }

    /// What was written last to a register of a device.
    pub fn register(&self, address: &str, register: u64) -> u32 {
        let page = fs::read(self.folder().join(address).join("resource0")).unwrap();
        let at = (REGISTERS_AT % 4096 + register) as usize;
        u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
    }

    /// Adds a NIC port on the path `direct`.
    pub fn add_port(&self, address: &str, port: u32, memory: &Path) -> PathBuf {
        self.add(
            address,
            &config(&description(CallPath::Direct, port, memory)),
            memory,
        )
    }
}

pub fn description(path: CallPath, port: u32, memory: &Path) -> NicDevice {
    NicDevice {
        path,
        port: PortId::new(port).unwrap(),
        size: fs::metadata(memory).unwrap().len(),
        vectors: QUEUES as u16,
    }
}

pub fn config(description: &NicDevice) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    config[..2].copy_from_slice(&nic_device::VENDOR_ID.to_le_bytes());
    config[2..4].copy_from_slice(&nic_device::DEVICE_ID.to_le_bytes());
    config[6] = 0x10;
    config[0x34] = AT as u8;
    config[AT] = CAPABILITY_ID;
    let capability = description.capability();
    config[AT + 2..AT + 2 + capability.len()].copy_from_slice(&capability);
    config
}

/// A file that is the memory of a NIC of two ports, each with a tenant.
pub fn nic(folder: &Path) -> PathBuf {
    let memory = Memory::create(Geometry::new(2, QUEUES, 64 << 10, 64 << 10).unwrap()).unwrap();
    for port in memory.geometry().all_ports() {
        let mac = [2, 0, 0, 0, 0, port.number() as u8];
        memory.switch().admit(port, 1, draw_secret().unwrap(), mac);
    }
    // SAFETY: that much is mapped, and nobody writes it now.
    let bytes =
        unsafe { std::slice::from_raw_parts(memory.base().as_ptr(), memory.size() as usize) };
    let path = folder.join("memory");
    fs::write(&path, bytes).unwrap();
    path
}
