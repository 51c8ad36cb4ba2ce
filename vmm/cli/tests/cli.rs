//! What `postern` says of bad input: one clear message, the right status, nothing left behind.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use common::elf::Elf;
use common::{postern, program, signal, start_nic, start_nic_by, stderr};
use postern_abi::platform::CallPath;
use postern_nic_client::protocol::AccessFds;
use postern_nic_client::request;
use tempfile::TempDir;

/// Statuses of postern_vmm::status, as the documentation has them.
const CONFIGURATION: i32 = 64;
const NIC: i32 = 66;

/// Asserts how a run failed.
#[track_caller]
fn assert_refused(output: &Output, status: i32, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// A directory with a sane kernel in it.
struct TestDirectory(TempDir);

impl TestDirectory {
    fn new() -> TestDirectory {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kernel"), Elf::kernel(&[0xf4]).bytes()).unwrap();
        TestDirectory(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// `postern run` with the sane kernel and more; no output file may appear.
    #[track_caller]
    fn refuse(&self, more: &[&str], status: i32, parts: &[&str]) {
        let kernel = self.path("kernel");
        self.refuse_kernel(&kernel, more, status, parts);
    }

    #[track_caller]
    fn refuse_kernel(&self, kernel: &str, more: &[&str], status: i32, parts: &[&str]) {
        let outputs = ["serial", "outbox", "stats"].map(|name| self.path(name));
        let [serial, outbox, stats] = outputs.each_ref().map(String::as_str);
        let mut args = vec!["run", "--kernel", kernel];
        args.extend(["--serial", serial, "--outbox", outbox, "--stats", stats]);
        args.extend(more);
        assert_refused(&postern(&args), status, parts);
        for file in &outputs {
            assert!(!PathBuf::from(file).exists(), "{file} was left behind");
        }
    }
}

/// Whether /dev/kvm opens; if not, says why a test is skipped.
fn kvm() -> bool {
    match kvm_ioctls::Kvm::new() {
        Ok(_) => true,
        Err(error) => {
            println!("SKIP: /dev/kvm cannot be opened: {error}");
            false
        }
    }
}

#[test]
fn flags_that_make_no_sense() {
    assert_refused(&postern(&["run"]), CONFIGURATION, &["--kernel"]);
    assert_refused(&postern(&["fly"]), CONFIGURATION, &["fly"]);
    assert_refused(&postern::<&str>(&[]), CONFIGURATION, &["Usage"]);
    let directory = TestDirectory::new();
    let nic = directory.path("nic");
    directory.refuse(
        &["--memory", "lots"],
        CONFIGURATION,
        &["--memory", "size such as 64M"],
    );
    directory.refuse(&["--port", "1"], CONFIGURATION, &["--nic"]);
    directory.refuse(&["--nic", &nic], CONFIGURATION, &["--port", "--path"]);
    directory.refuse(
        &["--nic", &nic, "--port", "1", "--path", "teleport"],
        CONFIGURATION,
        &["no such path", "exit-user"],
    );
    directory.refuse(
        &["--counters", "all"],
        CONFIGURATION,
        &["none, emulated, perf"],
    );
    directory.refuse(
        &["--disk", "path=a,readonyl"],
        CONFIGURATION,
        &["--disk", "no key \"readonyl\"", "readonly, serial=ID"],
    );
}

#[test]
fn disks_that_cannot_be() {
    if !kvm() {
        return;
    }
    let directory = TestDirectory::new();
    let disk = |path: &str| format!("path={path}");
    for (path, parts) in [
        (directory.path("none"), ["there is no disk", "truncate"]),
        (directory.path("."), ["is a directory", "block device"]),
        (
            directory.write("odd", &[0; 700]),
            ["700 bytes", "truncate -s 1024 "],
        ),
        (
            directory.write("image", b"QFI\xfb"),
            ["format qcow2", "qemu-img convert -O raw"],
        ),
    ] {
        directory.refuse(&["--disk", &disk(&path)], CONFIGURATION, &parts);
    }
    let good = disk(&directory.write("good", &[0; 512]));
    directory.refuse(
        &["--disk", &good, "--disk", &good],
        CONFIGURATION,
        &["in use by another VM or program", "readonly to all"],
    );
}

#[test]
fn help_is_no_error_and_tells_the_statuses() {
    let output = postern(&["run", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for status in ["0-63", "64", "65", "66", "67", "68", "69", "70", "128+N"] {
        assert!(text.contains(&format!("\n  {status} ")), "{status}: {text}");
    }
}

#[test]
fn kernels_that_are_none() {
    let directory = TestDirectory::new();
    let missing = directory.path("no-such-file");
    directory.refuse_kernel(
        &missing,
        &[],
        CONFIGURATION,
        &[&missing, "does not exist: give a bzImage"],
    );
    let text = directory.write("text", b"#!/bin/sh\n");
    directory.refuse_kernel(
        &text,
        &[],
        CONFIGURATION,
        &[&text, "a script", "give a bzImage"],
    );
    let whole = Elf::kernel(&[0xf4; 100]).bytes();
    let cut = directory.write("cut", &whole[..whole.len() - 1]);
    directory.refuse_kernel(&cut, &[], CONFIGURATION, &[&cut, "truncated", "segment 0"]);
    let mut elf = Elf::kernel(&[0xf4]);
    elf.machine = 183;
    let other = directory.write("other", &elf.bytes());
    directory.refuse_kernel(
        &other,
        &[],
        CONFIGURATION,
        &[&other, "machine 183", "x86-64"],
    );
    let folder = directory.path("");
    directory.refuse_kernel(&folder, &[], CONFIGURATION, &["directory"]);
    directory.refuse_kernel("/dev/zero", &[], CONFIGURATION, &["is a device"]);
    directory.refuse(
        &["--initrd", "/dev/zero"],
        CONFIGURATION,
        &["initrd /dev/zero", "is a device"],
    );
}

#[test]
fn kernels_of_other_formats_are_named_with_a_remedy() {
    let directory = TestDirectory::new();
    let mut arm64 = vec![0; 4096];
    arm64[..2].copy_from_slice(b"MZ");
    arm64[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let mut bzimage = vec![0; 4096];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    bzimage[0x206..0x208].copy_from_slice(&[0xf, 2]);
    let cases: [(&str, &[u8], &[&str]); 4] = [
        ("Image", &arm64, &["arm64", "x86-64"]),
        ("vmlinux.gz", b"\x1f\x8b\x08\0", &["gzip", "decompress"]),
        ("bzImage-i386", &bzimage, &["64-bit mode", "amd64"]),
        ("cut", &bzimage[..0x220], &["truncated"]),
    ];
    for (name, content, parts) in cases {
        let file = directory.write(name, content);
        directory.refuse_kernel(&file, &[], CONFIGURATION, parts);
    }
}

#[test]
fn processors_and_resets_are_of_known_kinds() {
    let directory = TestDirectory::new();
    directory.refuse(&["--cpu", "max"], CONFIGURATION, &["view-compatible"]);
    directory.refuse(
        &["--on-reboot", "halt"],
        CONFIGURATION,
        &["restart or exit"],
    );
}

#[test]
fn kernels_larger_than_memory() {
    let directory = TestDirectory::new();
    let mut elf = Elf::kernel(&[0xf4]);
    elf.segments[0].memory = 32 << 20;
    let big = directory.write("big", &elf.bytes());
    directory.refuse_kernel(
        &big,
        &["--memory", "16M"],
        CONFIGURATION,
        &[&big, "segment 0", "16 MiB", "at least 33 MiB with --memory"],
    );
    let initrd = directory.write("initrd", &vec![0; 16 << 20]);
    directory.refuse(
        &["--memory", "16M", "--initrd", &initrd],
        CONFIGURATION,
        &[&initrd, "with --memory", "memory = \""],
    );
}

#[test]
fn memory_that_no_vm_can_have() {
    let directory = TestDirectory::new();
    directory.refuse(&["--memory", "0"], CONFIGURATION, &["too few", "2 MiB"]);
    directory.refuse(
        &["--memory", "4097K"],
        CONFIGURATION,
        &["not a multiple of 4096"],
    );
    directory.refuse(
        &["--memory", "300G"],
        CONFIGURATION,
        &["300 GiB", "the most is"],
    );
}

#[test]
fn vcpus_that_no_vm_can_have() {
    if !kvm() {
        return;
    }
    let directory = TestDirectory::new();
    directory.refuse(&["--vcpus", "0"], CONFIGURATION, &["at least 1 vCPU"]);
    directory.refuse(
        &["--vcpus", "100000"],
        CONFIGURATION,
        &["100000", "at most"],
    );
    directory.refuse(&["--vcpus=-1"], CONFIGURATION, &["--vcpus"]);
}

#[test]
fn command_lines_that_cannot_be_passed() {
    if !kvm() {
        return;
    }
    let directory = TestDirectory::new();
    let long = "x".repeat(5000);
    directory.refuse(
        &["--cmdline", &long],
        CONFIGURATION,
        &["5000 bytes", "4095"],
    );
    directory.refuse(
        &["--cmdline", "caf\u{e9}"],
        CONFIGURATION,
        &["not printable ASCII"],
    );
}

#[test]
fn counters_that_the_machine_does_not_have() {
    if !kvm() {
        return;
    }
    let directory = TestDirectory::new();
    if postern_vmm::event_counters::EventCounters::open(
        postern_vmm::event_counters::CounterSource::Emulated,
    )
    .is_ok()
    {
        return println!("SKIP: this is the emulated machine");
    }
    directory.refuse(&["--counters", "emulated"], CONFIGURATION, &["--counters"]);
}

#[test]
fn outputs_that_cannot_be_created() {
    if !kvm() {
        return;
    }
    let directory = TestDirectory::new();
    let (kernel, nowhere) = (
        directory.path("kernel"),
        directory.path("no/such/directory"),
    );
    for flag in ["--serial", "--outbox", "--stats"] {
        let output = postern(&["run", "--kernel", &kernel, flag, &nowhere]);
        let text = stderr(&output);
        if output.status.code() == Some(65) {
            return println!("SKIP: this KVM makes no VM for us: {text}");
        }
        assert_refused(
            &output,
            CONFIGURATION,
            &["cannot create", &nowhere, "there is no directory"],
        );
    }
}

/// A running `postern nic`.
struct RunningNic {
    child: Child,
    socket: String,
}

impl RunningNic {
    fn start(directory: &TestDirectory, more: &[&str]) -> RunningNic {
        let (nic, line) = RunningNic::start_and_line(directory, more);
        assert!(line.starts_with("NIC of 2 ports"), "{line}");
        nic
    }

    /// With what it says of itself.
    fn start_and_line(directory: &TestDirectory, more: &[&str]) -> (RunningNic, String) {
        let socket = directory.path("nic");
        let (child, line) = start_nic(socket.as_ref(), more);
        (RunningNic { child, socket }, line)
    }

    fn end(mut self, number: i32) -> Option<i32> {
        signal(&self.child, number);
        self.child.wait().unwrap().code()
    }
}

#[test]
fn nics_that_give_no_port() {
    if !kvm() {
        return;
    }
    let directory = TestDirectory::new();
    let socket = directory.path("nic");
    let connect =
        |port, path| ["--nic", &socket, "--port", port, "--path", path].map(str::to_owned);
    let refuse = |port, path, parts: &[&str]| {
        let flags = connect(port, path);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        directory.refuse(&flags, NIC, parts);
    };
    refuse("0", "direct", &[&socket, "postern nic --socket"]);

    let nic = RunningNic::start(&directory, &["--paths", "elisa,direct"]);
    refuse("2", "direct", &["no port 2", "0 to 1"]);
    refuse("0", "exit-user", &["does not offer the path exit-user"]);
    refuse("0", "elisa", &["elisa", "--image"]);
    let taken = request::port(nic.socket.as_ref(), 1, CallPath::Direct).unwrap();
    refuse("1", "direct", &["port 1 is taken"]);
    drop(taken);
    assert_eq!(nic.end(libc::SIGTERM), Some(0));

    let nic = RunningNic::start(&directory, &["--paths", "exit-user"]);
    let flags = connect("0", "exit-user");
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--vcpus", "2"]);
    directory.refuse(&flags, CONFIGURATION, &["not 2", "--queues 2"]);
    assert_eq!(nic.end(libc::SIGTERM), Some(0));
    assert!(!PathBuf::from(&socket).exists(), "the socket is gone");
}

#[test]
fn nics_that_cannot_be() {
    let directory = TestDirectory::new();
    let socket = directory.path("nic");
    let refuse = |more: &[&str], parts: &[&str]| {
        let args = [&["nic", "--socket", &socket], more].concat();
        assert_refused(&postern(&args), CONFIGURATION, parts);
        assert!(!PathBuf::from(&socket).exists());
    };
    refuse(&["--ports", "1"], &["2 to 256 ports"]);
    refuse(&["--queues", "9"], &["1 to 8 queues"]);
    refuse(
        &["--ports", "100", "--queues", "3"],
        &["at most 256", "3 on each of 100"],
    );
    refuse(
        &["--ring", "100"],
        &["a TX ring of 100 bytes", "power of two"],
    );
    refuse(&["--lane", "5G"], &["a lane of 5 GiB", "power of two"]);
    refuse(&["--lane", "5X"], &["--lane", "unknown unit"]);
    refuse(&["--no-learning", "5"], &["no port 5"]);
    refuse(&["--paths", "elisa,x"], &["no such path"]);
    let text = directory.write("text", b"not an image");
    refuse(&["--image", &text], &[&text]);
    let file = directory.write("file", b"");
    let output = postern(&["nic", "--socket", &file]);
    assert_refused(&output, CONFIGURATION, &[&file, "not a socket"]);

    let nic = RunningNic::start(&directory, &[]);
    let output = postern(&["nic", "--socket", &nic.socket]);
    assert_refused(&output, CONFIGURATION, &["already listening"]);
    assert_eq!(nic.end(libc::SIGKILL), None);
    // What a killed NIC leaves is no obstacle.
    let nic = RunningNic::start(&directory, &[]);
    assert_eq!(nic.end(libc::SIGINT), Some(0));
}

#[test]
fn the_largest_nic() {
    let directory = TestDirectory::new();
    let size = ["--ports", "256", "--ring", "4K", "--lane", "4K"];
    // With a limit that windows and bells exceed, until the program raises it.
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -Sn 300 && exec \"$0\" \"$@\""]);
    limited.arg(program());
    let socket = directory.path("nic");
    let (child, line) = start_nic_by(limited, socket.as_ref(), &size);
    let nic = RunningNic { child, socket };
    assert!(
        line.starts_with(
            "NIC of 256 ports with 1 queue each, TX rings of 4 KiB, 12 lanes of 4 KiB at "
        ),
        "{line}"
    );
    let tenants: Vec<_> = (0..80)
        .map(|port| {
            let mut tenant = request::port(nic.socket.as_ref(), port, CallPath::Direct).unwrap();
            let AccessFds::Memory { windows, .. } = &mut tenant.fds.access else {
                panic!("a path without views");
            };
            // More than this process could keep of all tenants.
            assert_eq!(std::mem::take(windows).len(), 256);
            assert_eq!(std::mem::take(&mut tenant.fds.bells).len(), 256);
            tenant
        })
        .collect();
    let counters = request::counters(nic.socket.as_ref()).unwrap();
    assert_eq!(counters.ports.len(), 256);
    let attached = counters.ports.iter().filter(|port| port.attached);
    assert_eq!(attached.count(), tenants.len());
    drop(tenants);
    assert_eq!(nic.end(libc::SIGTERM), Some(0));
}

#[test]
fn counters_of_a_nic() {
    let directory = TestDirectory::new();
    let (socket, stats) = (directory.path("nic"), directory.path("stats"));
    let output = postern(&["stat", "--socket", &socket]);
    assert_refused(&output, NIC, &[&socket]);
    let nic = RunningNic::start(&directory, &["--stats", &stats]);
    let output = postern(&["stat", "--socket", &socket, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["ports"][1]["port"], 1);
    let output = postern(&["stat", "--socket", &socket]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("vacant"));
    assert_eq!(postern(&["stat", &socket]).stdout, output.stdout);
    let output = postern(&["stat", &socket, "--prometheus"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("# TYPE postern_port_frames_total counter\n"),
        "{text}"
    );
    let nobody = postern(&["stat", "nobody-is-called-so"]);
    assert_refused(&nobody, CONFIGURATION, &["nobody-is-called-so"]);
    let nobody = postern(&["stat", "nothing-runs-so/a"]);
    let told = "nothing that runs is called nothing-runs-so/a";
    assert_refused(&nobody, CONFIGURATION, &[told]);
    assert_refused(
        &postern(&["stat", &socket, "--socket", &socket]),
        CONFIGURATION,
        &["--socket"],
    );
    assert_eq!(nic.end(libc::SIGTERM), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(stats).unwrap()).unwrap();
    assert_eq!(json["ports"].as_array().unwrap().len(), 2);
}

#[test]
fn settings_of_a_running_nic() {
    let directory = TestDirectory::new();
    let (nic, _) = RunningNic::start_and_line(&directory, &["--ports", "4"]);
    let on = |words: &[&str]| {
        let words: Vec<&str> = words.iter().flat_map(|word| word.split(' ')).collect();
        let (first, rest) = words.split_at(1);
        let all = [&["nic"], first, &[nic.socket.as_str()], rest].concat();
        postern(&all)
    };
    // A port is not blocked from itself, and whoever asks for it is told.
    let output = on(&["set 1 blocked=0,1"]);
    assert_refused(
        &output,
        CONFIGURATION,
        &["port 1 cannot be blocked from itself"],
    );
    // A rule that never decides is taken, and pointed out.
    let rules = ["rule=deny in ipv4", "rule=deny in ipv4 tcp dport 22"];
    let output = postern(&["nic", "set", &nic.socket, "1", rules[0], rules[1]]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("rule 2, "), "{}", stderr(&output));
    assert!(on(&["set 1 vlan=trunk:1-100"]).status.success());
    assert_refused(
        &on(&["set 1 isolation=community:99999"]),
        CONFIGURATION,
        &["99999", "0 to 65535"],
    );
    // A capture ends by what it captures, too.
    let file = directory.path("frames.pcapng");
    assert!(on(&["capture", "add", "2", &file]).status.success());
    let output = on(&["capture", "remove", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 frames written"));
    assert!(!on(&["capture", "remove", "2"]).status.success());
    // A word that is the file of one capture and the port of another ends neither.
    let in_directory = |words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.current_dir(directory.path(""));
        let words: Vec<&str> = words.split(' ').collect();
        let command = command.args(["nic", "capture", &nic.socket]).args(words);
        command.output().unwrap()
    };
    for words in ["add 0 2", "add 2 other --via 1"] {
        let output = in_directory(words);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let output = in_directory("remove 2");
    assert_refused(&output, CONFIGURATION, &["2 can be several captures"]);
    for words in ["remove ./2", "remove 2"] {
        let output = in_directory(words);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    assert_eq!(nic.end(libc::SIGTERM), Some(0));
}

#[test]
fn the_capability_ladder() {
    let output = postern(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rungs = json["rungs"].as_array().unwrap();
    let suffices = |rung: &serde_json::Value| rung["state"] == "ok" || rung["state"] == "note";
    let all = rungs.iter().all(suffices);
    assert_eq!(json["ok"], all);
    assert_eq!(output.status.code(), Some(if all { 0 } else { 65 }));
    for rung in rungs {
        assert_eq!(rung["remedy"].is_null(), rung["state"] == "ok", "{rung}");
    }
    let output = postern(&["check"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for rung in rungs {
        assert!(text.contains(rung["name"].as_str().unwrap()), "{text}");
    }
}

#[test]
fn a_self_test_without_views_says_what_is_missing_and_passes_nothing() {
    let ladder = postern(&["check", "--json"]);
    let ladder: serde_json::Value = serde_json::from_slice(&ladder.stdout).unwrap();
    let rungs = ladder["rungs"].as_array().unwrap();
    let views = rungs.iter().find(|rung| rung["name"] == "views").unwrap();
    if views["state"] == "ok" {
        return println!("SKIP: this host has views, and the suite runs the self-test there");
    }
    let output = postern(&["check", "--self-test", "--json"]);
    assert_eq!(output.status.code(), Some(65));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!(json["judgements"].as_array().unwrap().len(), 0);
    let lacking = json["rungs"].as_array().unwrap();
    assert!(lacking.contains(views) && lacking.iter().all(|rung| rung["remedy"].is_string()));
    let output = postern(&["check", "--self-test"]);
    assert_eq!(output.status.code(), Some(65));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("nothing was tested"), "{text}");
    assert!(text.contains("views") && !text.contains("pass"), "{text}");
}

/// `postern up` with a private directory for temporary files, which must be empty in the end.
fn up(directory: &TestDirectory, text: &str) -> Output {
    let file = directory.write("topology.toml", text.as_bytes());
    let temporary = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .args(["up", &file])
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    output
}

#[test]
fn topologies_that_cannot_be() {
    let directory = TestDirectory::new();
    let output = postern(&["up", "/no/such/file.toml"]);
    assert_refused(&output, CONFIGURATION, &["/no/such/file.toml"]);
    let output = up(
        &directory,
        "[nic]\nports = 2\n\n[[vm]]\nname = \"a\"\nkernal = \"k\"\n",
    );
    assert_refused(&output, CONFIGURATION, &["topology.toml:6:", "kernal"]);
    let output = up(&directory, "[[vm]]\nname = \"a\"\nkernel = \"missing\"\n");
    let kernel = directory.path("missing");
    let fault = format!("topology.toml:3: VM a: the kernel {kernel} does not exist: give");
    assert_refused(&output, CONFIGURATION, &[&fault]);
    let kernel = directory.write("text", b"no kernel");
    let output = up(&directory, "[[vm]]\nname = \"a\"\nkernel = \"text\"\n");
    assert_refused(&output, CONFIGURATION, &["VM a ended with status 64"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("a | postern: kernel") && text.contains(&kernel),
        "{text}"
    );
}

#[test]
fn the_nic_of_a_topology_is_named() {
    let directory = TestDirectory::new();
    directory.write("text", b"no kernel");
    let vm = "[[vm]]\nname = \"a\"\nkernel = \"text\"\n";
    let said =
        "postern: NIC of 2 ports with 1 queue each, TX rings of 256 KiB, 2 lanes of 256 KiB at ";
    let output = up(&directory, &format!("[nic]\nports = 2\n{vm}"));
    assert_refused(&output, CONFIGURATION, &[said, "/nic\n"]);
    let output = up(
        &directory,
        &format!("[nic]\nports = 2\nsocket = \"s\"\n{vm}"),
    );
    let socket = directory.path("s");
    assert_refused(&output, CONFIGURATION, &[&format!("{said}{socket}\n")]);
    assert!(!PathBuf::from(&socket).exists(), "the socket is gone");

    let nic = RunningNic::start(&directory, &[]);
    let taken = up(
        &directory,
        &format!("[nic]\nports = 2\nsocket = \"nic\"\n{vm}"),
    );
    assert_refused(&taken, CONFIGURATION, &[&nic.socket, "a NIC listens at"]);
    assert_eq!(nic.end(libc::SIGTERM), Some(0));
}

#[test]
fn sockets_with_names_that_are_too_long() {
    let directory = TestDirectory::new();
    let long = directory.path(&"s".repeat(200));
    let parts = [" bytes, of which Linux takes 107", &long];
    for args in [
        &["nic", "--socket", &long][..],
        &["nic", "show", &long],
        &["nic", "stop", &long],
        &["nic", "set", &long, "0", "--none"],
        &["nic", "replay", &long, "0", "file"],
        &["stat", &long],
        &[
            "run", "--kernel", "k", "--port", "0", "--path", "direct", "--nic", &long,
        ],
    ] {
        assert_refused(&postern(args), CONFIGURATION, &parts);
    }
    let vm = "[[vm]]\nname = \"a\"\nkernel = \"missing\"\n";
    let output = up(
        &directory,
        &format!("[nic]\nports = 2\nsocket = \"{long}\"\n{vm}"),
    );
    assert_refused(
        &output,
        CONFIGURATION,
        &["topology.toml:3", parts[0], &long],
    );
}

#[test]
fn one_vm_that_fails_takes_the_others_down() {
    if !kvm() {
        return;
    }
    let directory = TestDirectory::new();
    directory.write("text", b"no kernel");
    // The first would sleep for ever, or (where KVM makes no VM) fail as well.
    let start = Instant::now();
    let output = up(
        &directory,
        "[nic]\nports = 2\nstats = \"nic.json\"\n\
         [[vm]]\nname = \"sleeper\"\nkernel = \"kernel\"\nport = 0\npath = \"direct\"\n\
         [[vm]]\nname = \"broken\"\nkernel = \"text\"\nport = 1\npath = \"direct\"\n",
    );
    assert!(start.elapsed() < Duration::from_secs(60));
    let text = stderr(&output);
    assert!(text.contains("VM broken ended with status 64"), "{text}");
    assert!(text.contains("VM sleeper ended with status"), "{text}");
    assert!(matches!(output.status.code(), Some(64 | 65)), "{text}");
    assert!(PathBuf::from(directory.path("nic.json")).exists());
}

/// `postern up --check`.
fn check(directory: &TestDirectory, text: &str) -> Output {
    let file = directory.write("topology.toml", text.as_bytes());
    postern(&["up", "--check", &file])
}

#[test]
fn a_check_says_all_and_starts_nothing() {
    let directory = TestDirectory::new();
    let output = check(
        &directory,
        "[nic]\nports = 2\nsockt = \"s\"\n\n\
         [[vm]]\nname = \"a\"\nkernel = \"kernel\"\nport = 2\npath = \"exit-usr\"\n\
         [[vm]]\nname = \"a\"\nkernel = \"kernel\"\nvcpus = 0\n",
    );
    let faults = [
        "topology.toml:3: there is no key sockt in [nic]; did you mean socket?",
        "topology.toml:8: there is no port 2",
        "topology.toml:9: there is no path exit-usr; did you mean exit-user?",
        "topology.toml:11: two VMs have the name a",
        "topology.toml:13: a VM has 1 to",
    ];
    assert_refused(&output, CONFIGURATION, &faults);
    assert_eq!(stderr(&output).lines().count(), faults.len());

    let output = check(
        &directory,
        "[nic]\nports = 2\nimage = \"no-image\"\n[[nic.port]]\nnumber = 0\nuplink = \"packet:nonesuch\"\n\
         [[vm]]\nname = \"a\"\nkernel = \"missing\"\n[[vm.disk]]\npath = \"no.img\"\n",
    );
    let faults = [
        "topology.toml:3: the image",
        "topology.toml:6: there is no interface nonesuch",
        "topology.toml:9: VM a: the kernel",
        "topology.toml:10: VM a: the disk",
    ];
    assert_refused(&output, CONFIGURATION, &faults);
    if !kvm() {
        return;
    }
    directory.write("text", b"no kernel");
    let vm =
        "[nic]\nports = 2\nsocket = \"s\"\n[[vm]]\nname = \"a\"\nport = 0\npath = \"direct\"\n";
    let output = check(
        &directory,
        &format!("{vm}kernel = \"text\"\nmemory = \"1M\"\n"),
    );
    assert_refused(&output, CONFIGURATION, &["topology.toml:9: VM a:"]);
    let output = check(&directory, &format!("{vm}kernel = \"text\"\n"));
    assert_refused(&output, CONFIGURATION, &["topology.toml:8: VM a:", "text"]);
    let output = check(&directory, &format!("{vm}kernel = \"kernel\"\n"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("1 VM; nothing is wrong"), "{said}");
    assert!(!PathBuf::from(directory.path("s")).exists());
}

#[test]
fn nobody_who_reads_messages_is_no_failure_of_its_own() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(program());
    command
        .args(["run", "--kernel", "/no/kernel"])
        .stderr(writer);
    assert_eq!(command.status().unwrap().code(), Some(CONFIGURATION));
}
