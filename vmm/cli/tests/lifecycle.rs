//! Ends of VMs and of what runs them: nothing is left behind, and ports come back.
//!
//! They need a KVM that runs guest kernel code: hardware, or the emulated machine.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path as FilePath;
use std::process::{Child, Command, Output, Stdio};

use common::elf::Elf;
use common::{echo, postern, program, signal, skip_without_vmx, sleeper, stderr, wait_until};
use postern_nic_client::request;
use serde_json::Value;
use tempfile::TempDir;

/// `mov dx, PORT_EXIT; mov eax, 42; out dx, eax; hlt`.
const EXIT_42: &[u8] = &[0x66, 0xba, 0xe0, 0x0c, 0xb8, 42, 0, 0, 0, 0xef, 0xf4];

/// A directory with guests.
struct TestDirectory(TempDir);

impl TestDirectory {
    fn new() -> Option<TestDirectory> {
        if skip_without_vmx() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for (name, code) in [("sleeper", sleeper()), ("exit", EXIT_42)] {
            fs::write(dir.path().join(name), Elf::kernel(code).bytes()).unwrap();
        }
        fs::create_dir(dir.path().join("tmp")).unwrap();
        Some(TestDirectory(dir))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = Command::new(program());
        command.args(args).env("TMPDIR", self.path("tmp"));
        command.env("XDG_RUNTIME_DIR", self.path("tmp"));
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        quiet.spawn().unwrap()
    }

    /// Runs `postern` to its end, with the same directories.
    fn postern(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(program())
            .args(args)
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("tmp"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut to_child = child.stdin.take().unwrap();
        to_child.write_all(input.as_bytes()).unwrap();
        drop(to_child);
        child.wait_with_output().unwrap()
    }

    /// What `postern ps` shows.
    fn ps(&self) -> Value {
        let output = self.postern(&["ps", "--json"], "");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn run_on(&self, socket: &str, guest: &str, path: &str) -> Vec<String> {
        let kernel = self.path(guest);
        let args = [
            "run", "--kernel", &kernel, "--nic", socket, "--port", "0", "--path", path,
        ];
        args.map(str::to_owned).to_vec()
    }

    fn exit_kind(&self, stats: &str) -> Option<Value> {
        let text = fs::read(self.path(stats)).ok()?;
        let json: Value = serde_json::from_slice(&text).ok()?;
        Some(json["exit"]["kind"].clone())
    }
}

fn attached(socket: &str) -> bool {
    request::counters(FilePath::new(socket)).is_ok_and(|counters| counters.ports[0].attached)
}

#[test]
fn the_port_of_a_killed_vmm_can_be_had_again() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    let socket = directory.path("nic");
    let mut nic = directory.start(&["nic", "--socket", &socket]);
    wait_until("the NIC", || request::counters(socket.as_ref()).is_ok());
    for path in ["direct", "exit-user"] {
        let args = directory.run_on(&socket, "sleeper", path);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut vmm = directory.start(&args);
        wait_until("the VM", || attached(&socket));
        signal(&vmm, libc::SIGKILL);
        vmm.wait().unwrap();
        wait_until("the port's release", || !attached(&socket));
        let output = postern(&directory.run_on(&socket, "exit", path));
        assert_eq!(output.status.code(), Some(42), "{}", stderr(&output));
    }
    signal(&nic, libc::SIGTERM);
    assert_eq!(nic.wait().unwrap().code(), Some(0));
}

fn topology(directory: &TestDirectory, first: &str, second: &str) -> String {
    let vm = |name, kernel, port| {
        format!(
            "[[vm]]\nname = \"{name}\"\nkernel = \"{kernel}\"\nport = {port}\n\
             path = \"direct\"\nstats = \"{name}.json\"\n"
        )
    };
    let (first, second) = (vm("a", first, 0), vm("b", second, 1));
    let text = format!("[nic]\nports = 2\n{first}{second}");
    let file = directory.path("topology.toml");
    fs::write(&file, text).unwrap();
    file
}

/// Starts `postern up` with two VMs that sleep, and waits until they do.
fn two_sleepers(directory: &TestDirectory) -> Child {
    let file = topology(directory, "sleeper", "sleeper");
    let up = directory.start(&["up", &file]);
    wait_until("both VMs", || {
        ["a.json", "b.json"]
            .iter()
            .all(|stats| fs::exists(directory.path(stats)).unwrap())
    });
    up
}

fn leftovers(directory: &TestDirectory) -> usize {
    fs::read_dir(directory.path("tmp")).unwrap().count()
}

#[test]
fn a_detached_topology_runs_until_it_is_taken_down() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    let file = topology(&directory, "sleeper", "sleeper");
    let log = directory.path("log");
    // This ends only when nobody has its outputs any more.
    let output = directory.postern(&["up", "--detach", "--log", &log, &file], "");
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("all VMs of topology run"), "{told}");
    let shown = directory.ps();
    let vms = shown[0]["vms"].as_array().unwrap();
    assert!(vms.iter().all(|vm| vm["state"] == "running"), "{shown}");
    assert_eq!(
        (vms.len(), fs::read(&log).unwrap().len()),
        (2, 0),
        "{shown}"
    );
    let output = directory.postern(&["down", "topology"], "");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for stats in ["a.json", "b.json"] {
        assert_eq!(directory.exit_kind(stats).unwrap(), "signal");
    }
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("VM a ended with status 143"), "{log}");
    assert_eq!(leftovers(&directory), 0);
}

#[test]
fn what_cannot_start_is_told_before_anything_is_detached() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    fs::write(directory.path("text"), "no kernel").unwrap();
    let file = topology(&directory, "sleeper", "text");
    let output = directory.postern(&["up", "--detach", &file], "");
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("b | postern: kernel "), "{told}");
    assert!(told.contains("VM b ended with status 64"), "{told}");
    assert_eq!(leftovers(&directory), 0);
}

#[test]
fn a_signal_takes_all_down() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    let mut up = two_sleepers(&directory);
    signal(&up, libc::SIGINT);
    assert_eq!(up.wait().unwrap().code(), Some(128 + libc::SIGINT));
    for stats in ["a.json", "b.json"] {
        assert_eq!(directory.exit_kind(stats).unwrap(), "signal");
    }
    assert_eq!(leftovers(&directory), 0);
}

#[test]
fn vms_end_with_the_process_that_started_them() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    let mut up = two_sleepers(&directory);
    signal(&up, libc::SIGKILL);
    up.wait().unwrap();
    wait_until("the end of both VMs", || {
        ["a.json", "b.json"]
            .iter()
            .all(|stats| directory.exit_kind(stats).is_some())
    });
    assert_eq!(directory.exit_kind("b.json").unwrap(), "signal");
}

/// `mov dx, PORT_SERIAL; mov al, 'x'; out dx, al; mov al, '\n'; out dx, al`, then [`EXIT_42`].
const SAY_X: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xb0, b'\n', 0xee, 0x66, 0xba, 0xe0, 0x0c, 0xb8, 42,
    0, 0, 0, 0xef, 0xf4,
];

#[test]
fn the_end_of_a_failed_console_is_shown() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    fs::write(directory.path("say"), Elf::kernel(SAY_X).bytes()).unwrap();
    let vm = "[[vm]]\nname = \"a\"\nkernel = \"say\"\n";
    for (more, shown) in [("serial = \"a.log\"\n", true), ("", false)] {
        let file = directory.path("topology.toml");
        fs::write(&file, format!("{vm}{more}")).unwrap();
        let output = postern(&["up", &file]);
        assert_eq!(output.status.code(), Some(42));
        let said = stderr(&output);
        let log = directory.path("a.log");
        let end = format!("postern: the last lines of {log}:\na | x\n");
        assert_eq!(said.contains(&end), shown, "{said}");
        // On the terminal already.
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed.contains("a | x\n"), !shown, "{printed}");
    }
}

#[test]
fn the_first_failure_is_the_status_of_all() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    let file = topology(&directory, "sleeper", "exit");
    let mut up = directory.start(&["up", &file]);
    assert_eq!(up.wait().unwrap().code(), Some(42));
    assert_eq!(directory.exit_kind("a.json").unwrap(), "signal");
    assert_eq!(directory.exit_kind("b.json").unwrap(), "guest");
    assert_eq!(leftovers(&directory), 0);
}

fn running(entry: &Value) -> bool {
    let vms = entry["vms"].as_array().unwrap();
    vms.iter().all(|vm| vm["state"] == "running")
}

#[test]
fn what_runs_is_listed_and_taken_down() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    let mut up = two_sleepers(&directory);
    wait_until("both VMs", || running(&directory.ps()[0]));
    let entries = directory.ps();
    assert_eq!(entries.as_array().unwrap().len(), 1, "{entries}");
    let entry = &entries[0];
    assert_eq!(
        (&entry["name"], &entry["pid"]),
        (&"topology".into(), &up.id().into())
    );
    let [a, b] = &entry["vms"].as_array().unwrap()[..] else {
        panic!("two VMs");
    };
    assert_eq!((&a["name"], &b["name"]), (&"a".into(), &"b".into()));
    assert_eq!((&a["port"], &a["vcpus"]), (&"0 direct".into(), &1.into()));
    assert!(
        a["pid"]
            .as_u64()
            .is_some_and(|pid| pid != u64::from(up.id()))
    );
    let table = directory.postern(&["ps"], "");
    let table = String::from_utf8(table.stdout).unwrap();
    assert_eq!(table.lines().count(), 3, "{table}");

    // Nobody else's business.
    let base = directory.0.path().join("tmp/postern");
    let mode = |path: &FilePath| {
        let permissions = fs::metadata(path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o777
    };
    assert_eq!(mode(&base), 0o700);
    assert_eq!(mode(&base.join("topology")), 0o700);
    assert_eq!(mode(&base.join("topology/a.vm")), 0o600);

    let stat = directory.postern(&["stat", "topology", "--json"], "");
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    let topology = &stat["topologies"][0];
    assert!(
        topology["vms"][0][1]["vcpus"][0]["exits"].is_u64(),
        "{stat}"
    );
    assert_eq!(
        topology["nics"][0]["counters"]["ports"][1]["attached"],
        true
    );
    let stat = directory.postern(&["stat", "--prometheus"], "");
    let stat = String::from_utf8(stat.stdout).unwrap();
    assert!(
        stat.contains("postern_port_attached{topology=\"topology\",nic=\"nic\",port=\"1\"} 1"),
        "{stat}"
    );

    let nobody = directory.postern(&["down", "nobody"], "");
    assert_eq!(nobody.status.code(), Some(64));
    assert!(
        stderr(&nobody).contains("there are topology"),
        "{}",
        stderr(&nobody)
    );
    // By its file.
    let file = directory.path("topology.toml");
    let down = directory.postern(&["down", &file], "");
    assert_eq!(down.status.code(), Some(0), "{}", stderr(&down));
    assert_eq!(
        up.try_wait().unwrap().unwrap().code(),
        Some(128 + libc::SIGTERM)
    );
    assert_eq!(directory.exit_kind("a.json").unwrap(), "signal");
    assert_eq!(directory.ps(), Value::Array(Vec::new()));
    assert_eq!(leftovers(&directory), 0);
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    let mut up = two_sleepers(&directory);
    wait_until("both VMs", || running(&directory.ps()[0]));
    signal(&up, libc::SIGKILL);
    up.wait().unwrap();
    assert_ne!(leftovers(&directory), 0);
    assert_eq!(directory.ps(), Value::Array(Vec::new()));
    assert_eq!(leftovers(&directory), 0);
}

#[test]
fn the_consoles_of_a_topology_are_joined() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    fs::write(directory.path("echo"), Elf::kernel(echo()).bytes()).unwrap();
    let vm = |name| format!("[[vm]]\nname = \"{name}\"\nkernel = \"echo\"\n");
    let file = directory.path("topology.toml");
    fs::write(&file, format!("name = \"t\"\n{}", vm("a"))).unwrap();
    let mut up = directory.start(&["up", &file]);
    wait_until("the VM", || {
        let entries = directory.ps();
        !entries.as_array().unwrap().is_empty() && running(&entries[0])
    });
    // The name is taken.
    let second = directory.postern(&["up", &file], "");
    assert_eq!(second.status.code(), Some(64));
    assert!(
        stderr(&second).contains("t runs already"),
        "{}",
        stderr(&second)
    );
    let nobody = directory.postern(&["console", "b"], "");
    assert_eq!(nobody.status.code(), Some(64));
    assert!(
        stderr(&nobody).contains("there are t/a"),
        "{}",
        stderr(&nobody)
    );
    let joined = directory.postern(&["console", "t/a"], "helloq");
    assert_eq!(joined.status.code(), Some(0), "{}", stderr(&joined));
    assert_eq!(joined.stdout, b"helloq");
    assert_eq!(up.wait().unwrap().code(), Some(42));
    assert_eq!(leftovers(&directory), 0);
}

#[test]
fn a_vm_with_a_name_is_seen() {
    let Some(directory) = TestDirectory::new() else {
        return;
    };
    let kernel = directory.path("sleeper");
    let run = [
        "run", "--kernel", &kernel, "--serial", "none", "--name", "lonely",
    ];
    let mut vm = directory.start(&run);
    wait_until("the VM", || {
        let entries = directory.ps();
        !entries.as_array().unwrap().is_empty() && running(&entries[0])
    });
    let down = directory.postern(&["down", "lonely"], "");
    assert_eq!(down.status.code(), Some(0), "{}", stderr(&down));
    assert_eq!(vm.wait().unwrap().code(), Some(128 + libc::SIGTERM));
    assert_eq!(leftovers(&directory), 0);
}
