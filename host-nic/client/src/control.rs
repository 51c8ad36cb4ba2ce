//! Requests for a change of a running NIC, or for a report of it, and the answers: JSON, over the
//! socket that VM monitors connect to.
//!
//! A [`Control`] goes into a record ([`crate::protocol::Request::Control`]); the answer comes in a
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

/// A request to the owner of a NIC, for a report or for a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Control {
    /// Report of all ports. Answer: a list of [`PortInfo`].
    Ports,
    /// Report of the forwarding database. Answer: a list of [`MacInfo`].
    Macs,
    /// Report of the policies of all ports. Answer: a list of [`PolicyInfo`].
    Policies,
    /// Report of the uplinks. Answer: a list of [`UplinkInfo`].
    Uplinks,
    /// Report of the captures. Answer: a list of [`CaptureInfo`].
    Captures,
    /// Gives a port a policy, in place of the one that it has.
    SetPolicy {
        /// The port.
        port: u32,
        /// The port's new policy.
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
    /// Takes a port from its tenant now. Answer: a [`Revocation`].
    Revoke {
        /// The port.
        port: u32,
        /// Ends the tenant's process, too.
        #[serde(default)]
        kill: bool,
    },
    /// Report of the paths that are offered, and of the template. Answer: a [`PathReport`].
    Paths,
    /// Gives the tenants of a port that come from now on this address; without one, that of the
    /// port's number ([`Mac::of_port`]).
    SetMac {
        /// The port, which must have no tenant.
        port: u32,
        /// The address, which no other port or station has.
        mac: Option<Mac>,
    },
    /// Has stations be learned from the frames of a port's tenant or not, until its tenancy ends.
    Learning {
        /// The port, which must have a tenant.
        port: u32,
        /// Whether they are learned.
        on: bool,
    },
    /// Says behind which port a station is, for good.
    AddMac {
        /// The port.
        port: u32,
        /// The station.
        mac: Mac,
        /// The VLAN that it is in; 0 is every VLAN of the port.
        #[serde(default)]
        vlan: u16,
    },
    /// Forgets a station.
    RemoveMac {
        /// The station.
        mac: Mac,
        /// The VLAN that it is in; 0 is that of a station told for every VLAN.
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
        /// The interface, as text (`postern_nic_owner::uplink::UplinkConfig`).
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
        /// The file's format.
        #[serde(default)]
        format: Format,
        /// Bytes kept of each frame.
        #[serde(default)]
        snap: Option<u32>,
        /// Look for frames all the time, so that they are stamped at once.
        #[serde(default)]
        busy: bool,
    },
    /// Ends a capture. Answer: its [`CaptureInfo`].
    RemoveCapture {
        /// The file.
        file: PathBuf,
    },
    /// Ends the owner.
    Stop {
        /// The NIC stays, for another owner.
        #[serde(default)]
        keep: bool,
        /// The NIC ends also if it has no owner and is kept; its keeper does it then.
        #[serde(default)]
        discard: bool,
    },
}

/// The holder of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Holder {
    /// Nobody has the port.
    Vacant,
    /// Nobody is to have the port.
    Disabled,
    /// A process is the port's tenant.
    Attached {
        /// Number of the process, if it has one here.
        pid: Option<i32>,
        /// The way of its requests to the NIC.
        path: String,
    },
    /// A process does not have the port any more, and still has its memory, itself or by what it
    /// has handed on.
    Leaving {
        /// Number of the process, if it has one here.
        pid: Option<i32>,
        /// The process has ended, or is the owner's own: the memory is where it has handed it.
        #[serde(default)]
        left: bool,
    },
    /// The port is joined to an interface of this host.
    Uplink {
        /// The interface.
        interface: String,
    },
    /// A capture has the port.
    Capture {
        /// The file that is written.
        file: PathBuf,
    },
}

/// Report of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// The port's number.
    pub port: u32,
    /// The port's holder.
    #[serde(flatten)]
    pub holder: Holder,
    /// The address that its tenant was given.
    pub mac: Mac,
    /// Number of the tenancy; 0 without one.
    pub tenancy: u32,
    /// The features that were agreed on with the guest, by name.
    pub features: Vec<String>,
    /// Whether stations are learned from its frames.
    pub learning: bool,
    /// Whether it has a policy.
    pub policy: bool,
}

/// Report of a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacInfo {
    /// The station's address.
    pub mac: Mac,
    /// The VLAN that it is in. 0 is none on a NIC without VLANs; on one with VLANs, a station that is
    /// there for good is in every VLAN of the port.
    pub vlan: u32,
    /// The port that it is behind.
    pub port: u32,
    /// Whether the station is there for good.
    #[serde(rename = "static")]
    pub pinned: bool,
}

/// Report of a port's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// The port.
    pub port: u32,
    /// The port's policy.
    pub policy: PortPolicy,
    /// Number of frames that each rule of its access list decided on.
    pub acl_hits: Vec<u64>,
}

/// Report of an uplink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UplinkInfo {
    /// The port.
    pub port: u32,
    /// The interface.
    pub interface: String,
    /// Why no frames pass at present, if none do. The uplink goes on when that is mended.
    pub failure: Option<String>,
    /// What people should know of the interface, if there is anything.
    #[serde(default)]
    pub notice: Option<String>,
    /// Counters of the uplink, as `postern_nic_owner::uplink::UplinkSnapshot`.
    pub counters: serde_json::Value,
}

/// Report of a capture.
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
    /// The failure that ended the capture, if it has ended.
    pub failure: Option<String>,
}

/// Report of a port that was taken from its tenant. Nothing of the tenant reaches the NIC any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Number of the tenant's process, if it has one here.
    pub pid: Option<i32>,
    /// Number of grants that were taken back: 0 on paths without views.
    pub grants: u32,
    /// The port's holder now. It is vacant once nobody has its memory.
    pub holder: Holder,
}

/// Report of the paths of a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// Each path, in the order in which tables list them.
    pub paths: Vec<PathInfo>,
    /// The NIC's template, if it has one.
    pub template: Option<TemplateInfo>,
    /// The file of the image that views are made of, if the owner was started with one.
    pub image: Option<PathBuf>,
}

/// Report of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// The path's name.
    pub path: String,
    /// The reason why it is not offered, if it is not.
    pub missing: Option<String>,
}

/// Report of a NIC's template: what KVM holds of the NIC for all tenants that have views.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateInfo {
    /// The rights that it gives.
    pub rights: Vec<String>,
    /// Bytes of the NIC that are pinned.
    pub pinned_bytes: u64,
    /// Bytes that the kernel has for it: page tables, lists.
    pub kernel_bytes: u64,
    /// Bytes that the kernel has for each attached vCPU.
    pub attachment_bytes: u64,
    /// Bytes of the NIC that views map by pages of 2 MiB.
    pub bytes_in_2m: u64,
    /// Number of grants that are not revoked.
    pub grants: u32,
    /// Number of attached vCPUs.
    pub attachments: u32,
    /// Number of templates of former owners that tenants may still use.
    pub former: usize,
}
