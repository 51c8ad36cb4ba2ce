//! Topologies read, refused, and written.

use std::path;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Topology, (usize, String)> {
    Topology::parse(text, path::Path::new("/dir"))
        .map_err(|error| (error.line(text), error.message))
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
    assert_eq!(
        sender.port,
        Some(PortConfig {
            number: 0,
            path: CallPath::ElisaStrict,
        })
    );
    assert_eq!(sender.counters, CounterSource::Emulated);
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
        nic: None,
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
    let found = parse(&topology("nic")).unwrap().nic.unwrap().socket;
    assert_eq!(found, Some("/dir/nic".into()));
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
            port: path.map(|path| PortConfig {
                number: port,
                path: CallPath::ALL[path],
            }),
            exit_on_abort,
            serial: files.1,
            outbox: files.2,
            stats: files.3,
            counters: CounterSource::ALL[counters].1,
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
    ) {
        let geometry = Geometry::new(2, 2, 1 << ring, 1 << 16).unwrap();
        let nic = NicConfig {
            image: Some("image".into()),
            socket,
            no_learning: vec![1],
            stats,
            ..NicConfig::new(geometry)
        };
        let topology = Topology { nic: Some(nic), vms: vec![first, second] };
        prop_assert_eq!(round_trip(&topology), topology);
    }
}
