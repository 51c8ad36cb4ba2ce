//! A topology: several VMs and the NICs that they share, described in a TOML file.
//!
//! ```toml
//! name = "lab"             # by which postern ps and others know it; optional: the file's name
//!
//! [nic]                    # a VM with a port needs one; several are [[nic]], each with a name
//! name = "inner"           # optional, if there is one
//! ports = 4
//! queues = 1               # of each port; as many as a VM with a port has vCPUs; optional
//! ring = "256K"            # size of each TX ring; optional
//! lanes = 3                # lanes of each RX queue, for as many senders; optional
//! lane = "256K"            # size of each lane; optional
//! image = "nic-image"      # for elisa, elisa-strict and exit-kernel
//! socket = "nic.socket"    # where postern stat and postern nic find it; optional
//! paths = ["elisa"]        # what it offers; optional: all
//! ageing = 300             # seconds for which silent stations are known; optional
//! no_learning = [0]        # ports from whose frames no stations are learned; optional
//! stats = "nic.json"       # the counters of all ports, at the end; optional
//! seccomp = true           # whether its owner is confined; optional
//!
//! [[nic.port]]             # what is set of a port (postern nic set, mac, uplink, port)
//! number = 2
//! mac = "02:00:00:00:00:02"                                # of the VM that has it; optional
//! stations = ["02:00:00:00:00:05", "02:00:00:00:00:06@12"] # behind it for good, in all VLANs or 12
//! uplink = "tap:tap0"      # or packet:INTERFACE, xdp:INTERFACE
//! busy = false             # whether the uplink looks for frames all the time
//! enabled = true
//! policy = { source = "own", acl = { rules = ["deny in ipv4 tcp dport 25"] }, reserved = ["0e"] }
//!
//! [[nic.capture]]          # what is captured (postern nic capture)
//! file = "trace.pcapng"
//! port = 0                 # optional: all
//! via = 3                  # optional: the last one
//! format = "pcapng"        # or pcap
//! snap = 128               # optional: whole frames
//!
//! [[vm]]
//! name = "sender"
//! kernel = "guest"
//! initrd = "traffic.pcap"  # optional
//! cmdline = "role=send"    # optional
//! memory = "64M"           # optional
//! vcpus = 1                # optional
//! nic = "inner"            # where there are several NICs
//! port = 0                 # optional, together with path
//! path = "elisa"
//! nic_plain = false        # optional: a PCI device without doorbell and MSI-X
//! exit_on_abort = false    # optional
//! serial = "sender.log"    # optional; as postern run --serial takes it; by default each line is
//!                          # printed with the VM's name
//! outbox = "frames.pcap"   # optional
//! stats = "sender.json"    # optional
//! counters = "none"        # optional: none, emulated, perf
//!
//! rng = false              # optional: an entropy device
//! seccomp = true           # optional: whether its threads are confined
//!
//! vsock = { cid = 3 }      # optional: sockets to the host, as postern run --vsock takes it
//!
//! [[vm.disk]]              # as postern run --disk takes it
//! path = "root.img"
//! readonly = true
//!
//! [[vm.net]]               # as postern run --net takes it
//! tap = "tap0"
//! ```
//!
//! Relative file names are relative to the directory of the file.
//!
//! [`Topology::read`] and [`Topology::parse`] read such a text, and [`Topology::to_toml`] writes
//! one that reads as the same topology. All faults are told, each with its line.
#![deny(unsafe_code)]

mod error;
mod nic;
mod parse;
mod parse_nic;
mod parse_vm;
mod reader;
mod vm;

use std::path;

use postern_nic_client::file as named_file;
use serde::{Serialize, Serializer};

pub use error::{ContentError, ContentErrors, Error};
pub use nic::{CaptureConfig, NicConfig, PortSettings, Station, StationError};
pub use reader::{Places, hint, is_name};
pub use vm::{DEFAULT_MEMORY, PortConfig, VmConfig};

/// Several VMs and the NICs that they share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Topology {
    /// Its name, if the file says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The NICs.
    #[serde(
        rename = "nic",
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "write_nics"
    )]
    pub nics: Vec<NicConfig>,
    /// The VMs, one at least, in the order of the file.
    #[serde(rename = "vm")]
    pub vms: Vec<VmConfig>,
}

/// One NIC is `[nic]`, several are `[[nic]]`.
fn write_nics<S: Serializer>(nics: &[NicConfig], serializer: S) -> Result<S::Ok, S::Error> {
    match nics {
        [only] => only.serialize(serializer),
        several => several.serialize(serializer),
    }
}

/// A topology, and the file that it was read from.
#[derive(Clone, Debug)]
pub struct TopologyFile {
    /// What it says.
    pub topology: Topology,
    /// Where each key stands in the text.
    pub places: Places,
    /// The file.
    pub file: path::PathBuf,
    /// Its text.
    pub text: String,
}

impl TopologyFile {
    /// A fault about a key, as people are told.
    pub fn fault(&self, key: &str, message: impl Into<String>) -> String {
        self.places.fault(key, message).told(&self.file, &self.text)
    }
}

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

impl Topology {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or what it says cannot be; the message has the file and the line of
    /// each fault.
    pub fn read(file: &path::Path) -> Result<Topology, Error> {
        Topology::read_file(file).map(|read| read.topology)
    }

    /// Reads a file, and keeps where what stands.
    ///
    /// # Errors
    ///
    /// As [`Topology::read`].
    pub fn read_file(file: &path::Path) -> Result<TopologyFile, Error> {
        let (read, faults) = Topology::read_with_faults(file)?;
        match faults.is_empty() {
            true => Ok(read),
            false => Err(Error::content(file, &read.text, &faults)),
        }
    }

    /// Reads a file as far as it can be, and what is wrong with it, in the order of the text. Where
    /// something is wrong, the topology is good for finding out what else is: a VM's name or kernel
    /// that could not be read is empty.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is no TOML.
    pub fn read_with_faults(file: &path::Path) -> Result<(TopologyFile, Vec<ContentError>), Error> {
        let text = named_file::read_text(file, MAX_FILE).map_err(|source| Error::File {
            file: file.to_owned(),
            source,
        })?;
        let directory = file.parent().unwrap_or(path::Path::new(""));
        let (parsed, places, faults) = parse::parse(&text, directory)
            .map_err(|ContentErrors(faults)| Error::content(file, &text, &faults))?;
        let read = TopologyFile {
            topology: parsed.into(),
            places,
            file: file.to_owned(),
            text,
        };
        Ok((read, faults))
    }

    /// Reads a text. Relative file names in it are relative to `directory`; an empty one leaves
    /// them as they are.
    ///
    /// # Errors
    ///
    /// When what it says cannot be: all faults.
    pub fn parse(text: &str, directory: &path::Path) -> Result<Topology, ContentErrors> {
        let (parsed, _, faults) = parse::parse(text, directory)?;
        match faults.is_empty() {
            true => Ok(parsed.into()),
            false => Err(ContentErrors(faults)),
        }
    }

    /// Writes a text that reads as this topology.
    ///
    /// # Errors
    ///
    /// When a file name is not Unicode, which TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|source| Error::Write(Box::new(source)))
    }

    /// The NIC that a port is of.
    pub fn nic_of(&self, port: &PortConfig) -> Option<(usize, &NicConfig)> {
        let mut nics = self.nics.iter().enumerate();
        nics.find(|(_, nic)| nic.name == port.nic || self.nics.len() == 1)
    }
}

impl From<parse::Parsed> for Topology {
    fn from(parsed: parse::Parsed) -> Topology {
        let parse::Parsed { name, nics, vms } = parsed;
        Topology { name, nics, vms }
    }
}

#[cfg(test)]
mod tests;
