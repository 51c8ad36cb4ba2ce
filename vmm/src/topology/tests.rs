//! Topologies read, refused, and written.

use std::path::{self, PathBuf};

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use postern_nic_client::control::{Control, Format};
use postern_nic_client::policy::port::{PortPolicy, Source};
use proptest::prelude::*;

use super::*;
use crate::console::Destination;
use crate::cpuid::CpuModel;
use crate::event_counters::CounterSource;
use crate::size::Bytes;
use crate::virtio::blk::DiskConfig;
use crate::vm::OnReboot;

/// The topology, or the line and the message of each fault.
fn parse_all(text: &str) -> Result<Topology, Vec<(usize, String)>> {
    let parsed = Topology::parse(text, path::Path::new("/dir"));
    parsed.map_err(|ContentErrors(faults)| {
        let each = faults.into_iter();
        each.map(|fault| (fault.line(text), fault.message))
            .collect()
    })
}

/// The same with the first fault alone.
fn parse(text: &str) -> Result<Topology, (usize, String)> {
    parse_all(text).map_err(|faults| faults.into_iter().next().unwrap())
}

/// Rows: a part of the text, what stands in its place, and then the line of the first fault and a part
/// of its message.
#[track_caller]
fn check_faults(text: &str, rows: &[(&str, &str, usize, &str)]) {
    for &(old, new, line, part) in rows {
        assert!(text.contains(old), "{old}");
        let (found, message) = parse(&text.replacen(old, new, 1)).unwrap_err();
        assert!(message.contains(part), "{new}: {message}");
        assert_eq!(found, line, "{new}: {message}");
    }
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
    let [nic] = &topology.nics[..] else {
        panic!("one NIC");
    };
    let lane = Geometry::default_lane(2, 2, 1 << 20);
    assert_eq!(nic.geometry, Geometry::new(2, 2, 1 << 20, lane).unwrap());
    assert_eq!(nic.image, Some("/dir/image".into()));
    assert_eq!(nic.no_learning, [0]);
    let [sender, receiver] = &topology.vms[..] else {
        panic!("two VMs");
    };
    assert_eq!(sender.kernel, PathBuf::from("/abs/kernel"));
    assert_eq!((sender.memory, sender.vcpus), (Bytes(32 << 20), 2));
    assert_eq!(sender.port, Some(PortConfig::new(0, CallPath::ElisaStrict)));
    assert_eq!(sender.counters, CounterSource::Emulated);
    assert_eq!(receiver.kernel, PathBuf::from("/dir/kernel"));
    assert_eq!((receiver.memory, receiver.vcpus), (DEFAULT_MEMORY, 1));
    assert_eq!(receiver.outbox, Some("/dir/out.pcap".into()));
}

#[test]
fn mistakes_are_told_with_their_line() {
    #[rustfmt::skip] // A row each.
    let cases = [
        ("no_learning = [0]", "no_learning = [7]", 7, "no port 7"),
        ("ports = 2", "ports = 257", 2, "2 to 256 ports"),
        ("ports = 2", "port = 2", 3, "port is a number, not a table: did you mean ports?"),
        ("ports = 2", "ports = 2\nport = 2", 4, "not a table: write [[nic.port]]"),
        ("\"kernel\"", "\"\"", 21, "kernel: the name of a file is empty"),
        ("queues = 2", "queues = 9", 2, "1 to 8 queues"),
        ("queues = 2\n", "", 13, "queues = 2"),
        ("\"1M\"", "\"3M\"", 5, "a TX ring of 3 MiB"),
        ("\"1M\"", "\"1M\"\nlane = \"1K\"", 6, "a lane of 1 KiB"),
        ("\"1M\"", "\"1X\"", 5, "unknown unit"),
        ("ports = 2", "ports = 2\nspeed = 10", 4, "no key speed in [nic]; there are name, ports"),
        ("memory = \"32M\"", "memory = \"lots\"", 13, "not a size"),
        ("memory = \"32M\"", "memory = 32", 13, "invalid type"),
        ("port = 1", "port = 0", 22, "taken by VM sender"),
        ("port = 1", "port = 2", 22, "no port 2"),
        ("port = 1\n", "", 22, "a path needs a port"),
        ("path = \"exit-user\"\n", "", 22, "a port needs a path"),
        ("\"exit-user\"", "\"teleport\"", 23, "elisa, elisa-strict"),
        ("\"exit-user\"", "\"exit-usr\"", 23, "did you mean exit-user?"),
        ("cmdline =", "cmdlin =", 12, "did you mean cmdline?"),
        ("kernel = \"kernel\"", "kernal = \"kernel\"", 21, "did you mean kernel?"),
        ("\"receiver\"", "\"sender\"", 20, "two VMs have the name"),
        ("\"receiver\"", "\"two words\"", 20, "letters, digits"),
        ("\"emulated\"", "\"all\"", 17, "none, emulated, perf"),
        ("image = \"image\"\n", "", 15, "needs the NIC's image"),
        ("kernel = \"kernel\"\n", "", 19, "[[vm]] has no kernel"),
        ("vcpus = 2", "vcpus = 0", 14, "1 to"),
        ("[nic]", "name = \"a b\"\n[nic]", 2, "letters, digits"),
        ("[nic]", "[nic", 2, ""),
    ];
    check_faults(TWO, &cases);
    let (_, message) = parse("[nic]\nports = 2\n").unwrap_err();
    assert!(message.contains("no VM"));
    let alone = "[[vm]]\nname = \"a\"\nkernel = \"k\"\nport = 0\npath = \"direct\"\n";
    assert_eq!(parse(alone).unwrap_err().0, 4);
}

#[test]
fn files_that_cannot_be_read() {
    let error = Topology::read(path::Path::new("/nowhere/t.toml")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/t.toml"));
}

/// Writes a topology and reads it again.
fn round_trip(topology: &Topology) -> Topology {
    let text = topology.to_toml().unwrap();
    Topology::parse(&text, path::Path::new("")).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn what_is_written_is_read() {
    let whole = parse(TWO).unwrap();
    assert_eq!(round_trip(&whole), whole);
    let least = Topology {
        name: None,
        nics: Vec::new(),
        vms: vec![VmConfig::new("a", "kernel")],
    };
    assert_eq!(round_trip(&least), least);
    let least = parse("[[vm]]\nname = \"a\"\nkernel = \"kernel\"\n").unwrap();
    assert_eq!(least.vms, [VmConfig::new("a", "/dir/kernel")]);
}

#[test]
fn sockets_have_a_longest_name() {
    let (least, _) = TWO.split_once("queues").unwrap();
    let (_, rest) = TWO.split_once("ports = 2\n").unwrap();
    let topology = |name: &str| format!("{least}socket = \"{name}\"\n{rest}");
    let found = parse(&topology("nic")).unwrap();
    assert_eq!(found.nics[0].socket, Some("/dir/nic".into()));
    let (line, message) = parse(&topology(&"s".repeat(200))).unwrap_err();
    assert_eq!(line, 4);
    assert!(
        message.contains("205 bytes") && message.contains("107"),
        "{message}"
    );
}

fn file() -> impl Strategy<Value = Option<PathBuf>> {
    prop::option::of("[ -~]{1,20}".prop_map(PathBuf::from))
}

fn vm(port: u32) -> impl Strategy<Value = VmConfig> {
    let connection = prop::option::of(0..CallPath::ALL.len());
    let numbers = (0..u64::MAX, 1..3_usize, any::<bool>(), 0..3_usize);
    let files = (file(), file(), file(), file());
    (connection, numbers, files, "[ -~\\n\u{e9}]{0,40}").prop_map(
        move |(path, (memory, vcpus, exit_on_abort, counters), files, cmdline)| VmConfig {
            name: format!("vm{port}"),
            kernel: "kernel".into(),
            initrd: files.0,
            cmdline,
            memory: Bytes(memory),
            vcpus,
            cpu: (counters > 0).then(|| CpuModel::ALL[counters - 1]),
            on_reboot: [OnReboot::Restart, OnReboot::Exit][vcpus - 1],
            port: path.map(|path| PortConfig::new(port, CallPath::ALL[path])),
            nic_plain: path.is_some() && vcpus == 2,
            exit_on_abort,
            serial: files.1.map(|file| file.to_str().unwrap().parse().unwrap()),
            outbox: files.2,
            stats: files.3,
            counters: CounterSource::ALL[counters].1,
            rng: vcpus == 2,
            seccomp: exit_on_abort,
            vsock: None,
            disks: Vec::new(),
            nets: Vec::new(),
        },
    )
}

proptest! {
    #[test]
    fn any_topology_is_read_as_it_was_written(
        first in vm(0),
        second in vm(1),
        ring in 12..24_u32,
        socket in file(),
        stats in file(),
        seccomp in any::<bool>(),
    ) {
        let geometry = Geometry::new(2, 2, 1 << ring, 1 << 16).unwrap();
        let nic = NicConfig {
            image: Some("image".into()),
            socket,
            no_learning: vec![1],
            stats,
            seccomp,
            ..NicConfig::new(geometry)
        };
        let topology = Topology { name: Some("t".into()), nics: vec![nic], vms: vec![first, second] };
        prop_assert_eq!(round_trip(&topology), topology);
    }
}

const EVERYTHING: &str = r#"
name = "lab"

[[nic]]
name = "inner"
ports = 4
image = "image"
paths = ["elisa", "exit-user"]
ageing = 0
[[nic.port]]
number = 1
stations = ["02:00:00:00:00:05", "02:00:00:00:00:06@12"]
policy = { source = "own", reserved = ["03", "0e"] }
[[nic.port]]
number = 2
uplink = "tap:tap0"
busy = true
[[nic.port]]
number = 0
enabled = false
[[nic.capture]]
file = "trace.pcap"
port = 1
format = "pcap"
snap = 64

[[nic]]
name = "outer"
ports = 2

[[vm]]
name = "a"
kernel = "kernel"
nic = "inner"
port = 1
path = "elisa"
serial = "unix:a.console"
vsock = { cid = 9 }
[[vm.disk]]
path = "root.img"
readonly = true

[[vm]]
name = "b"
kernel = "kernel"
nic = "outer"
port = 1
path = "direct"
serial = "pty"
vsock = { cid = 3 }
[[vm.disk]]
path = "root.img"
readonly = true
[[vm.disk]]
path = "data.img"
[[vm.net]]
tap = "tap1"
mac = "02:00:00:00:00:09"
"#;

#[test]
fn all_that_a_nic_is_told_can_be_said() {
    let topology = parse_all(EVERYTHING).unwrap();
    assert_eq!(topology.name.as_deref(), Some("lab"));
    let [inner, outer] = &topology.nics[..] else {
        panic!("two NICs");
    };
    assert_eq!(inner.paths, [CallPath::Elisa, CallPath::ExitUser]);
    assert_eq!((inner.ageing, outer.ageing), (Some(0), None));
    let own = PortPolicy {
        source: Source::Own,
        reserved: vec!["03".parse().unwrap(), "0e".parse().unwrap()],
        ..PortPolicy::default()
    };
    let station = |text: &str| text.parse::<Station>().unwrap();
    let add = |text: &str| Control::AddMac {
        port: 1,
        mac: station(text).mac,
        vlan: station(text).vlan,
    };
    let controls = [
        (
            "port.0.policy",
            Control::SetPolicy {
                port: 1,
                policy: Box::new(own),
            },
        ),
        ("port.0.stations", add("02:00:00:00:00:05")),
        ("port.0.stations", add("02:00:00:00:00:06@12")),
        (
            "port.1.uplink",
            Control::AddUplink {
                port: 2,
                interface: "tap:tap0".into(),
                busy: true,
            },
        ),
        ("port.2.enabled", Control::Disable { port: 0 }),
        (
            "capture.0.file",
            Control::AddCapture {
                port: Some(1),
                via: None,
                file: "/dir/trace.pcap".into(),
                format: Format::Pcap,
                snap: Some(64),
                busy: false,
            },
        ),
    ];
    assert_eq!(
        inner.controls(),
        controls.map(|(key, control)| (key.to_owned(), control))
    );
    let [a, b] = &topology.vms[..] else {
        panic!("two VMs");
    };
    assert_eq!(a.serial, Some(Destination::Unix("/dir/a.console".into())));
    assert_eq!(b.serial, Some(Destination::Pty));
    let [_, data] = &b.disks[..] else {
        panic!("two disks");
    };
    assert_eq!(data, &DiskConfig::new("/dir/data.img"));
    let port = b.port.as_ref().unwrap();
    assert_eq!(topology.nic_of(port).unwrap().0, 1);
    assert_eq!(round_trip(&topology), topology);
}

#[test]
fn what_cannot_be_together_is_told() {
    #[rustfmt::skip] // A row each.
    let cases = [
        ("name = \"outer\"", "name = \"inner\"", 28, "two NICs have the name"),
        ("name = \"outer\"\n", "", 27, "give each a name"),
        ("nic = \"outer\"", "nic = \"oute\"", 46, "did you mean outer?"),
        ("nic = \"outer\"\n", "", 46, "there are several NICs"),
        ("number = 2", "number = 1", 15, "two [[nic.port]]"),
        ("number = 2", "number = 4", 15, "no port 4"),
        (":06@12", ":05", 12, "behind port 1 already"),
        (":06@12", ":06@4095", 12, "stations: "),
        ("uplink = \"tap:tap0\"\n", "", 16, "busy goes with uplink"),
        ("\"own\"", "\"owner\"", 13, "no source address"),
        ("{ source", "{ sorce", 13, "did you mean source?"),
        ("source = \"own\"", "mirror = 1", 13, "mirror itself"),
        ("snap = 64", "snap = 0", 25, "snap"),
        ("\"pcap\"", "\"pcapgn\"", 24, "did you mean pcapng?"),
        ("nic = \"inner\"\nport = 1", "nic = \"inner\"\nport = 2", 35, "has an uplink"),
        ("nic = \"inner\"\nport = 1", "nic = \"inner\"\nport = 0", 35, "is disabled"),
        ("nic = \"inner\"\nport = 1", "nic = \"inner\"\nport = 3", 35, "of a capture"),
        ("path = \"elisa\"", "path = \"direct\"", 36, "does not offer"),
        ("data.img\"", "root.img\"", 54, "of VM a, too"),
        ("readonly", "read_only", 41, "did you mean readonly?"),
        (
            "serial = \"pty\"",
            "secomp = false",
            49,
            "did you mean seccomp?",
        ),
        ("serial = \"pty\"", "seccomp = \"off\"", 49, "invalid type"),
        ("ageing = 0", "secccomp = false", 9, "did you mean seccomp?"),
        ("[[vm.disk]]", "[[vm.dsk]]", 39, "did you mean disk?"),
    ];
    check_faults(EVERYTHING, &cases);
    // What two VMs cannot have.
    let net = "[[vm.net]]\ntap = \"tap1\"\nmac = \"02:00:00:00:00:09\"\n";
    let text = EVERYTHING.replacen("[[vm.disk]]", &format!("{net}[[vm.disk]]"), 1);
    let faults = parse_all(&text).unwrap_err();
    let messages: Vec<&str> = faults.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].contains("the TAP tap1 is of VM a, too"));
    assert!(messages[1].contains("02:00:00:00:00:09 is of VM a, too"));
    // A disk that two can write to.
    let text = EVERYTHING.replacen("readonly = true\n", "", 1);
    let (line, message) = parse(&text).unwrap_err();
    assert_eq!(line, 50);
    assert!(message.contains("of VM a, too"), "{message}");
}

/// A NIC with settings of two ports, and a VM.
fn with_ports(first: &str, second: &str) -> String {
    format!(
        "[nic]\nports = 3\n[[nic.port]]\nnumber = 0\n{first}\n[[nic.port]]\nnumber = 1\n{second}\n\
         [[vm]]\nname = \"a\"\nkernel = \"k\"\nport = 0\npath = \"direct\"\nnic_plain = true\n"
    )
}

#[test]
fn a_port_has_an_address_and_a_plain_device() {
    let text = with_ports("mac = \"02:00:00:00:00:01\"", "");
    let topology = parse_all(&text).unwrap();
    let mac = Some("02:00:00:00:00:01".parse().unwrap());
    assert_eq!(topology.nics[0].ports[0].mac, mac);
    let set = Control::SetMac { port: 0, mac };
    assert_eq!(
        topology.nics[0].controls(),
        [("port.0.mac".to_owned(), set)]
    );
    assert!(topology.vms[0].nic_plain);
    assert_eq!(round_trip(&topology), topology);
    // Its own address by number is no other's.
    parse_all(&with_ports("", "mac = \"02:50:53:54:00:01\"")).unwrap();
}

#[test]
fn addresses_that_ports_cannot_have() {
    let one = "mac = \"02:00:00:00:00:01\"";
    let cases = [
        (one, one, 8, "the address of port 0: choose another"),
        (
            one,
            "mac = \"02:50:53:54:00:02\"",
            8,
            "the address of port 2",
        ),
        (
            one,
            "mac = \"02:50:53:54:00:00\"",
            8,
            "the address of port 0",
        ),
        (
            "stations = \"02:00:00:00:00:01\"",
            one,
            8,
            "of a station behind port 0",
        ),
        (
            one,
            "stations = \"02:00:00:00:00:01\"",
            8,
            "the address of port 0 itself",
        ),
        // In no VLAN.
        (
            one,
            "stations = \"02:00:00:00:00:01@5\"",
            8,
            "the address of port 0 itself",
        ),
        (
            "stations = \"02:00:00:00:00:01@5\"",
            one,
            8,
            "of a station behind port 0",
        ),
        (
            "stations = \"02:50:53:54:00:02\"",
            "",
            5,
            "the address of port 2 itself",
        ),
        (
            "mac = \"02:00:00:00:00\"",
            "",
            5,
            "no MAC address of a station",
        ),
        (
            "mac = \"03:00:00:00:00:01\"",
            "",
            5,
            "give six bytes such as",
        ),
        ("mac = \"00:00:00:00:00:00\"", "", 5, "nobody's address"),
        ("mac = 7", "", 5, "mac: invalid type"),
        ("mc = \"02:00:00:00:00:01\"", "", 5, "did you mean mac?"),
    ];
    for (first, second, line, part) in cases {
        let (found, message) = parse(&with_ports(first, second)).unwrap_err();
        assert!(message.contains(part), "{first}, {second}: {message}");
        assert_eq!(found, line, "{first}, {second}: {message}");
    }
    let alone = with_ports("", "").replace("port = 0\npath = \"direct\"\n", "");
    let (line, message) = parse(&alone).unwrap_err();
    assert_eq!(line, 12);
    assert_eq!(message, "nic_plain goes with a port: add port and path");
}

#[test]
fn all_are_confined_but_those_that_are_said_not_to_be() {
    let confined = |text: &str| {
        let topology = parse(text).unwrap();
        let nics = topology.nics.iter().map(|nic| nic.seccomp);
        nics.chain(topology.vms.iter().map(|vm| vm.seccomp))
            .collect::<Vec<bool>>()
    };
    assert_eq!(confined(TWO), [true, true, true]);
    let vm = TWO.replacen("vcpus = 2", "vcpus = 2\nseccomp = false", 1);
    assert_eq!(confined(&vm), [true, false, true]);
    let nic = TWO.replacen("queues = 2", "queues = 2\nseccomp = false", 1);
    assert_eq!(confined(&nic), [false, true, true]);
    let said = TWO.replacen("vcpus = 2", "vcpus = 2\nseccomp = true", 1);
    assert_eq!(confined(&said), [true, true, true]);
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "[nic]\nports = 1\nspeed = 2\n[[vm]]\nname = 7\n[[vm]]\nname = \"a\"\nkernel = \"k\"\n\
                memory = \"1X\"\n";
    let faults = parse_all(text).unwrap_err();
    let lines: Vec<usize> = faults.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 3, 4, 5, 9], "{faults:?}");
    // Where the text is no TOML, that is told.
    assert_eq!(parse("[nic\nports = 1\n").unwrap_err().0, 1);
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "\\PC{0,60}", at in 0..2000_usize) {
        let _ = parse_all(&text);
        let mut whole = EVERYTHING.to_owned();
        let at = at.min(whole.len());
        whole.insert_str(at, &text);
        let _ = parse_all(&whole);
    }
}

/// What could not be read is told once, and is not taken for something else that is wrong.
#[test]
fn one_mistake_is_one_fault() {
    let vms = "[[vm]]\nname = \"a\"\nkernel = \"k\"\nport = 1\npath = \"elisa\"\n";
    for (text, part) in [
        (
            format!("[nic]\nports = 1\nimage = \"i\"\n{vms}"),
            "2 to 256 ports",
        ),
        (
            format!("[nic]\nport = 2\nimage = \"i\"\n{vms}"),
            "did you mean ports?",
        ),
        (format!("[nic]\nports = 2\nimage = 5\n{vms}"), "image: "),
        (
            format!(
                "[nic]\nports = 2\nimage = \"i\"\n{}",
                vms.replace("= 1", "= \"1\"")
            ),
            "port: ",
        ),
        (
            format!(
                "[nic]\nports = 2\nimage = \"i\"\n{}",
                vms.replace("\"elisa\"", "5")
            ),
            "path: ",
        ),
    ] {
        let faults = parse_all(&text).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].1.contains(part), "{faults:?}");
    }
}

/// A VM that lacks something is compared with others all the same.
#[test]
fn faults_hide_no_others() {
    let text = "[[vm]]\nname = \"a\"\nkernal = \"k\"\nvsock = { cid = 3 }\n[[vm]]\nname = \"a\"\n\
                kernel = \"k\"\nvsock = { cid = 3 }\n[[vm.net]]\ntap = \"t\"\n[[vm.net]]\ntap = \"t\"\n";
    let faults = parse_all(text).unwrap_err();
    let expected = [
        (3, "did you mean kernel?"),
        (6, "two VMs have the name a"),
        (8, "this cid is of VM a, too"),
        (11, "the TAP t is there twice: name another"),
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:?}");
    for ((line, message), (expected, part)) in faults.iter().zip(expected) {
        assert_eq!(*line, expected, "{message}");
        assert!(message.contains(part), "{message}");
    }
}
