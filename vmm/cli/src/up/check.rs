//! What is wrong with a topology on this host, before anything is started.
#![deny(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{self, Path, PathBuf};

use postern_nic_client::file::{self as named_file, FileError};
use postern_nic_client::request::{self, ClientError};
use postern_nic_owner::uplink::UplinkConfig;
use postern_vmm::console::Destination;
use postern_vmm::kvm::Host;
use postern_vmm::loader::{INITRD_ADVICE, InitrdFile, KERNEL_ADVICE, KernelFile};
use postern_vmm::socket_path::missing_directory;
use postern_vmm::topology::{ContentError, NicConfig, TopologyFile, VmConfig};
use postern_vmm::virtio::blk::Blk;
use postern_vmm::{boot, geometry, memory};

use crate::run_dir::{self, Entry};

/// What is wrong, each with the byte of the text that it is about and the key whose value it is of.
struct Faults<'a> {
    file: &'a TopologyFile,
    found: Vec<ContentError>,
    keys: BTreeSet<String>,
}

impl Faults<'_> {
    fn add(&mut self, key: String, message: String) {
        self.found.push(self.file.places.fault(&key, message));
        self.keys.insert(key);
    }

    /// Whether a fault of that key is known: another look at the same file has no other.
    fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// As people are told, in the order of the text, none twice.
    fn told(mut self) -> Vec<String> {
        self.found.sort_by_key(|fault| fault.offset);
        let TopologyFile { file, text, .. } = self.file;
        let mut told: Vec<String> = Vec::new();
        for fault in self.found {
            let fault = fault.told(file, text);
            if !told.contains(&fault) {
                told.push(fault);
            }
        }
        told
    }
}

/// Faults that are seen by looking at files alone, beside those of the text: as `FILE:LINE: SENTENCE`,
/// in the order of the text.
pub fn cheap(file: &TopologyFile, of_text: Vec<ContentError>, running: &[Entry]) -> Vec<String> {
    look(file, of_text, running).told()
}

fn look<'a>(file: &'a TopologyFile, of_text: Vec<ContentError>, running: &[Entry]) -> Faults<'a> {
    let mut faults = Faults {
        file,
        found: of_text,
        keys: BTreeSet::new(),
    };
    let topology = &file.topology;
    let same = running
        .iter()
        .find(|entry| topology.name.as_ref() == Some(&entry.name));
    if let Some(entry) = same {
        faults.add("name".to_owned(), run_dir::runs_already(&entry.name));
    }
    for (index, nic) in topology.nics.iter().enumerate() {
        for (key, fault) in nic_faults(nic) {
            faults.add(format!("nic.{index}.{key}"), fault);
        }
        let whose = |socket: &Path| {
            let is_its = |entry: &&Entry| {
                let nics = &entry.info.nics;
                let socket = path::absolute(socket).unwrap_or(socket.to_owned());
                nics.iter().any(|nic| nic.socket == socket)
            };
            running.iter().find(is_its)
        };
        if let Some(socket) = &nic.socket {
            let fault = match whose(socket) {
                // Ending it ends its NICs.
                Some(entry) if same.is_some_and(|same| same.name == entry.name) => None,
                Some(entry) => Some(format!(
                    "the NIC of {name}, which runs, listens at {}: end it (postern down {name}), or \
                     choose another socket",
                    socket.display(),
                    name = entry.name
                )),
                None => taken_by_nic(socket),
            };
            if let Some(fault) = fault {
                faults.add(format!("nic.{index}.socket"), fault);
            }
        }
    }
    for (index, vm) in topology.vms.iter().enumerate() {
        for (key, fault) in vm_faults(vm) {
            faults.add(format!("vm.{index}.{key}"), of_vm(vm, &fault));
        }
    }
    outputs_taken_twice(&mut faults);
    faults
}

/// A fault with the name of its VM, if that has one.
fn of_vm(vm: &VmConfig, fault: &str) -> String {
    match vm.name.is_empty() {
        true => fault.to_owned(),
        false => format!("VM {}: {fault}", vm.name),
    }
}

/// All faults: kernels are loaded, disks are opened, KVM is asked.
pub fn all(file: &TopologyFile, of_text: Vec<ContentError>, running: &[Entry]) -> Vec<String> {
    let mut faults = look(file, of_text, running);
    let host = Host::open();
    for (index, vm) in file.topology.vms.iter().enumerate() {
        for (key, fault) in deep_vm_faults(vm, host.as_ref().ok()) {
            let key = format!("vm.{index}.{key}");
            if !faults.has(&key) {
                faults.add(key, of_vm(vm, &fault));
            }
        }
    }
    let mut told = faults.told();
    if let Err(error) = &host {
        told.push(format!("{:#} (postern check tells more)", chain(error)));
    }
    told
}

/// What is wrong with a VM's kernel, memory, processors and disks, by key.
fn deep_vm_faults(vm: &VmConfig, host: Option<&Host>) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let mut fault = |key: &str, fault: String| faults.push((key.to_owned(), fault));
    let mut initrd = vm.initrd.as_deref().map(InitrdFile::open);
    match memory::reserve_ram(vm.memory.0) {
        Err(error) => fault("memory", chain(&error)),
        // Its absence was told.
        Ok(_) if vm.kernel.as_os_str().is_empty() => {}
        Ok(ram) => match KernelFile::open(&vm.kernel).and_then(|mut file| file.load(&ram)) {
            Err(error) => fault("kernel", chain(&error)),
            Ok(kernel) => {
                let cmdline = boot::write_cmdline(&ram, &vm.cmdline, kernel.max_cmdline);
                if let Err(error) = cmdline {
                    fault("cmdline", chain(&error));
                }
                if let Some(Ok(file)) = &mut initrd
                    && let Err(error) = file.load(&ram, &kernel)
                {
                    fault("initrd", chain(&error));
                }
            }
        },
    }
    if let Some(Err(error)) = initrd {
        fault("initrd", chain(&error));
    }
    if let Some(host) = host
        && let Err(error) = host.check_vcpus(vm.vcpus)
    {
        fault("vcpus", chain(&error));
    }
    for (number, disk) in vm.disks.iter().enumerate() {
        if let Err(error) = Blk::open(disk) {
            fault(&format!("disk.{number}"), chain(&error));
        }
    }
    faults
}

/// What a sound topology has, in words.
pub fn summary(file: &TopologyFile) -> String {
    let topology = &file.topology;
    let nics: Vec<String> = topology
        .nics
        .iter()
        .map(|nic| format!("a NIC of {}", geometry::describe(nic.geometry)))
        .collect();
    let vms = match topology.vms.len() {
        1 => "1 VM".to_owned(),
        count => format!("{count} VMs"),
    };
    let parts: Vec<&str> = nics
        .iter()
        .map(String::as_str)
        .chain([vms.as_str()])
        .collect();
    format!(
        "{}: {}; nothing is wrong\n",
        file.file.display(),
        parts.join(", ")
    )
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// What to give where a file of a kind is not there. Relative names count from the topology's file.
fn advice(what: &str, name: &str) -> String {
    match what {
        "kernel" => KERNEL_ADVICE.to_owned(),
        "initrd" => INITRD_ADVICE.to_owned(),
        "disk" => format!("give a raw image or a block device (truncate -s SIZE {name} makes one)"),
        _ => "give a file".to_owned(),
    }
}

/// Why a file cannot be read, if so.
fn unreadable(what: &str, file: &Path) -> Option<String> {
    let name = file.display();
    let advice = || advice(what, &name.to_string());
    let fault = match named_file::open(file) {
        Ok(_) => return None,
        Err(FileError::Missing) => format!("does not exist: {}", advice()),
        Err(FileError::NotAFile(kind)) => format!("is {kind}: {}", advice()),
        Err(error) => chain(&error),
    };
    Some(format!("the {what} {name} {fault}"))
}

/// Why a disk cannot be read, if so: it may also be a block device.
fn unreadable_disk(file: &Path) -> Option<String> {
    let found = fs::metadata(file);
    if !found.is_ok_and(|found| found.file_type().is_block_device()) {
        return unreadable("disk", file);
    }
    let error = fs::File::open(file).err()?;
    Some(format!(
        "the disk {} cannot be read: {error}",
        file.display()
    ))
}

/// Why a file cannot be made, if so.
fn cannot_make(file: &Path) -> Option<String> {
    let name = file.display();
    if file.is_dir() {
        return Some(format!("{name} is a directory"));
    }
    let directory = missing_directory(file)?;
    Some(format!(
        "{name} cannot be made: there is no directory {}",
        directory.display()
    ))
}

/// Why nothing can listen at a socket, if so.
fn taken(socket: &Path) -> Option<String> {
    match UnixStream::connect(socket) {
        Ok(_) => Some(format!(
            "another process listens at {}: end it, or choose another socket",
            socket.display()
        )),
        Err(_) => cannot_make(socket),
    }
}

fn nic_faults(nic: &NicConfig) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let mut add = |key: &str, fault: Option<String>| {
        faults.extend(fault.map(|fault| (key.to_owned(), fault)));
    };
    if let Some(image) = &nic.image {
        let hint = |fault| format!("{fault} (host-nic/image/build.sh --out FILE makes one)");
        add("image", unreadable("image", image).map(hint));
    }
    add("stats", nic.stats.as_deref().and_then(cannot_make));
    for (index, port) in nic.ports.iter().enumerate() {
        let uplink = port.uplink.as_deref().and_then(uplink_fault);
        add(&format!("port.{index}.uplink"), uplink);
    }
    for (index, capture) in nic.captures.iter().enumerate() {
        let file = &capture.file;
        let there = file.exists().then(|| {
            format!(
                "the file {} is there already: a capture makes its own",
                file.display()
            )
        });
        add(
            &format!("capture.{index}.file"),
            there.or_else(|| cannot_make(file)),
        );
    }
    faults
}

/// A NIC's socket is a seqpacket socket, to which a stream does not connect: whether somebody
/// listens is what the owner itself asks.
fn taken_by_nic(socket: &Path) -> Option<String> {
    match request::counters(socket) {
        Ok(_) => Some(format!(
            "a NIC listens at {} already: end it (postern nic stop), or choose another socket",
            socket.display()
        )),
        Err(kept @ ClientError::NoOwner { .. }) => Some(kept.to_string()),
        Err(_) => cannot_make(socket),
    }
}

fn uplink_fault(uplink: &str) -> Option<String> {
    let config: UplinkConfig = match uplink.parse() {
        Ok(config) => config,
        Err(error) => return Some(chain(&error)),
    };
    let interface = match config {
        // Made, if it is not there.
        UplinkConfig::Tap { .. } => return None,
        UplinkConfig::Packet { interface } | UplinkConfig::Xdp { interface, .. } => interface,
    };
    let found = Path::new("/sys/class/net").join(&interface).exists();
    (!found).then(|| format!("there is no interface {interface} (ip link lists them)"))
}

/// Why a name is no TAP's, if an interface has it already that is none (Linux: tun_net_init, which
/// gives TAPs the attribute `tun_flags`).
fn other_than_tap(name: &str) -> Option<String> {
    let interface = Path::new("/sys/class/net").join(name);
    let other = interface.exists() && !interface.join("tun_flags").exists();
    other.then(|| {
        format!("cannot open TAP {name}: an interface of this name exists and is no TAP; take another name")
    })
}

fn vm_faults(vm: &VmConfig) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let mut add = |key: &str, fault: Option<String>| {
        faults.extend(fault.map(|fault| (key.to_owned(), fault)));
    };
    if !vm.kernel.as_os_str().is_empty() {
        add("kernel", unreadable("kernel", &vm.kernel));
    }
    let initrd = vm.initrd.as_deref();
    add("initrd", initrd.and_then(|file| unreadable("initrd", file)));
    for (key, file) in [("outbox", &vm.outbox), ("stats", &vm.stats)] {
        add(key, file.as_deref().and_then(cannot_make));
    }
    add(
        "serial",
        match &vm.serial {
            Some(Destination::File(file)) => cannot_make(file),
            Some(Destination::Unix(socket)) => taken(socket),
            _ => None,
        },
    );
    for (index, disk) in vm.disks.iter().enumerate() {
        let fault = unreadable_disk(&disk.path);
        add(&format!("disk.{index}"), fault);
    }
    for (index, net) in vm.nets.iter().enumerate() {
        add(&format!("net.{index}"), other_than_tap(&net.tap));
    }
    faults
}

/// Files that two write to.
fn outputs_taken_twice(faults: &mut Faults<'_>) {
    let mut seen: BTreeMap<PathBuf, String> = BTreeMap::new();
    let file = faults.file;
    let mut look = |path: &Path, key: String, whose: String| {
        // Devices take what anybody writes.
        if path.exists() && !path.is_file() {
            return;
        }
        match seen.get(path) {
            Some(other) => {
                let path = path.display();
                let message = format!("{path} is written by {other}, too: choose another file");
                faults.add(key, message);
            }
            None => drop(seen.insert(path.to_owned(), whose)),
        }
    };
    for (index, vm) in file.topology.vms.iter().enumerate() {
        let serial = match &vm.serial {
            Some(Destination::File(path) | Destination::Unix(path)) => Some(path),
            _ => None,
        };
        let files = [
            ("serial", serial),
            ("outbox", vm.outbox.as_ref()),
            ("stats", vm.stats.as_ref()),
        ];
        for (key, path) in files {
            if let Some(path) = path {
                look(path, format!("vm.{index}.{key}"), format!("VM {}", vm.name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use postern_vmm::topology::Topology;

    use crate::run_dir::NicInfo;

    use super::*;

    /// The faults of a topology in a directory with a file and a folder.
    fn faults(text: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("kernel"), "").unwrap();
        fs::create_dir(directory.path().join("folder")).unwrap();
        let path = directory.path().join("t.toml");
        fs::write(&path, text).unwrap();
        let (file, of_text) = Topology::read_with_faults(&path).unwrap();
        let own = format!("{}/", directory.path().display());
        let found = cheap(&file, of_text, &[]);
        found.iter().map(|fault| fault.replace(&own, "")).collect()
    }

    /// The faults of a topology whose NIC listens where that of a running one does.
    fn while_it_runs(name: &str, running: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.toml");
        fs::write(directory.path().join("k"), "").unwrap();
        let text = "[nic]\nports = 2\nsocket = \"s\"\n[[vm]]\nname = \"a\"\nkernel = \"k\"\n";
        fs::write(&path, format!("{name}{text}")).unwrap();
        let (file, of_text) = Topology::read_with_faults(&path).unwrap();
        let mut entry = Entry::sample(running, &["a"], None);
        entry.info.nics.push(NicInfo {
            name: None,
            socket: directory.path().join("s"),
            image: None,
        });
        let own = format!("{}/", directory.path().display());
        let found = cheap(&file, of_text, &[entry]);
        found.iter().map(|fault| fault.replace(&own, "")).collect()
    }

    #[test]
    fn what_runs_already_is_named_rather_than_its_socket() {
        assert_eq!(
            while_it_runs("name = \"lab\"\n", "lab"),
            ["t.toml:1: lab runs already: end it (postern down lab), or choose another name"]
        );
        let other = "the NIC of t, which runs, listens at s: end it (postern down t), or choose";
        for (name, line) in [("", 3), ("name = \"lab\"\n", 4)] {
            let found = while_it_runs(name, "t");
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].starts_with(&format!("t.toml:{line}: {other}")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn every_file_is_looked_at() {
        let text = "\
[nic]
ports = 4
image = \"nowhere\"
stats = \"no/where\"
[[nic.port]]
number = 1
uplink = \"packet:nosuchif0\"
[[nic.port]]
number = 2
uplink = \"tup:tap0\"
[[nic.capture]]
file = \"kernel\"
[[vm]]
name = \"a\"
kernel = \"missing\"
initrd = \"folder\"
serial = \"folder\"
stats = \"same\"
[[vm]]
name = \"b\"
kernel = \"kernel\"
outbox = \"same\"
[[vm.disk]]
path = \"no.img\"
";
        let expected = [
            (3, "the image nowhere does not exist: give a file (host-nic"),
            (4, "there is no directory no"),
            (7, "no interface nosuchif0"),
            (10, "tup"),
            (12, "kernel is there already"),
            (
                15,
                "VM a: the kernel missing does not exist: give a bzImage",
            ),
            (
                16,
                "VM a: the initrd folder is a directory: give the one of the kernel",
            ),
            (17, "VM a: folder is a directory"),
            (22, "same is written by VM a, too"),
            (23, "VM b: the disk no.img does not exist: give a raw image"),
        ];
        let found = faults(text);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (fault, (line, part)) in found.iter().zip(expected) {
            assert!(fault.starts_with(&format!("t.toml:{line}: ")), "{fault}");
            assert!(fault.contains(part), "{part}: {fault}");
        }
        let sound = "[[vm]]\nname = \"a\"\nkernel = \"kernel\"\nserial = \"/dev/null\"\n";
        assert!(faults(sound).is_empty());
    }
}
