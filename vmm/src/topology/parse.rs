//! From a text to a topology: every number and name is checked, and a mistake is told with its
//! line.
#![deny(unsafe_code)]

use std::path::{self, PathBuf};

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use serde::Deserialize;
use toml::Spanned;

use super::error::ContentError;
use super::{DEFAULT_MEMORY, NicConfig, PortConfig, Topology, VmConfig};
use crate::event_counters::CounterSource;
use crate::geometry::{self, DEFAULT_QUEUES, GeometryRequest};
use crate::nic;
use crate::size::Bytes;
use crate::socket_path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTopology {
    nic: Option<Spanned<RawNic>>,
    #[serde(default, rename = "vm")]
    vms: Vec<Spanned<RawVm>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNic {
    ports: u32,
    queues: Option<u32>,
    ring: Option<Spanned<Bytes>>,
    lane: Option<Spanned<Bytes>>,
    image: Option<PathBuf>,
    socket: Option<Spanned<PathBuf>>,
    #[serde(default)]
    no_learning: Vec<Spanned<u32>>,
    stats: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVm {
    name: Spanned<String>,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    #[serde(default)]
    cmdline: String,
    memory: Option<Bytes>,
    vcpus: Option<Spanned<usize>>,
    port: Option<Spanned<u32>>,
    path: Option<Spanned<String>>,
    #[serde(default)]
    exit_on_abort: bool,
    serial: Option<PathBuf>,
    outbox: Option<PathBuf>,
    stats: Option<PathBuf>,
    #[serde(default)]
    counters: CounterSource,
}

fn error_at<T>(value: &Spanned<T>, message: impl Into<String>) -> ContentError {
    ContentError {
        offset: value.span().start,
        message: message.into(),
    }
}

pub(super) fn parse(text: &str, directory: &path::Path) -> Result<Topology, ContentError> {
    let raw: RawTopology = toml::from_str(text).map_err(|error| ContentError {
        offset: error.span().map_or(0, |span| span.start),
        message: error.message().to_owned(),
    })?;
    let nic = raw.nic.map(|nic| check_nic(nic, directory)).transpose()?;
    if raw.vms.is_empty() {
        return Err(ContentError {
            offset: text.len(),
            message: "there is no VM: add a [[vm]]".to_owned(),
        });
    }
    let mut vms: Vec<VmConfig> = Vec::new();
    for raw in raw.vms {
        let vm = check_vm(raw, directory, nic.as_ref(), &vms)?;
        vms.push(vm);
    }
    Ok(Topology { nic, vms })
}

fn check_nic(raw: Spanned<RawNic>, directory: &path::Path) -> Result<NicConfig, ContentError> {
    let start = raw.span().start;
    let raw = raw.into_inner();
    let request = GeometryRequest {
        ports: raw.ports,
        queues: raw.queues.unwrap_or(DEFAULT_QUEUES),
        ring: raw.ring.as_ref().map(|size| *size.get_ref()),
        lane: raw.lane.as_ref().map(|size| *size.get_ref()),
    };
    let geometry = request.geometry().map_err(|error| {
        let value = match error {
            geometry::Error::Ring(_) => raw.ring.as_ref(),
            geometry::Error::Lane(_) => raw.lane.as_ref(),
            geometry::Error::Numbers(_) => None,
        };
        ContentError {
            offset: value.map_or(start, |value| value.span().start),
            message: error.to_string(),
        }
    })?;
    for port in &raw.no_learning {
        check_port(port, geometry)?;
    }
    let socket = match raw.socket {
        None => None,
        Some(name) => {
            let file = directory.join(name.get_ref());
            socket_path::check(&file).map_err(|error| error_at(&name, error.to_string()))?;
            Some(file)
        }
    };
    Ok(NicConfig {
        geometry,
        socket,
        image: raw.image.map(|file| directory.join(file)),
        no_learning: raw
            .no_learning
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        stats: raw.stats.map(|file| directory.join(file)),
    })
}

fn check_port(port: &Spanned<u32>, geometry: Geometry) -> Result<(), ContentError> {
    match geometry.port(*port.get_ref()) {
        Some(_) => Ok(()),
        None => Err(error_at(
            port,
            format!(
                "there is no port {}; the NIC has ports 0 to {}",
                port.get_ref(),
                geometry.ports() - 1
            ),
        )),
    }
}

fn check_vm(
    raw: Spanned<RawVm>,
    directory: &path::Path,
    nic: Option<&NicConfig>,
    others: &[VmConfig],
) -> Result<VmConfig, ContentError> {
    let raw = raw.into_inner();
    let name = raw.name.get_ref();
    let printable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(printable) {
        return Err(error_at(
            &raw.name,
            format!("the name {name:?} is not made of letters, digits, '-', '_' and '.'"),
        ));
    }
    if others.iter().any(|other| other.name == *name) {
        return Err(error_at(&raw.name, format!("two VMs have the name {name}")));
    }
    let port = connection(&raw, nic, others)?;
    let file = |name: Option<PathBuf>| name.map(|name| directory.join(name));
    Ok(VmConfig {
        name: raw.name.into_inner(),
        kernel: directory.join(raw.kernel),
        initrd: file(raw.initrd),
        cmdline: raw.cmdline,
        memory: raw.memory.unwrap_or(DEFAULT_MEMORY),
        vcpus: raw.vcpus.map_or(1, Spanned::into_inner),
        port,
        exit_on_abort: raw.exit_on_abort,
        serial: file(raw.serial),
        outbox: file(raw.outbox),
        stats: file(raw.stats),
        counters: raw.counters,
    })
}

fn connection(
    raw: &RawVm,
    nic: Option<&NicConfig>,
    others: &[VmConfig],
) -> Result<Option<PortConfig>, ContentError> {
    let (port, path) = match (&raw.port, &raw.path) {
        (None, None) => return Ok(None),
        (Some(port), Some(path)) => (port, path),
        (Some(port), None) => return Err(error_at(port, "a port needs a path")),
        (None, Some(path)) => return Err(error_at(path, "a path needs a port")),
    };
    let Some(nic) = nic else {
        return Err(error_at(port, "a port needs a NIC: add a [nic]"));
    };
    check_port(port, nic.geometry)?;
    let number = *port.get_ref();
    let taken = |vm: &&VmConfig| vm.port.is_some_and(|port| port.number == number);
    if let Some(other) = others.iter().find(taken) {
        let message = format!("port {number} is taken by VM {}", other.name);
        return Err(error_at(port, message));
    }
    let found = CallPath::from_name(path.get_ref()).ok_or_else(|| {
        let names = CallPath::ALL.map(CallPath::name).join(", ");
        error_at(path, format!("no such path; there are {names}"))
    })?;
    if found.needs_view() && nic.image.is_none() {
        let message = format!(
            "the path {} needs the NIC's image: [nic] image",
            found.name()
        );
        return Err(error_at(path, message));
    }
    if let Some(vcpus) = &raw.vcpus {
        nic::check_vcpus(*vcpus.get_ref(), nic.geometry, found)
            .map_err(|error| error_at(vcpus, error.to_string()))?;
    }
    Ok(Some(PortConfig {
        number,
        path: found,
    }))
}
