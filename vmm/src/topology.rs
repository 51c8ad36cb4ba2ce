//! Several VMs and a NIC, described in a TOML file.
//!
//! ```toml
//! [nic]                    # optional; a VM with a port needs it
//! ports = 2
//! queues = 1               # of each port; as many as a VM with a port has vCPUs; optional
//! ring = "256K"            # size of each TX ring; optional
//! lane = "256K"            # size of each lane; optional
//! image = "nic-image"      # for elisa, elisa-strict and exit-kernel
//! no_learning = [0]        # ports from whose frames no stations are learned; optional
//! stats = "nic.json"       # the counters of all ports, at the end; optional
//!
//! [[vm]]
//! name = "sender"
//! kernel = "testguest"
//! initrd = "traffic.pcap"  # optional
//! cmdline = "send"         # optional
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

use std::fs;
use std::io;
use std::path::{self, PathBuf};

use postern_abi::machine::Path;
use postern_abi::window::Geometry;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::counters;
use crate::geometry::{self, DEFAULT_QUEUES, Wish};
use crate::nic;
use crate::size::Bytes;

/// Memory of a VM where the file does not say.
pub const DEFAULT_MEMORY: Bytes = Bytes(64 << 20);

/// Why a file describes no topology.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {message}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Several VMs and perhaps a NIC. Serialised as TOML it is a file that [`Topology::read`] takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(into = "RawTopology")]
pub struct Topology {
    /// The NIC that the VMs share.
    pub nic: Option<Nic>,
    /// The VMs, one at least, in the order of the file.
    pub vms: Vec<Vm>,
}

/// A NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct Nic {
    /// Ports, queues and sizes.
    pub geometry: Geometry,
    /// The program of its views.
    pub image: Option<PathBuf>,
    /// Ports from whose frames no stations are learned.
    pub no_learning: Vec<u32>,
    /// Where its counters go at the end.
    pub stats: Option<PathBuf>,
}

/// A VM.
#[derive(Clone, Debug, PartialEq)]
pub struct Vm {
    /// Its name, unlike that of any other.
    pub name: String,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
    /// Its memory.
    pub memory: Bytes,
    /// Number of its vCPUs.
    pub vcpus: usize,
    /// Its port of the NIC, and how requests reach the NIC.
    pub port: Option<(u32, Path)>,
    /// Whether the abort of a call in a view ends it.
    pub exit_on_abort: bool,
    /// Where its serial console goes.
    pub serial: Option<PathBuf>,
    /// Where the bytes of its outbox go.
    pub outbox: Option<PathBuf>,
    /// Where its statistics go.
    pub stats: Option<PathBuf>,
    /// Which counters are read at its marks.
    pub counters: counters::Kind,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawTopology {
    nic: Option<Spanned<RawNic>>,
    #[serde(default, rename = "vm")]
    vms: Vec<Spanned<RawVm>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawNic {
    ports: u32,
    queues: Option<u32>,
    ring: Option<Spanned<String>>,
    lane: Option<Spanned<String>>,
    image: Option<PathBuf>,
    #[serde(default)]
    no_learning: Vec<Spanned<u32>>,
    stats: Option<PathBuf>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawVm {
    name: Spanned<String>,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    #[serde(default)]
    cmdline: String,
    memory: Option<Spanned<String>>,
    vcpus: Option<Spanned<usize>>,
    port: Option<Spanned<u32>>,
    path: Option<Spanned<String>>,
    #[serde(default)]
    exit_on_abort: bool,
    serial: Option<PathBuf>,
    outbox: Option<PathBuf>,
    stats: Option<PathBuf>,
    counters: Option<Spanned<String>>,
}

/// A value that comes from no file.
fn unspanned<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

impl From<Topology> for RawTopology {
    fn from(topology: Topology) -> RawTopology {
        RawTopology {
            nic: topology.nic.map(|nic| unspanned(nic.into())),
            vms: topology
                .vms
                .into_iter()
                .map(|vm| unspanned(vm.into()))
                .collect(),
        }
    }
}

impl From<Nic> for RawNic {
    fn from(nic: Nic) -> RawNic {
        let geometry = nic.geometry;
        RawNic {
            ports: geometry.ports(),
            queues: Some(geometry.queues()),
            ring: Some(unspanned(geometry.ring().to_string())),
            lane: Some(unspanned(geometry.lane().to_string())),
            image: nic.image,
            no_learning: nic.no_learning.into_iter().map(unspanned).collect(),
            stats: nic.stats,
        }
    }
}

impl From<Vm> for RawVm {
    fn from(vm: Vm) -> RawVm {
        RawVm {
            name: unspanned(vm.name),
            kernel: vm.kernel,
            initrd: vm.initrd,
            cmdline: vm.cmdline,
            memory: Some(unspanned(vm.memory.0.to_string())),
            vcpus: Some(unspanned(vm.vcpus)),
            port: vm.port.map(|(port, _)| unspanned(port)),
            path: vm.port.map(|(_, path)| unspanned(path.name().to_owned())),
            exit_on_abort: vm.exit_on_abort,
            serial: vm.serial,
            outbox: vm.outbox,
            stats: vm.stats,
            counters: Some(unspanned(vm.counters.name().to_owned())),
        }
    }
}

/// A message and the byte of the text that it is about.
type Complaint = (usize, String);

fn about<T>(place: &Spanned<T>, message: impl Into<String>) -> Complaint {
    (place.span().start, message.into())
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
        Topology::parse(&text, directory).map_err(|(offset, message)| Error::Content {
            file: file.to_owned(),
            line: line_of(&text, offset),
            message,
        })
    }

    fn parse(text: &str, directory: &path::Path) -> Result<Topology, Complaint> {
        let raw: RawTopology = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            (start, error.message().to_owned())
        })?;
        let nic = raw.nic.map(|nic| check_nic(nic, directory)).transpose()?;
        if raw.vms.is_empty() {
            return Err((text.len(), "there is no VM: add a [[vm]]".to_owned()));
        }
        let mut vms: Vec<Vm> = Vec::new();
        for raw in raw.vms {
            let vm = check_vm(raw, directory, nic.as_ref(), &vms)?;
            vms.push(vm);
        }
        Ok(Topology { nic, vms })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|&&byte| byte == b'\n').count()
}

fn check_nic(raw: Spanned<RawNic>, directory: &path::Path) -> Result<Nic, Complaint> {
    let start = raw.span().start;
    let raw = raw.into_inner();
    let wish = Wish {
        ports: raw.ports,
        queues: raw.queues.unwrap_or(DEFAULT_QUEUES),
        ring: raw.ring.as_ref().map(size).transpose()?,
        lane: raw.lane.as_ref().map(size).transpose()?,
    };
    let geometry = wish.geometry().map_err(|error| {
        let place = match error {
            geometry::Error::Ring(_) => raw.ring.as_ref(),
            geometry::Error::Lane(_) => raw.lane.as_ref(),
            geometry::Error::Numbers(_) => None,
        };
        let start = place.map_or(start, |place| place.span().start);
        (start, error.to_string())
    })?;
    for port in &raw.no_learning {
        check_port(port, geometry)?;
    }
    Ok(Nic {
        geometry,
        image: raw.image.map(|file| directory.join(file)),
        no_learning: raw
            .no_learning
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        stats: raw.stats.map(|file| directory.join(file)),
    })
}

fn size(text: &Spanned<String>) -> Result<Bytes, Complaint> {
    let parsed = text.get_ref().parse();
    parsed.map_err(|error: crate::size::Error| about(text, error.to_string()))
}

fn check_port(port: &Spanned<u32>, geometry: Geometry) -> Result<(), Complaint> {
    match geometry.port(*port.get_ref()) {
        Some(_) => Ok(()),
        None => Err(about(
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
    nic: Option<&Nic>,
    others: &[Vm],
) -> Result<Vm, Complaint> {
    let raw = raw.into_inner();
    let name = raw.name.get_ref();
    let printable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(printable) {
        return Err(about(
            &raw.name,
            format!("the name {name:?} is not made of letters, digits, '-', '_' and '.'"),
        ));
    }
    if others.iter().any(|other| other.name == *name) {
        return Err(about(&raw.name, format!("two VMs have the name {name}")));
    }
    let memory = match &raw.memory {
        None => DEFAULT_MEMORY,
        Some(text) => size(text)?,
    };
    let port = connection(&raw, nic, others)?;
    let counters = match &raw.counters {
        None => counters::Kind::None,
        Some(text) => counters::Kind::from_name(text.get_ref()).ok_or_else(|| {
            let names = counters::Kind::ALL.map(|(name, _)| name).join(", ");
            about(text, format!("no such counters; there are {names}"))
        })?,
    };
    let file = |name: Option<PathBuf>| name.map(|name| directory.join(name));
    Ok(Vm {
        name: raw.name.into_inner(),
        kernel: directory.join(raw.kernel),
        initrd: file(raw.initrd),
        cmdline: raw.cmdline,
        memory,
        vcpus: raw.vcpus.map_or(1, Spanned::into_inner),
        port,
        exit_on_abort: raw.exit_on_abort,
        serial: file(raw.serial),
        outbox: file(raw.outbox),
        stats: file(raw.stats),
        counters,
    })
}

fn connection(
    raw: &RawVm,
    nic: Option<&Nic>,
    others: &[Vm],
) -> Result<Option<(u32, Path)>, Complaint> {
    let (port, path) = match (&raw.port, &raw.path) {
        (None, None) => return Ok(None),
        (Some(port), Some(path)) => (port, path),
        (Some(port), None) => return Err(about(port, "a port needs a path")),
        (None, Some(path)) => return Err(about(path, "a path needs a port")),
    };
    let Some(nic) = nic else {
        return Err(about(port, "a port needs a NIC: add a [nic]"));
    };
    check_port(port, nic.geometry)?;
    let number = *port.get_ref();
    let taken = |vm: &&Vm| vm.port.is_some_and(|(port, _)| port == number);
    if let Some(other) = others.iter().find(taken) {
        let message = format!("port {number} is taken by VM {}", other.name);
        return Err(about(port, message));
    }
    let found = Path::from_name(path.get_ref()).ok_or_else(|| {
        let names = Path::ALL.map(Path::name).join(", ");
        about(path, format!("no such path; there are {names}"))
    })?;
    let viewless = matches!(found, Path::ExitUser | Path::Direct);
    if !viewless && nic.image.is_none() {
        let message = format!(
            "the path {} needs the NIC's image: [nic] image",
            found.name()
        );
        return Err(about(path, message));
    }
    if let Some(vcpus) = &raw.vcpus {
        nic::check_vcpus(*vcpus.get_ref(), nic.geometry, found)
            .map_err(|error| about(vcpus, error.to_string()))?;
    }
    Ok(Some((number, found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Topology, (usize, String)> {
        Topology::parse(text, path::Path::new("/dir"))
            .map_err(|(offset, message)| (line_of(text, offset), message))
    }

    const TWO: &str = r#"
[nic]
ports = 2
queues = 2
ring = "1M"
image = "image"
no_learning = [0]

[[vm]]
name = "sender"
kernel = "/abs/kernel"
cmdline = "send"
memory = "32M"
vcpus = 2
port = 0
path = "elisa-strict"
counters = "emulated"

[[vm]]
name = "receiver"
kernel = "kernel"
port = 1
path = "exit-user"
outbox = "out.pcap"
"#;

    #[test]
    fn a_whole_topology() {
        let topology = parse(TWO).unwrap();
        let nic = topology.nic.unwrap();
        let lane = Geometry::default_lane(2, 2, 1 << 20);
        assert_eq!(nic.geometry, Geometry::new(2, 2, 1 << 20, lane).unwrap());
        assert_eq!(nic.image, Some("/dir/image".into()));
        assert_eq!(nic.no_learning, [0]);
        let [sender, receiver] = &topology.vms[..] else {
            panic!("two VMs");
        };
        assert_eq!(sender.kernel, PathBuf::from("/abs/kernel"));
        assert_eq!((sender.memory, sender.vcpus), (Bytes(32 << 20), 2));
        assert_eq!(sender.port, Some((0, Path::ElisaStrict)));
        assert_eq!(sender.counters, counters::Kind::Emulated);
        assert_eq!(receiver.kernel, PathBuf::from("/dir/kernel"));
        assert_eq!((receiver.memory, receiver.vcpus), (DEFAULT_MEMORY, 1));
        assert_eq!(receiver.outbox, Some("/dir/out.pcap".into()));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let cases = [
            ("no_learning = [0]", "no_learning = [7]", 7, "no port 7"),
            ("ports = 2", "ports = 257", 2, "2 to 256 ports"),
            ("queues = 2", "queues = 9", 2, "1 to 8 queues"),
            ("queues = 2\n", "", 13, "queues = 2"),
            ("\"1M\"", "\"3M\"", 5, "a TX ring of 3 MiB"),
            ("\"1M\"", "\"1M\"\nlane = \"1K\"", 6, "a lane of 1 KiB"),
            ("\"1M\"", "\"1X\"", 5, "unknown unit"),
            (
                "ports = 2",
                "ports = 2\nspeed = 10",
                4,
                "unknown field `speed`",
            ),
            ("memory = \"32M\"", "memory = \"lots\"", 13, "not a size"),
            ("memory = \"32M\"", "memory = 32", 13, "invalid type"),
            ("port = 1", "port = 0", 22, "taken by VM sender"),
            ("port = 1", "port = 2", 22, "no port 2"),
            ("port = 1\n", "", 22, "a path needs a port"),
            ("path = \"exit-user\"\n", "", 22, "a port needs a path"),
            ("\"exit-user\"", "\"teleport\"", 23, "elisa, elisa-strict"),
            ("\"receiver\"", "\"sender\"", 20, "two VMs have the name"),
            ("\"receiver\"", "\"two words\"", 20, "letters, digits"),
            ("\"emulated\"", "\"all\"", 17, "none, emulated, perf"),
            ("image = \"image\"\n", "", 15, "needs the NIC's image"),
            ("kernel = \"kernel\"\n", "", 19, "missing field `kernel`"),
            ("[nic]", "[nic", 2, ""),
        ];
        for (old, new, line, part) in cases {
            assert!(TWO.contains(old), "{old}");
            let (found, message) = parse(&TWO.replacen(old, new, 1)).unwrap_err();
            assert!(message.contains(part), "{new}: {message}");
            assert_eq!(found, line, "{new}: {message}");
        }
        let (_, message) = parse("[nic]\nports = 2\n").unwrap_err();
        assert!(message.contains("no VM"));
        let alone = "[[vm]]\nname = \"a\"\nkernel = \"k\"\nport = 0\npath = \"direct\"\n";
        assert_eq!(parse(alone).unwrap_err().0, 4);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let topology = parse(TWO).unwrap();
        let text = toml::to_string(&topology).unwrap();
        assert_eq!(parse(&text), Ok(topology), "{text}");
        let alone = parse("[[vm]]\nname = \"a\"\nkernel = \"k\"\nmemory = \"4097\"\n").unwrap();
        let text = toml::to_string(&alone).unwrap();
        assert_eq!(parse(&text), Ok(alone), "{text}");
    }

    #[test]
    fn files_that_cannot_be_read() {
        let error = Topology::read(path::Path::new("/nowhere/t.toml")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/t.toml"));
    }
}
