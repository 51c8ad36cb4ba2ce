//! A topology: several VMs and perhaps a NIC that they share, described in a TOML file.
//!
//! ```toml
//! [nic]                    # optional; a VM with a port needs it
//! ports = 2
//! queues = 1               # of each port; as many as a VM with a port has vCPUs; optional
//! ring = "256K"            # size of each TX ring; optional
//! lane = "256K"            # size of each lane; optional
//! image = "nic-image"      # for elisa, elisa-strict and exit-kernel
//! socket = "nic.socket"    # where postern stat and postern nic find it; optional
//! no_learning = [0]        # ports from whose frames no stations are learned; optional
//! stats = "nic.json"       # the counters of all ports, at the end; optional
//!
//! [[vm]]
//! name = "sender"
//! kernel = "guest"
//! initrd = "traffic.pcap"  # optional
//! cmdline = "role=send"    # optional
//! memory = "64M"           # optional
//! vcpus = 1                # optional
//! port = 0                 # optional, together with path
//! path = "elisa"
//! exit_on_abort = false    # optional
//! serial = "sender.log"    # optional; by default each line is printed with the VM's name
//! outbox = "frames.pcap"   # optional
//! stats = "sender.json"    # optional
//! counters = "none"        # optional: none, emulated, perf
//! ```
//!
//! Relative file names are relative to the directory of the file.
//!
//! [`Topology::read`] and [`Topology::parse`] read such a text, and [`Topology::to_toml`] writes
//! one that reads as the same topology.
#![deny(unsafe_code)]

mod error;
mod parse;

use std::fs;
use std::path::{self, PathBuf};

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use serde::{Serialize, Serializer};

use crate::event_counters::CounterSource;
use crate::size::Bytes;

pub use error::{ContentError, Error};

/// Memory of a VM where the file does not say.
pub const DEFAULT_MEMORY: Bytes = Bytes(64 << 20);

/// Several VMs and perhaps a NIC.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Topology {
    /// The NIC that the VMs share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<NicConfig>,
    /// The VMs, one at least, in the order of the file.
    #[serde(rename = "vm")]
    pub vms: Vec<VmConfig>,
}

/// A NIC.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NicConfig {
    /// Ports, queues and sizes.
    #[serde(flatten, serialize_with = "write_geometry")]
    pub geometry: Geometry,
    /// The program of its views.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Where it listens; a private name where the file does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Ports from whose frames no stations are learned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_learning: Vec<u32>,
    /// Where its counters go at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<PathBuf>,
}

impl NicConfig {
    /// A NIC of that geometry, without an image, that listens at a private name.
    pub fn new(geometry: Geometry) -> NicConfig {
        NicConfig {
            geometry,
            image: None,
            socket: None,
            no_learning: Vec::new(),
            stats: None,
        }
    }
}

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
    /// Its port of the NIC.
    #[serde(flatten)]
    pub port: Option<PortConfig>,
    /// Whether the abort of a call in a view ends it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exit_on_abort: bool,
    /// Where its serial console goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<PathBuf>,
    /// Where the bytes of its outbox go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbox: Option<PathBuf>,
    /// Where its statistics go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<PathBuf>,
    /// Which counters are read at its snapshots.
    pub counters: CounterSource,
}

impl VmConfig {
    /// A VM of that name with that kernel: one vCPU, [`DEFAULT_MEMORY`], no port, no files.
    pub fn new(name: impl Into<String>, kernel: impl Into<PathBuf>) -> VmConfig {
        VmConfig {
            name: name.into(),
            kernel: kernel.into(),
            initrd: None,
            cmdline: String::new(),
            memory: DEFAULT_MEMORY,
            vcpus: 1,
            port: None,
            exit_on_abort: false,
            serial: None,
            outbox: None,
            stats: None,
            counters: CounterSource::None,
        }
    }
}

/// A VM's port of the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PortConfig {
    /// Number of the port.
    #[serde(rename = "port")]
    pub number: u32,
    /// How requests reach the NIC.
    #[serde(serialize_with = "write_path")]
    pub path: CallPath,
}

fn write_geometry<S: Serializer>(geometry: &Geometry, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        ports: u32,
        queues: u32,
        ring: Bytes,
        lane: Bytes,
    }
    let fields = Fields {
        ports: geometry.ports(),
        queues: geometry.queues(),
        ring: Bytes(geometry.ring().into()),
        lane: Bytes(geometry.lane().into()),
    };
    fields.serialize(serializer)
}

fn write_path<S: Serializer>(path: &CallPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(path.name())
}

impl Topology {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or what it says cannot be; the message has the file and the line.
    pub fn read(file: &path::Path) -> Result<Topology, Error> {
        let text = fs::read_to_string(file).map_err(|source| Error::Read {
            file: file.to_owned(),
            source,
        })?;
        let directory = file.parent().unwrap_or(path::Path::new(""));
        Topology::parse(&text, directory).map_err(|source| Error::Content {
            file: file.to_owned(),
            line: source.line(&text),
            message: source.message,
        })
    }

    /// Reads a text. Relative file names in it are relative to `directory`; an empty one leaves
    /// them as they are.
    ///
    /// # Errors
    ///
    /// When what it says cannot be.
    pub fn parse(text: &str, directory: &path::Path) -> Result<Topology, ContentError> {
        parse::parse(text, directory)
    }

    /// Writes a text that reads as this topology.
    ///
    /// # Errors
    ///
    /// When a file name is not Unicode, which TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|source| Error::Write(Box::new(source)))
    }
}

#[cfg(test)]
mod tests;
