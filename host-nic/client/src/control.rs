//! What is asked of the owner of a running NIC, and what it answers: JSON, over the socket that
//! VMMs connect to.
//!
//! A [`Control`] goes into a record ([`crate::protocol::Request::Control`]), the answer comes in a
//! file, as counters do. [`crate::request::control`] does both.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::mac::Mac;
use crate::policy::port::PortPolicy;

/// Format of a capture file. Both have nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// pcapng: with names of ports, directions and loss.
    #[default]
    PcapNg,
    /// pcap: without these; the frames of all ports in one list.
    Pcap,
}

/// What is asked of the owner of a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Control {
    /// All ports and who has them; a list of [`PortInfo`].
    Ports,
    /// The MAC table; a list of [`MacInfo`].
    Macs,
    /// The policies of all ports; a list of [`PolicyInfo`].
    Policies,
    /// The uplinks; a list of [`UplinkInfo`].
    Uplinks,
    /// The captures; a list of [`CaptureInfo`].
    Captures,
    /// Gives a port a policy, in place of the one that it has.
    SetPolicy {
        /// The port.
        port: u32,
        /// Its policy.
        policy: Box<PortPolicy>,
    },
    /// Lets a disabled port be let again.
    Enable {
        /// The port.
        port: u32,
    },
    /// Ends the tenancy of a port now, and lets it to nobody.
    Disable {
        /// The port.
        port: u32,
    },
    /// Says behind which port a station is, for good.
    AddMac {
        /// The port.
        port: u32,
        /// The station.
        mac: Mac,
        /// The VLAN that it is in.
        #[serde(default)]
        vlan: u16,
    },
    /// Forgets a station.
    RemoveMac {
        /// The station.
        mac: Mac,
        /// The VLAN that it is in.
        #[serde(default)]
        vlan: u16,
    },
    /// Forgets all stations that were learned.
    FlushMacs {
        /// Behind this port only.
        #[serde(default)]
        port: Option<u32>,
    },
    /// Joins a port to an interface.
    AddUplink {
        /// The port.
        port: u32,
        /// The interface, as text (`postern_nic_owner::uplink::Config`).
        interface: String,
        /// Look for frames all the time.
        #[serde(default)]
        busy: bool,
    },
    /// Parts a port from its interface.
    RemoveUplink {
        /// The port.
        port: u32,
    },
    /// Writes what passes a port, or all ports, to a file.
    AddCapture {
        /// The port, or all.
        port: Option<u32>,
        /// A port that nobody has, through which the copies come; the last one if none is named.
        #[serde(default)]
        via: Option<u32>,
        /// The file, which must not exist.
        file: PathBuf,
        /// Its format.
        #[serde(default)]
        format: Format,
        /// Bytes kept of each frame.
        #[serde(default)]
        snap: Option<u32>,
    },
    /// Ends a capture; its [`CaptureInfo`].
    RemoveCapture {
        /// The file.
        file: PathBuf,
    },
    /// Ends the owner.
    Stop {
        /// The NIC stays, for another owner.
        #[serde(default)]
        keep: bool,
    },
}

/// Who has a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Holder {
    /// Nobody.
    Vacant,
    /// Nobody is to have it.
    Disabled,
    /// A process.
    Attached {
        /// Its number, if it has one here.
        pid: Option<i32>,
        /// How its requests reach the NIC.
        path: String,
    },
    /// A process has given it up, and still has its memory.
    Leaving {
        /// Its number.
        pid: i32,
    },
    /// An interface of this host.
    Uplink {
        /// Which.
        interface: String,
    },
    /// A capture.
    Capture {
        /// Into which file.
        file: PathBuf,
    },
}

/// A port and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// Its number.
    pub port: u32,
    /// Who has it.
    #[serde(flatten)]
    pub holder: Holder,
    /// The address that its tenant was given.
    pub mac: Mac,
    /// Which tenancy it is; 0 without one.
    pub tenancy: u32,
    /// What was agreed on with the guest, by name.
    pub features: Vec<String>,
    /// Whether stations are learned from its frames.
    pub learning: bool,
    /// Whether it has a policy.
    pub policy: bool,
}

/// A station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacInfo {
    /// Its address.
    pub mac: Mac,
    /// The VLAN that it is in.
    pub vlan: u32,
    /// The port that it is behind.
    pub port: u32,
    /// It is there for good.
    #[serde(rename = "static")]
    pub pinned: bool,
}

/// A port's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// The port.
    pub port: u32,
    /// Its policy.
    pub policy: PortPolicy,
    /// How many frames each rule of its access list decided on.
    pub acl_hits: Vec<u64>,
}

/// An uplink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UplinkInfo {
    /// The port.
    pub port: u32,
    /// The interface.
    pub interface: String,
    /// Why no frames pass any more, if so.
    pub failure: Option<String>,
    /// What passed, as `postern_nic_owner::uplink::Snapshot`.
    pub counters: serde_json::Value,
}

/// A capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureInfo {
    /// The file.
    pub file: PathBuf,
    /// The port that is captured, or all.
    pub port: Option<u32>,
    /// The port through which the copies come.
    pub via: u32,
    /// Frames written.
    pub written: u64,
    /// Frames that were lost on the way.
    pub lost: u64,
    /// Why it goes on no more, if so.
    pub failure: Option<String>,
}
