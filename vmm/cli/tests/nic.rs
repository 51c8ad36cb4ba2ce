//! `postern nic` and its actions, as people use them.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::path::Path as FilePath;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::elf::Elf;
use common::{postern, program, start_nic, stderr};
use postern_abi::platform::CallPath;
use postern_nic_client::memory::Memory;
use postern_nic_client::protocol::AccessFds;
use postern_nic_client::request::{self, Tenancy};
use postern_nic_owner::frame_port::FramePort;
use postern_nic_owner::host_port::HostPort;
use postern_vmm::nic::NicPort;
use serde_json::Value;
use tempfile::TempDir;

const CONFIGURATION: i32 = 64;
const NIC: i32 = 66;

struct TestNic {
    directory: TempDir,
    child: Child,
}

impl TestNic {
    fn start(more: &[&str]) -> TestNic {
        let directory = tempfile::tempdir().unwrap();
        let child = TestNic::child(directory.path(), more, "NIC of 4 ports");
        TestNic { directory, child }
    }

    fn child(directory: &FilePath, more: &[&str], says: &str) -> Child {
        let (child, line) = start_nic(&directory.join("nic"), more);
        assert!(line.contains(says), "{line}");
        child
    }

    fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// `postern nic ACTION SOCKET MORE`.
    fn act(&self, action: &str, more: &[&str]) -> Output {
        let socket = self.path("nic");
        postern(&[&["nic", action, &socket], more].concat())
    }

    #[track_caller]
    fn done(&self, action: &str, more: &[&str]) -> String {
        let output = self.act(action, more);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, action: &str, more: &[&str], parts: &[&str]) {
        let output = self.act(action, more);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(CONFIGURATION), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    }

    fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.done("show", &[what, "--json"])).unwrap()
    }

    fn tenant(&self, port: u32) -> Tenant {
        let socket = self.path("nic");
        let mut tenancy = request::port(socket.as_ref(), port, CallPath::Direct).unwrap();
        let nothing = AccessFds::Memory {
            state: fs::File::open("/dev/null").unwrap().into(),
            windows: Vec::new(),
        };
        let resources = std::mem::replace(&mut tenancy.fds.access, nothing);
        let AccessFds::Memory { state, windows } = resources else {
            panic!("direct gives all of the memory");
        };
        let memory = Arc::new(Memory::open(state, windows).unwrap());
        let port = HostPort::open(memory, tenancy.credentials.port()).unwrap();
        Tenant {
            port,
            _tenancy: tenancy,
        }
    }
}

impl Drop for TestNic {
    fn drop(&mut self) {
        // In good order, so that no keeper stays behind.
        if let Ok(None) = self.child.try_wait() {
            // SAFETY: our own child, which has not been waited for.
            unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        }
        let _ = self.child.wait();
    }
}

struct Tenant {
    port: HostPort,
    _tenancy: Tenancy,
}

impl Tenant {
    fn take(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.port
            .receive(usize::MAX, &mut |frame| frames.push(frame.to_vec()));
        frames
    }
}

#[test]
fn a_nic_is_administered_live() {
    let nic = TestNic::start(&["--ports", "4", "--ageing", "60"]);
    let socket = nic.path("nic");
    nic.done(
        "set",
        &["1", "source=own", "ingress=100M", "rule=deny in arp"],
    );
    let policies = nic.json("policies");
    assert_eq!(policies[1]["policy"]["source"], "own");
    assert_eq!(
        policies[1]["policy"]["ingress"]["bits_per_second"],
        100_000_000
    );
    assert!(nic.done("show", &["policies"]).contains("deny in arp"));
    // What is shown can be given back.
    let file = nic.path("policy.json");
    fs::write(&file, policies[1]["policy"].to_string()).unwrap();
    nic.done("set", &["1", "--none"]);
    assert!(
        nic.done("show", &["policies"])
            .contains("no port has a policy")
    );
    nic.done("set", &["2", "--policy", &file, "egress=1G"]);
    assert_eq!(nic.json("policies")[2]["policy"]["source"], "own");
    let toml = nic.path("policy.toml");
    fs::write(&toml, "isolation = \"isolated\"\n[vlan.access]\npvid = 7\n").unwrap();
    nic.done("set", &["3", "--policy", &toml]);
    assert_eq!(
        nic.json("policies")[3]["policy"]["vlan"]["access"]["pvid"],
        7
    );
    for port in ["2", "3"] {
        nic.done("set", &[port, "--none"]);
    }

    nic.done("port", &["3", "disable"]);
    assert_eq!(nic.json("ports")[3]["state"], "disabled");
    assert!(nic.done("show", &[]).contains("disabled"));
    nic.done("port", &["3", "enable"]);
    nic.done("mac", &["add", "1", "02:00:00:00:00:09", "--vlan", "5"]);
    assert_eq!(nic.json("macs")[0]["static"], true);
    nic.done("mac", &["remove", "02:00:00:00:00:09", "--vlan", "5"]);
    nic.done("mac", &["flush"]);
    assert!(nic.json("macs").as_array().unwrap().is_empty());

    nic.refused("set", &["9", "source=own"], &["no port 9", "0 to 3"]);
    nic.refused(
        "set",
        &["1", "colour=red"],
        &["colour=red", "there are source, ingress"],
    );
    nic.refused("set", &["1"], &["nothing to change"]);
    nic.refused("set", &["1", "--policy", &nic.path("absent")], &["absent"]);
    nic.refused("set", &["1", "mirror=1"], &["its own mirror"]);
    nic.refused("mac", &["add", "1", "01:00:00:00:00:09"], &["MAC address"]);
    nic.refused(
        "uplink",
        &["add", "1", "pigeon:x"],
        &["pigeon:x", "tap:NAME"],
    );
    nic.refused("uplink", &["remove", "1"], &["no uplink"]);
    nic.refused("capture", &["remove", "/nowhere"], &["/nowhere", "show"]);
    nic.refused("replay", &["1", "/nowhere"], &["/nowhere"]);
    nic.refused("fly", &[], &["fly"]);
    let nobody = postern(&["nic", "show", &nic.path("nobody")]);
    assert_eq!(nobody.status.code(), Some(NIC));
    assert!(stderr(&nobody).contains("cannot connect"));
    assert_eq!(postern(&["nic"]).status.code(), Some(CONFIGURATION));
    assert!(FilePath::new(&socket).exists());
}

#[test]
fn what_is_captured_can_be_replayed() {
    let nic = TestNic::start(&["--ports", "4", "--no-learning", "2"]);
    let (mut first, mut second) = (nic.tenant(0), nic.tenant(1));
    nic.done("capture", &["add", "all", &nic.path("frames")]);
    nic.refused(
        "capture",
        &["add", "0", &nic.path("x")],
        &["captured already"],
    );
    let mut frame = vec![0xff; 80];
    for number in 0..30 {
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, number]);
        assert_eq!(first.port.send(&[&frame]), 1);
    }
    let captures = nic.json("captures");
    assert_eq!(captures[0]["via"], 3);
    let said = nic.done("capture", &["remove", &nic.path("frames")]);
    assert_eq!(said, "30 frames written, 0 lost\n");
    assert_eq!(second.take().len(), 30);

    let said = nic.done("replay", &["2", &nic.path("frames"), "--loops", "2"]);
    assert_eq!(said, "60 frames, 4800 bytes sent\n");
    assert_eq!(second.take().len(), 60);
    let pace = ["2", &nic.path("frames"), "--pace", "100000", "--json"];
    let said: Value = serde_json::from_str(&nic.done("replay", &pace)).unwrap();
    assert_eq!(said["frames"], 30);
    let macs = nic.json("macs");
    let learned = macs.as_array().unwrap().iter();
    let learned = learned.filter(|entry| entry["static"] == false);
    assert!(learned.clone().count() == 30 && learned.clone().all(|entry| entry["port"] == 0));
}

/// What both ends of a conversation said goes to whom it was for, though one port sends it all.
#[test]
fn a_capture_of_two_ways_can_be_replayed() {
    let nic = TestNic::start(&["--ports", "4"]);
    let (mut first, mut second) = (nic.tenant(0), nic.tenant(1));
    nic.done("capture", &["add", "all", &nic.path("frames")]);
    let address = |port: u8| [2, b'P', b'S', b'T', 0, port];
    let said = |from: u8, to: u8| [&address(to)[..], &address(from), &[0x88; 68]].concat();
    let stations = |from: u8, to: u8| {
        [
            &[2, 0, 0, 0, 0, to][..],
            &[2, 0, 0, 0, 0, from],
            &[0x88; 68],
        ]
        .concat()
    };
    for _ in 0..10 {
        assert_eq!(first.port.send(&[&said(0, 1), &stations(8, 9)]), 2);
        assert_eq!(second.port.send(&[&said(1, 0), &stations(9, 8)]), 2);
    }
    nic.done("capture", &["remove", "all", &nic.path("frames")]);
    for one in [&mut first, &mut second] {
        one.take();
    }
    nic.done("mac", &["flush"]);
    let output = nic.act("replay", &["2", &nic.path("frames"), "--loops", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("what 4 stations said"),
        "{}",
        stderr(&output)
    );
    // To each what was for it, and to both what was for stations that nobody knows.
    assert_eq!((first.take().len(), second.take().len()), (60, 60));
    let counters = nic.json("counters");
    assert_eq!(
        counters["ports"][2]["drops"]["no_destination"], 0,
        "{counters:#}"
    );
    // The port's next tenant is learned from as ever.
    let ports = nic.json("ports");
    assert_eq!(ports[2]["learning"], true);
    nic.done("replay", &["2", &nic.path("frames"), "--learn"]);
    let lost = &nic.json("counters")["ports"][2]["drops"]["no_destination"];
    assert!(
        lost.as_u64().unwrap() > 0,
        "what the port itself is taken for goes nowhere"
    );
}

#[test]
fn a_nic_without_an_owner_is_kept_or_discarded() {
    let mut nic = TestNic::start(&["--ports", "4"]);
    let mut first = nic.tenant(0);
    nic.child.kill().unwrap();
    nic.child.wait().unwrap();
    let socket = nic.path("nic");
    for action in [
        &["nic", "stop", &socket][..],
        &["nic", "port", &socket, "1", "disable"],
        &["nic", "show", &socket],
        &["nic", "set", &socket, "1", "source=own"],
        &["nic", "replay", &socket, "1", &nic.path("frames")],
        &["stat", &socket],
    ] {
        if action.contains(&"replay") {
            fs::write(nic.path("frames"), one_frame()).unwrap();
        }
        let output = postern(action);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(NIC), "{action:?}: {text}");
        assert!(text.contains("has ended, and the NIC is kept"), "{text}");
        assert!(text.contains("--discard"), "{text}");
    }
    // It is another NIC's place, once somebody says so.
    for more in [&["--ports", "2"][..], &["--no-keeper"]] {
        let other = postern(&[&["nic", "--socket", &socket][..], more].concat());
        assert_eq!(other.status.code(), Some(CONFIGURATION));
        assert!(stderr(&other).contains("--discard"), "{}", stderr(&other));
    }
    nic.done("stop", &["--discard"]);
    nic.child = TestNic::child(nic.directory.path(), &["--ports", "2"], "NIC of 2 ports");
    assert_eq!(nic.json("ports")[1]["state"], "vacant");
    // Whoever has the memory of the old one goes on with it.
    assert_eq!(first.port.send(&[&[&[0xff; 6][..], &[2; 74]].concat()]), 1);
}

/// A pcap file with one frame.
fn one_frame() -> Vec<u8> {
    let head = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 0xffff, 1];
    let record = [0u32, 0, 60, 60];
    let words = head.into_iter().chain(record);
    let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    bytes.extend([2; 60]);
    bytes
}

#[test]
fn what_is_shown_can_be_set() {
    let nic = TestNic::start(&["--ports", "4"]);
    nic.done(
        "set",
        &[
            "1",
            "source=own",
            "vlan=trunk:10,20-29/5",
            "rule=deny in ipv4 tcp dport 22",
        ],
    );
    let shown = nic.done("show", &["policies", "--json"]);
    let file = nic.path("policies.json");
    fs::write(&file, &shown).unwrap();
    nic.done("set", &["1", "--none"]);
    nic.done("set", &["1", "--policy", &file]);
    assert_eq!(nic.done("show", &["policies", "--json"]), shown);
    // The port's own, which is none.
    nic.done("set", &["2", "--policy", &file]);
    assert_eq!(nic.done("show", &["policies", "--json"]), shown);
    let toml = nic.path("policy.toml");
    fs::write(&toml, "acl = { rules = [\"permit in arp\"] }\n").unwrap();
    nic.done("set", &["3", "--policy", &toml]);
    let rule = &nic.json("policies")[3]["policy"]["acl"]["rules"][0];
    assert_eq!(rule["ethertype"], 0x0806);
    for endless in ["/dev/zero", "/"] {
        nic.refused(
            "set",
            &["1", "--policy", endless],
            &[endless, "regular file"],
        );
        let image = ["nic", "--socket", &nic.path("other"), "--image", endless];
        let refused = postern(&image);
        assert_eq!(refused.status.code(), Some(CONFIGURATION));
        assert!(
            stderr(&refused).contains("regular file"),
            "{}",
            stderr(&refused)
        );
    }
}

#[test]
fn a_nic_is_taken_over() {
    let mut nic = TestNic::start(&["--ports", "4"]);
    let (mut first, mut second) = (nic.tenant(0), nic.tenant(1));
    nic.done("set", &["2", "isolation=isolated"]);
    let frame = [&[0xff; 6][..], &[2; 74]].concat();
    for _ in 0..2 {
        nic.child.kill().unwrap();
        nic.child.wait().unwrap();
        assert_eq!(first.port.send(&[&frame]), 1);
        assert_eq!(second.take().len(), 1);
        nic.child = TestNic::child(nic.directory.path(), &[], "NIC of 4 ports");
    }
    let counters = nic.json("counters");
    assert_eq!(counters["ports"][0]["tx_frames"], 2);
    assert_eq!(nic.json("policies")[2]["policy"]["isolation"], "isolated");
    // For another program, and not another NIC.
    nic.done("stop", &["--keep"]);
    assert!(nic.child.wait().unwrap().success());
    let socket = nic.path("nic");
    let other = postern(&["nic", "--socket", &socket, "--ports", "2"]);
    assert_eq!(other.status.code(), Some(CONFIGURATION));
    assert!(stderr(&other).contains("4 ports"), "{}", stderr(&other));
    nic.child = TestNic::child(nic.directory.path(), &[], "taken over");
    let twice = postern(&["nic", "--socket", &socket]);
    assert!(stderr(&twice).contains("already listening"));
    nic.done("stop", &[]);
    assert!(nic.child.wait().unwrap().success());
    assert_eq!(fs::read_dir(nic.directory.path()).unwrap().count(), 0);
    // Frames still pass between those who are there.
    assert_eq!(first.port.send(&[&frame]), 1);
    assert_eq!(second.take().len(), 1);
}

#[test]
fn a_vm_outlives_the_owner_of_its_nic() {
    if let Err(error) = kvm_ioctls::Kvm::new() {
        println!("SKIP: /dev/kvm cannot be opened: {error}");
        return;
    }
    let mut nic = TestNic::start(&["--ports", "4"]);
    // pause; jump back to it.
    let kernel = Elf::kernel(&[0xf3, 0x90, 0xeb, 0xfc]).bytes();
    fs::write(nic.path("kernel"), kernel).unwrap();
    let mut vm = Command::new(program())
        .args([
            "run",
            "--kernel",
            &nic.path("kernel"),
            "--serial",
            "/dev/null",
        ])
        .args([
            "--nic",
            &nic.path("nic"),
            "--port",
            "1",
            "--path",
            "exit-user",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = vm.id();
    let attached = |nic: &TestNic| nic.json("ports")[1]["pid"] == pid;
    while !attached(&nic) {
        assert!(vm.try_wait().unwrap().is_none(), "the VM has ended");
        thread::sleep(Duration::from_millis(10));
    }
    for _ in 0..2 {
        nic.child.kill().unwrap();
        nic.child.wait().unwrap();
        nic.child = TestNic::child(nic.directory.path(), &[], "taken over");
        assert!(vm.try_wait().unwrap().is_none(), "the VM has ended");
        assert!(attached(&nic));
    }
    vm.kill().unwrap();
    vm.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while nic.json("ports")[1]["state"] != "vacant" {
        assert!(Instant::now() < end, "the port stays taken");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn without_a_keeper_a_nic_ends_with_its_owner() {
    let mut nic = TestNic::start(&["--ports", "4", "--no-keeper"]);
    nic.refused("stop", &["--keep"], &["no keeper"]);
    assert!(!FilePath::new(&nic.path("nic.keeper")).exists());
    nic.child.kill().unwrap();
    nic.child.wait().unwrap();
    nic.child = TestNic::child(nic.directory.path(), &["--no-keeper"], "NIC of 2 ports");
    nic.done("stop", &[]);
    assert!(nic.child.wait().unwrap().success());
}

#[test]
fn a_port_is_taken_from_its_tenant_and_the_vmm_is_told() {
    let nic = TestNic::start(&["--ports", "4"]);
    let socket = nic.path("nic");
    let port = NicPort::connect(socket.as_ref(), 1, CallPath::ExitUser).unwrap();
    let (sender, told) = mpsc::channel();
    let watch = port.watch(move |end| sender.send(end.to_string()).unwrap());
    let watch = watch.unwrap();
    let said = nic.done("port", &["1", "revoke"]);
    let pid = std::process::id();
    assert!(
        said.contains(&format!("port 1 is taken from process {pid}")),
        "{said}"
    );
    let told = told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(
        told.contains("has lost its port") && told.contains("port 1 was taken"),
        "{told}"
    );
    assert!(watch.finish().unwrap().is_revoked());
    // This process still has the memory.
    assert!(nic.done("show", &[]).contains("which has its memory"));
    assert_eq!(nic.json("ports")[1]["state"], "leaving");
    assert!(nic.done("show", &["counters"]).contains("leaving"));
    nic.refused("port", &["2", "revoke"], &["port 2 has no tenant", "show"]);
    nic.refused("port", &["1", "enable", "--kill"], &["--kill", "revoke"]);

    // A watch that nothing happens to ends when it is told to.
    let port = NicPort::connect(socket.as_ref(), 2, CallPath::ExitUser).unwrap();
    let watch = port.watch(|_| ()).unwrap();
    assert_eq!(watch.finish(), None);
    // An owner that goes, and takes its keeper with it, leaves the port.
    let watch = port.watch(|_| ()).unwrap();
    nic.done("stop", &[]);
    let end = Instant::now() + Duration::from_secs(30);
    let gone = loop {
        match port.watch(|_| ()).unwrap().finish() {
            Some(gone) => break gone,
            None => assert!(Instant::now() < end, "the owner is still there"),
        }
    };
    assert!(!gone.is_revoked() && gone.to_string().contains("port 2 goes on"));
    drop(watch);
}

#[test]
fn paths_that_are_not_offered_are_shown_with_the_reason() {
    let nic = TestNic::start(&["--ports", "4", "--paths", "elisa,exit-user"]);
    let text = nic.done("show", &["paths"]);
    let line = |path: &str| {
        let mut lines = text.lines();
        lines
            .find(|line| line.split_whitespace().next() == Some(path))
            .unwrap()
    };
    assert!(line("exit-user").ends_with("offered"));
    assert!(line("elisa").contains("--image"));
    assert!(line("direct").contains("--paths"));
    assert!(nic.json("paths")["paths"][3]["missing"].is_null());
    assert!(nic.json("paths")["image"].is_null());
}

#[test]
fn the_image_of_a_nic_is_shown() {
    let image = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../host-nic/fuzz/corpus/image/good"
    );
    let nic = TestNic::start(&["--ports", "4", "--image", image]);
    assert_eq!(nic.json("paths")["image"], image);
    let text = nic.done("show", &["paths"]);
    assert!(text.contains(&format!("image: {image}\n")), "{text}");
}

/// `postern stat` of a topology whose one VM has port 1 of a NIC: as the run directory has it, by a lock
/// of this test's.
#[test]
fn a_vm_is_counted_by_its_names() {
    use rustix::fs::{FlockOperation, flock};
    use std::os::unix::fs::PermissionsExt;
    let nic = TestNic::start(&["--ports", "4"]);
    let runs = nic.directory.path().join("postern");
    fs::create_dir_all(runs.join("t")).unwrap();
    fs::set_permissions(&runs, fs::Permissions::from_mode(0o700)).unwrap();
    let lock = fs::File::create_new(runs.join("t/lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let vm = |name: &str, port: u32| {
        serde_json::json!({
            "name": name, "vcpus": 1, "memory": 1 << 20, "port": [null, port, "direct"],
        })
    };
    let info = serde_json::json!({
        "pid": 1, "started": 0, "file": null,
        "nics": [{"name": null, "socket": nic.path("nic"), "image": null}],
        "vms": [vm("a", 1), vm("b", 2)],
    });
    fs::write(runs.join("t/info.json"), info.to_string()).unwrap();
    let stat = |which: &str| {
        let mut command = Command::new(program());
        command.args(["stat", which, "--json"]);
        let output = command
            .env("XDG_RUNTIME_DIR", nic.directory.path())
            .output();
        let output = output.unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
        let topology = &report["topologies"][0];
        let vms = topology["vms"].as_array().unwrap().iter();
        let vms: Vec<String> = vms.map(|vm| vm[0].as_str().unwrap().to_owned()).collect();
        let ports = topology["nics"][0]["counters"]["ports"].as_array().unwrap();
        let ports = ports.iter().map(|port| port["port"].as_u64().unwrap());
        (vms, ports.collect::<Vec<u64>>())
    };
    assert_eq!(
        stat("t"),
        (vec!["a".to_owned(), "b".to_owned()], vec![0, 1, 2, 3])
    );
    for name in ["a", "t/a"] {
        assert_eq!(stat(name), (vec!["a".to_owned()], vec![1]), "{name}");
    }
}
