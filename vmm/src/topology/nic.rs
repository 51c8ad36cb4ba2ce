//! A NIC of a topology, and what is set at its start.
#![deny(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use postern_nic_client::control::{Control, Format};
use postern_nic_client::mac::Mac;
use postern_nic_client::policy::port::PortPolicy;
use serde::{Deserialize, Serialize, Serializer};

use crate::size::Bytes;

/// A NIC.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NicConfig {
    /// Its name, by which VMs find it, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Ports, queues and sizes.
    #[serde(flatten, serialize_with = "write_geometry")]
    pub geometry: Geometry,
    /// The program of its views.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Where it listens; a private name where the file does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The paths that it offers; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "write_paths")]
    pub paths: Vec<CallPath>,
    /// Seconds for which stations are known that send nothing; 0 is for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ageing: Option<u64>,
    /// Ports from whose frames no stations are learned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_learning: Vec<u32>,
    /// Where its counters go at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<PathBuf>,
    /// Whether its owner is confined.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub seccomp: bool,
    /// What is set of ports.
    #[serde(rename = "port", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSettings>,
    /// What is captured.
    #[serde(rename = "capture", skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<CaptureConfig>,
}

/// What is set of a port, whoever has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortSettings {
    /// Number of the port.
    pub number: u32,
    /// The address of its tenant, if not that of the port's number ([`Mac::of_port`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Stations that are behind it for good.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stations: Vec<Station>,
    /// The interface of the host that it is joined to, as `postern nic uplink` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// Whether the uplink looks for frames all the time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub busy: bool,
    /// Whether it is let to those who ask.
    pub enabled: bool,
    /// What it may send and receive, as `postern nic set --policy` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Box<PortPolicy>>,
}

/// An address, perhaps in a VLAN: `02:00:00:00:00:01` or `02:00:00:00:00:01@12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Station {
    /// The address.
    pub mac: Mac,
    /// The VLAN; 0 for none.
    pub vlan: u16,
}

/// A text that is no station.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no station: give six bytes such as 02:00:00:00:00:01, and perhaps @ and a VLAN")]
pub struct StationError(String);

impl FromStr for Station {
    type Err = StationError;

    fn from_str(text: &str) -> Result<Station, StationError> {
        let (mac, vlan) = text.split_once('@').unwrap_or((text, "0"));
        match (mac.parse(), vlan.parse()) {
            (Ok(mac), Ok(vlan @ 0..4095)) => Ok(Station { mac, vlan }),
            _ => Err(StationError(text.to_owned())),
        }
    }
}

postern_nic_client::serde_as_text!(Station);

impl fmt::Display for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vlan {
            0 => self.mac.fmt(f),
            vlan => write!(f, "{}@{vlan}", self.mac),
        }
    }
}

/// A capture, as `postern nic capture add` takes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaptureConfig {
    /// The file, which must not exist.
    pub file: PathBuf,
    /// The port whose frames are captured; all if none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// The port through which the copies come; the last one if none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<u32>,
    /// The file's format.
    pub format: Format,
    /// Bytes kept of each frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snap: Option<u32>,
}

impl NicConfig {
    /// A NIC of that geometry, without an image, that listens at a private name; its owner is
    /// confined.
    pub fn new(geometry: Geometry) -> NicConfig {
        NicConfig {
            name: None,
            geometry,
            image: None,
            socket: None,
            paths: Vec::new(),
            ageing: None,
            no_learning: Vec::new(),
            stats: None,
            seccomp: true,
            ports: Vec::new(),
            captures: Vec::new(),
        }
    }

    /// What a running NIC is asked for, so that it is as described, in order; each with the key that
    /// it comes from, below that of the NIC ([`Places`](super::Places)).
    pub fn controls(&self) -> Vec<(String, Control)> {
        let mut controls = Vec::new();
        for (index, settings) in self.ports.iter().enumerate() {
            let port = settings.number;
            let mut add = |key: &str, control| {
                controls.push((format!("port.{index}.{key}"), control));
            };
            if let Some(mac) = settings.mac {
                let mac = Some(mac);
                add("mac", Control::SetMac { port, mac });
            }
            if let Some(policy) = &settings.policy {
                let policy = policy.clone();
                add("policy", Control::SetPolicy { port, policy });
            }
            for &Station { mac, vlan } in &settings.stations {
                add("stations", Control::AddMac { port, mac, vlan });
            }
            if let Some(interface) = &settings.uplink {
                let (interface, busy) = (interface.clone(), settings.busy);
                add(
                    "uplink",
                    Control::AddUplink {
                        port,
                        interface,
                        busy,
                    },
                );
            }
            if !settings.enabled {
                add("enabled", Control::Disable { port });
            }
        }
        for (index, capture) in self.captures.iter().enumerate() {
            let add = Control::AddCapture {
                port: capture.port,
                via: capture.via,
                file: capture.file.clone(),
                format: capture.format,
                snap: capture.snap,
                busy: false,
            };
            controls.push((format!("capture.{index}.file"), add));
        }
        controls
    }
}

fn write_geometry<S: Serializer>(geometry: &Geometry, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        ports: u32,
        queues: u32,
        ring: Bytes,
        lanes: u32,
        lane: Bytes,
    }
    let fields = Fields {
        ports: geometry.ports(),
        queues: geometry.queues(),
        ring: Bytes(geometry.ring().into()),
        lanes: geometry.lanes(),
        lane: Bytes(geometry.lane().into()),
    };
    fields.serialize(serializer)
}

fn write_paths<S: Serializer>(paths: &[CallPath], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.name()))
}
