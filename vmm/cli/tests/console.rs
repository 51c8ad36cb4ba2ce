//! The console of a VM in both directions: on a terminal, on pipes, on sockets; and that nobody who
//! does not read it keeps a VM from ending.
//!
//! They need a KVM that runs guest kernel code, as those of `boot.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::elf::Elf;
use common::{
    TIMEOUT, echo, guest, postern, program, signal, skip_without_vmx, sleeper, stderr, wait_for,
    wait_until,
};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use serde_json::Value;
use tempfile::TempDir;

// Writes to COM1 for ever.
guest!(
    flood,
    "postern_test_flood",
    "postern_test_flood_end",
    "mov dx, 0x3f8",
    "mov al, 'x'",
    "2: out dx, al",
    "jmp 2b",
);

/// A directory with a guest in it.
struct TestDirectory(TempDir);

impl TestDirectory {
    /// Nothing, with a reason, where KVM does not run guests.
    fn new(code: &[u8]) -> Option<TestDirectory> {
        if skip_without_vmx() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kernel"), Elf::kernel(code).bytes()).unwrap();
        Some(TestDirectory(dir))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// `postern run` of the guest, with statistics.
    fn command(&self, serial: &str) -> Command {
        let (kernel, stats) = (self.path("kernel"), self.path("stats"));
        let mut command = Command::new(program());
        command.args(["run", "--memory", "16M", "--kernel", &kernel]);
        command.args(["--serial", serial, "--stats", &stats]);
        command
    }

    fn exit_kind(&self) -> Value {
        let text = fs::read(self.path("stats")).unwrap();
        let json: Value = serde_json::from_slice(&text).unwrap();
        json["exit"]["kind"].clone()
    }

    fn pipe(&self, name: &str) -> String {
        let pipe = self.path(name);
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        pipe
    }
}

/// The end of a child that may not come; it is killed then, and the test fails.
#[track_caller]
fn end(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > TIMEOUT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the VM did not end");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// State of a process: the letter of /proc/PID/stat.
fn state(child: &Child) -> char {
    let text = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let (_, rest) = text.rsplit_once(") ").unwrap();
    rest.chars().next().unwrap()
}

/// Waits until a VM has written all that the reader's side takes: its vCPU waits.
fn wait_until_it_waits(child: &Child) {
    let thread = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).ok()?;
        tasks.flatten().find_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let at = fs::read_to_string(task.path().join("syscall")).ok()?;
            // write(2) is system call 1.
            (name.trim() == "vcpu0" && at.starts_with("1 ")).then_some(())
        })
    };
    wait_for("a vCPU that waits in write(2)", thread);
}

#[test]
fn a_console_that_is_not_read_keeps_no_vm_from_ending() {
    let Some(directory) = TestDirectory::new(flood()) else {
        return;
    };
    let ends_in_good_order = |mut child: Child, waits: bool| {
        match waits {
            true => wait_until_it_waits(&child),
            false => thread::sleep(Duration::from_millis(300)),
        }
        signal(&child, libc::SIGTERM);
        assert_eq!(end(&mut child).code(), Some(128 + libc::SIGTERM));
        assert_eq!(directory.exit_kind(), "signal");
        fs::remove_file(directory.path("stats")).unwrap();
    };
    let child = directory.command("/dev/null").spawn().unwrap();
    ends_in_good_order(child, false);

    let (_unread, pipe) = io::pipe().unwrap();
    let child = directory.command("-").stdout(pipe).spawn().unwrap();
    ends_in_good_order(child, true);

    let pipe = directory.pipe("open");
    let _unread = File::options().read(true).write(true).open(&pipe).unwrap();
    ends_in_good_order(directory.command(&pipe).spawn().unwrap(), true);

    // Without a reader it does not even begin to wait before the pipe is full.
    let pipe = directory.pipe("without-reader");
    ends_in_good_order(directory.command(&pipe).spawn().unwrap(), true);

    // Nobody who joins, or does not, makes the guest wait.
    for serial in [
        "pty",
        "none",
        &format!("unix:{}", directory.path("console")),
    ] {
        let child = directory.command(serial).stderr(Stdio::null()).spawn();
        ends_in_good_order(child.unwrap(), false);
    }
    assert!(!Path::new(&directory.path("console")).exists());
}

#[test]
fn what_vms_print_and_nobody_reads_keeps_nothing_from_ending() {
    let Some(directory) = TestDirectory::new(flood()) else {
        return;
    };
    let file = directory.path("topology.toml");
    fs::write(
        &file,
        "[[vm]]\nname = \"a\"\nkernel = \"kernel\"\nmemory = \"16M\"\n",
    )
    .unwrap();
    let (_unread, pipe) = io::pipe().unwrap();
    let mut up = Command::new(program())
        .args(["up", &file])
        .env("XDG_RUNTIME_DIR", directory.path("."))
        .stdout(pipe)
        .spawn()
        .unwrap();
    let is_blocked = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", up.id())).ok()?;
        tasks.flatten().find_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let at = fs::read_to_string(task.path().join("syscall")).ok()?;
            (name.trim() == "vm-a" && at.starts_with("1 ")).then_some(())
        })
    };
    wait_for("a thread that waits in write(2)", is_blocked);
    signal(&up, libc::SIGTERM);
    assert_eq!(end(&mut up).code(), Some(128 + libc::SIGTERM));
}

#[test]
fn statistics_that_nobody_reads_keep_no_vmm_from_ending() {
    let Some(directory) = TestDirectory::new(sleeper()) else {
        return;
    };
    let pipe = directory.pipe("stats");
    let mut child = directory.command("none").spawn().unwrap();
    wait_for("the VM", || (state(&child) == 'S').then_some(()));
    thread::sleep(Duration::from_millis(300));
    signal(&child, libc::SIGTERM);
    assert_eq!(end(&mut child).code(), Some(128 + libc::SIGTERM));
    assert!(Path::new(&pipe).exists());
}

#[test]
fn input_comes_from_pipes_and_files() {
    let Some(directory) = TestDirectory::new(echo()) else {
        return;
    };
    // More than the guest's FIFO takes at once.
    let text: String = (0..200).map(|number| format!("line {number}\n")).collect();
    let mut child = directory
        .command("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    // The pipe ends; the guest does not.
    input.write_all(b"q").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        text.clone() + "q"
    );

    let file = directory.path("input");
    fs::write(&file, text.clone() + "q").unwrap();
    let file = File::open(&file).unwrap();
    let output = directory.command("-").stdin(file).output().unwrap();
    assert_eq!(output.status.code(), Some(42), "{}", stderr(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text + "q");
}

/// A terminal, and the program's side of it.
struct Pty {
    master: File,
    slave: OwnedFd,
}

impl Pty {
    fn new() -> Pty {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let mut options = File::options();
        let slave = options.read(true).write(true).open(name.to_str().unwrap());
        let slave = slave.unwrap();
        Pty {
            master: master.into(),
            slave: slave.into(),
        }
    }

    fn mode(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    fn is_raw(&self) -> bool {
        let raw = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        !self.mode().local_modes.intersects(raw)
    }

    fn start(&self, mut command: Command) -> Child {
        let slave = || self.slave.try_clone().unwrap();
        command.stdin(slave()).stdout(slave()).stderr(slave());
        command.spawn().unwrap()
    }

    fn write(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Reads until this is shown.
    fn read_until(&mut self, end: &str) -> String {
        let mut shown = Vec::new();
        let mut byte = [0];
        while !shown.ends_with(end.as_bytes()) {
            self.master.read_exact(&mut byte).unwrap();
            shown.push(byte[0]);
        }
        String::from_utf8(shown).unwrap()
    }
}

/// What of a terminal's mode is compared.
fn modes(mode: &Termios) -> (u32, u32, u32) {
    (
        mode.input_modes.bits(),
        mode.output_modes.bits(),
        mode.local_modes.bits(),
    )
}

#[test]
fn a_terminal_is_the_guests_console_and_is_given_back() {
    let Some(directory) = TestDirectory::new(echo()) else {
        return;
    };
    let mut pty = Pty::new();
    let before = modes(&pty.mode());
    let mut child = pty.start(directory.command("-"));
    let said = pty.read_until("helps\r\n");
    assert!(said.contains("Ctrl-A x ends"), "{said}");
    assert!(pty.is_raw());
    // Keys that a terminal in its own mode would take for itself, and the escape key.
    pty.write(b"a\x03\x1a\x04\x01\x01b");
    assert_eq!(pty.read_until("b"), "a\x03\x1a\x04\x01b");
    pty.write(b"\x01h");
    assert!(pty.read_until("guest\r\n").contains("Ctrl-A x"));
    pty.write(b"q");
    assert_eq!(end(&mut child).code(), Some(42));
    assert_eq!(modes(&pty.mode()), before);

    // The escape key ends it, as Ctrl-C ends other programs.
    let mut child = pty.start(directory.command("-"));
    pty.read_until("helps\r\n");
    pty.write(b"\x01x");
    assert_eq!(end(&mut child).code(), Some(128 + libc::SIGINT));
    assert_eq!(modes(&pty.mode()), before);

    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        let mut child = pty.start(directory.command("-"));
        pty.read_until("helps\r\n");
        assert!(pty.is_raw());
        signal(&child, number);
        assert_eq!(end(&mut child).code(), Some(128 + number));
        assert_eq!(modes(&pty.mode()), before, "signal {number}");
    }
}

#[test]
fn a_terminal_is_given_back_while_the_vmm_is_stopped() {
    let Some(directory) = TestDirectory::new(echo()) else {
        return;
    };
    let mut pty = Pty::new();
    let before = modes(&pty.mode());
    let mut child = pty.start(directory.command("-"));
    pty.read_until("helps\r\n");
    for by_key in [false, true] {
        match by_key {
            false => signal(&child, libc::SIGTSTP),
            true => pty.write(b"\x01z"),
        }
        wait_for("the stop", || (state(&child) == 'T').then_some(()));
        assert_eq!(modes(&pty.mode()), before);
        signal(&child, libc::SIGCONT);
        wait_for("raw mode", || pty.is_raw().then_some(()));
        pty.write(b"a");
        pty.read_until("a");
    }
    pty.write(b"q");
    assert_eq!(end(&mut child).code(), Some(42));
    assert_eq!(modes(&pty.mode()), before);
}

#[test]
fn a_pseudo_terminal_is_named_and_used() {
    let Some(directory) = TestDirectory::new(echo()) else {
        return;
    };
    let mut child = directory
        .command("pty")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = child.stderr.take().unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        said.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).unwrap();
    let name = line
        .trim()
        .strip_prefix("postern: the console is ")
        .unwrap();
    let mut console = File::options().read(true).write(true).open(name).unwrap();
    console.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    console.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    console.write_all(b"q").unwrap();
    assert_eq!(end(&mut child).code(), Some(42));
}

#[test]
fn a_socket_is_joined_one_after_the_other_and_together() {
    let Some(directory) = TestDirectory::new(echo()) else {
        return;
    };
    let socket = directory.path("console");
    let mut child = directory
        .command(&format!("unix:{socket}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let join = || wait_for("the socket", || UnixStream::connect(&socket).ok());
    let exchange = |stream: &mut UnixStream, text: &[u8]| {
        stream.write_all(text).unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, text);
    };
    let mut first = join();
    exchange(&mut first, b"one");
    drop(first);
    // Who joins later gets what was said before.
    let mut second = join();
    let mut history = [0; 3];
    second.read_exact(&mut history).unwrap();
    assert_eq!(&history, b"one");
    let mut third = join();
    third.read_exact(&mut history).unwrap();
    exchange(&mut second, b"two");
    third.read_exact(&mut history).unwrap();
    assert_eq!(&history, b"two");

    let mode = fs::metadata(&socket).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
    assert_eq!(mode & 0o777, 0o600);
    let kernel = directory.path("kernel");
    let serial = format!("unix:{socket}");
    let output = postern(&["run", "--kernel", &kernel, "--serial", &serial]);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        stderr(&output).contains("listens there"),
        "{}",
        stderr(&output)
    );

    third.write_all(b"q").unwrap();
    assert_eq!(end(&mut child).code(), Some(42));
    assert!(!Path::new(&socket).exists());
    // That of a VM that is killed goes, too; and one that nobody removed is replaced.
    for _ in 0..2 {
        drop(UnixListener::bind(&socket).unwrap());
        let mut child = directory
            .command(&serial)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(wait_for("the socket", || UnixStream::connect(&socket).ok()));
        signal(&child, libc::SIGKILL);
        child.wait().unwrap();
        wait_until("the end of the socket", || !Path::new(&socket).exists());
    }
}
