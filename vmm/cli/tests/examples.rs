//! The topologies that users are shown: those of examples/ and what `postern up --help` says of
//! them. Each must be read as it stands, and its guests must understand their command lines.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use postern_abi::platform;
use postern_abi::port_word::PortWord;
use postern_abi::window::PortId;
use postern_guest_bare::cmdline::GuestOptions;
use postern_vmm::topology::{Topology, VmConfig};

/// The kernel of examples: the guest without an operating system.
const GUEST: &str = "guest";

/// Ends of what examples name as the kernel and the initrd of Linux guests.
const LINUX: [&str; 2] = ["/kernel", "/initrd"];

/// The NIC's image of all examples.
const IMAGE: &str = "nic-image";

/// The command line as the VMM makes it.
fn cmdline(vm: &VmConfig) -> String {
    match &vm.port {
        None => vm.cmdline.clone(),
        Some(port) => {
            let word = PortWord {
                path: port.path,
                port: PortId::new(port.number).unwrap(),
                gpa: platform::NIC_GPA,
                size: 1 << 20,
            };
            format!("{} {word}", vm.cmdline)
        }
    }
}

/// Reads a topology, and has its guests read their command lines.
fn check(name: &str, text: &str) -> Topology {
    let topology = Topology::parse(text, Path::new("")).unwrap_or_else(|error| {
        panic!("{name}: {error}");
    });
    for vm in &topology.vms {
        let kernel = vm.kernel.to_str().unwrap();
        if kernel.ends_with(LINUX[0]) {
            let initrd = vm.initrd.as_deref().and_then(Path::to_str);
            assert!(
                initrd.is_some_and(|initrd| initrd.ends_with(LINUX[1])),
                "{name}"
            );
            continue;
        }
        assert_eq!(vm.kernel, Path::new(GUEST), "{name}");
        let cmdline = cmdline(vm);
        if let Err(error) = GuestOptions::parse(&cmdline) {
            panic!("{name}: {}: {error}", vm.name);
        }
    }
    let image = topology.nics.first().and_then(|nic| nic.image.as_deref());
    assert!(
        image.is_none_or(|image| image == Path::new(IMAGE)),
        "{name}"
    );
    topology
}

fn examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn each_example_is_read_as_it_stands() {
    let examples = examples();
    assert!(examples.len() >= 3, "{examples:?}");
    for file in examples {
        let name = file.display().to_string();
        let text = fs::read_to_string(&file).unwrap();
        check(&name, &text);
        assert!(Topology::read(&file).is_ok(), "{name}");
        assert!(text.starts_with('#'), "{name} does not say what it is");
        for line in text.lines() {
            assert!(line.len() <= 100, "{name}: {line}");
        }
    }
}

fn help() -> String {
    let output = common::postern(&["up", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

/// The text between two lines that begin with these words.
fn between<'a>(text: &'a str, first: &str, last: &str) -> &'a str {
    let (_, rest) = text.split_once(first).unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.split_once(last).unwrap().0
}

#[test]
fn the_example_of_the_help_is_read_as_it_stands() {
    let help = help();
    let example = between(&help, "The file, in TOML", "These keys are optional");
    let topology = check("postern up --help", example);
    assert_eq!(topology.vms.len(), 2);
    assert!(topology.vms.iter().all(|vm| vm.port.is_some()));
}

#[test]
fn each_key_of_the_help_is_one() {
    let help = help();
    let keys = between(&help, "These keys are optional", "The first VM that ends");
    let text = keys
        .replacen("  [nic]  ", "  [nic]\nports = 4\n", 1)
        .replace("[[vm]]", "[[vm]]\nname = \"a\"\nkernel = \"guest\"");
    let topology = Topology::parse(&text, Path::new(""));
    let topology = topology.unwrap_or_else(|error| panic!("{error}: {text}"));
    // As many as there are: whoever adds a key is to describe it.
    assert!(topology.name.is_some());
    let nic = &topology.nics[0];
    assert!(nic.image.is_some() && nic.socket.is_some() && nic.stats.is_some());
    assert_eq!(nic.no_learning, [0]);
    assert!(!nic.paths.is_empty() && nic.ageing.is_some());
    let [station, uplink] = &nic.ports[..] else {
        panic!("two ports");
    };
    assert!(!station.stations.is_empty() && station.policy.is_some());
    assert!(uplink.uplink.is_some());
    let capture = &nic.captures[0];
    assert!(capture.port.is_some() && capture.via.is_some() && capture.snap.is_some());
    let vm = &topology.vms[0];
    assert!(vm.rng && vm.vsock.is_some() && vm.disks[0].readonly && vm.nets.len() == 1);
    assert!(vm.initrd.is_some() && vm.serial.is_some() && vm.outbox.is_some());
    assert!(vm.stats.is_some() && vm.port.is_some() && !vm.cmdline.is_empty());
}
