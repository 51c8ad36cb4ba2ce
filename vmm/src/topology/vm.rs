//! A VM of a topology.
#![deny(unsafe_code)]

use std::path::PathBuf;

use postern_abi::platform::CallPath;
use serde::{Serialize, Serializer};

use crate::console::Destination;
use crate::cpuid::CpuModel;
use crate::event_counters::CounterSource;
use crate::size::Bytes;
use crate::virtio::blk::DiskConfig;
use crate::virtio::net::NetConfig;
use crate::virtio::vsock::VsockConfig;
use crate::vm::OnReboot;

/// Memory of a VM where the file does not say.
pub const DEFAULT_MEMORY: Bytes = Bytes(64 << 20);

/// A VM.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VmConfig {
    /// Its name, unlike that of any other.
    pub name: String,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initrd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Its command line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cmdline: String,
    /// Its memory.
    pub memory: Bytes,
    /// Number of its vCPUs.
    pub vcpus: usize,
    /// Features of its processor; without it what the path of its port allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuModel>,
    /// Its port of a NIC.
    #[serde(flatten)]
    pub port: Option<PortConfig>,
    /// Whether its port's PCI device has no doorbell and no interrupt vectors.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub nic_plain: bool,
    /// What becomes of it when its guest resets it.
    #[serde(skip_serializing_if = "is_default")]
    pub on_reboot: OnReboot,
    /// Whether the abort of a call in a view ends it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exit_on_abort: bool,
    /// Where its serial console goes; printed with its name where the file does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<Destination>,
    /// Where the bytes of its outbox go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbox: Option<PathBuf>,
    /// Where its statistics go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<PathBuf>,
    /// Which counters are read at its snapshots.
    pub counters: CounterSource,
    /// Whether it has an entropy device.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rng: bool,
    /// Whether its threads are confined.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub seccomp: bool,
    /// Its sockets to the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// Its disks, in the order in which its kernel finds them.
    #[serde(rename = "disk", skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskConfig>,
    /// Its conventional network devices.
    #[serde(rename = "net", skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetConfig>,
}

impl VmConfig {
    /// A VM of that name with that kernel: one vCPU, [`DEFAULT_MEMORY`], no port, no files, no
    /// devices; confined.
    pub fn new(name: impl Into<String>, kernel: impl Into<PathBuf>) -> VmConfig {
        VmConfig {
            name: name.into(),
            kernel: kernel.into(),
            initrd: None,
            cmdline: String::new(),
            memory: DEFAULT_MEMORY,
            vcpus: 1,
            cpu: None,
            port: None,
            nic_plain: false,
            on_reboot: OnReboot::default(),
            exit_on_abort: false,
            serial: None,
            outbox: None,
            stats: None,
            counters: CounterSource::None,
            rng: false,
            seccomp: true,
            vsock: None,
            disks: Vec::new(),
            nets: Vec::new(),
        }
    }
}

/// A VM's port of a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortConfig {
    /// Name of the NIC, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<String>,
    /// Number of the port.
    #[serde(rename = "port")]
    pub number: u32,
    /// How requests reach the NIC.
    #[serde(serialize_with = "write_path")]
    pub path: CallPath,
}

impl PortConfig {
    /// A port of the only NIC.
    pub fn new(number: u32, path: CallPath) -> PortConfig {
        PortConfig {
            nic: None,
            number,
            path,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn write_path<S: Serializer>(path: &CallPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(path.name())
}
