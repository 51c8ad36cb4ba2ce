//! The processes that are attacked: a NIC, a VM that is another's, and VMs to be taken over.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libc::pid_t;

/// Whether a VMM is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    On,
    Off,
}

impl Seccomp {
    fn flag(self) -> &'static str {
        match self {
            Seccomp::On => "--seccomp=on",
            Seccomp::Off => "--seccomp=off",
        }
    }
}

/// A NIC with two ports, and a VM that has the second one.
pub struct Host {
    postern: String,
    nic: Child,
    other: std::cell::RefCell<Vmm>,
}

/// Name of the NIC's socket in the working directory.
const SOCKET: &str = "nic";

impl Host {
    /// Starts the NIC and the VM.
    pub fn new(postern: &str, image: &str) -> Result<Host> {
        let mut nic = Command::new(postern)
            .args(["nic", "--socket", SOCKET, "--no-keeper", "--image", image])
            .arg(Seccomp::On.flag())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a NIC")?;
        let mut line = String::new();
        BufReader::new(nic.stdout.as_mut().context("it has no output")?).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the NIC did not start");
        fs::write(GUEST, halting_guest())?;
        let other = start(postern, Seccomp::On, 1)?;
        Ok(Host {
            postern: postern.to_owned(),
            nic,
            other: other.into(),
        })
    }

    /// Starts a VM with the first port, whose guest runs.
    pub fn start(&self, seccomp: Seccomp) -> Result<Vmm> {
        start(&self.postern, seccomp, 0)
    }

    /// The process of the other VM.
    pub fn other(&self) -> pid_t {
        self.other.borrow().pid()
    }

    /// The name by which the other VM's window can be opened.
    pub fn other_window(&self) -> Result<String> {
        let other = self.other.borrow();
        Ok(format!("/proc/{}/fd/{}", other.pid(), other.window()?))
    }

    /// The number of the file that is the other VM's window.
    pub fn other_window_inode(&self) -> Result<u64> {
        Ok(fs::metadata(self.other_window()?)?.ino())
    }

    /// Checks that the other VM runs, and ends it.
    pub fn other_is_well(&self) -> Result<()> {
        self.other.borrow_mut().end_in_good_order()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.nic.kill();
        let _ = self.nic.wait();
    }
}

/// A VMM that runs.
pub struct Vmm(Child);

/// Name of the guest's file in the working directory.
const GUEST: &str = "halting-guest";

/// A kernel that halts for ever, as an executable (System V ABI, "Object Files"): ELF header, one
/// program header, code.
fn halting_guest() -> Vec<u8> {
    const AT: u64 = 1 << 20;
    const HEADERS: u64 = 64 + 56;
    // HLT; JMP to it.
    const CODE: [u8; 3] = [0xf4, 0xeb, 0xfd];
    let size = HEADERS + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let half = |value: u16| value.to_le_bytes().to_vec();
    let (executable, x86_64) = (half(2), half(62));
    file.extend([executable, x86_64, vec![1, 0, 0, 0]].concat());
    for word in [AT + HEADERS, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0; 4]);
    for value in [64, 56, 1, 64, 0, 0] {
        file.extend(half(value));
    }
    // PT_LOAD, read and execute.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, AT, AT, size, size, 4096] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend(CODE);
    file
}

/// Starts a VM that halts, and waits until its vCPU is in the guest.
fn start(postern: &str, seccomp: Seccomp, port: u32) -> Result<Vmm> {
    let port = port.to_string();
    let child = Command::new(postern)
        .args(["run", "--kernel", GUEST])
        .args(["--nic", SOCKET, "--path", "elisa", "--port", &port])
        .arg(seccomp.flag())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a VM")?;
    let mut vmm = Vmm(child);
    for _ in 0..10_000 {
        if vmm.0.try_wait()?.is_some() {
            let (status, text) = vmm.wait()?;
            bail!("the VM ended with {status:?}: {text}");
        }
        if vmm.is_halted() {
            return Ok(vmm);
        }
        thread::sleep(Duration::from_millis(2));
    }
    bail!("the VM does not come to run")
}

impl Vmm {
    /// Its process.
    pub fn pid(&self) -> pid_t {
        self.0.id() as pid_t
    }

    /// Whether its vCPU sleeps in KVM_RUN: by the system call that it is in.
    fn is_halted(&self) -> bool {
        let Ok(thread) = self.thread("vcpu0") else {
            return false;
        };
        let call = fs::read_to_string(self.directory().join(format!("task/{thread}/syscall")));
        // Number, descriptor, request: ioctl, KVM_RUN.
        let words = call.as_deref().unwrap_or_default().split(' ');
        let words: Vec<&str> = words.collect();
        matches!(words[..], ["16", _, "0xae80", ..])
    }

    fn directory(&self) -> PathBuf {
        format!("/proc/{}", self.pid()).into()
    }

    /// Its threads: names and numbers.
    pub fn threads(&self) -> Result<Vec<(String, pid_t)>> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(self.directory().join("task"))? {
            let entry = entry?;
            let number = entry.file_name().to_string_lossy().parse()?;
            let name = fs::read_to_string(entry.path().join("comm"))?;
            threads.push((name.trim_end().to_owned(), number));
        }
        Ok(threads)
    }

    /// Number of the thread of that name.
    pub fn thread(&self, name: &str) -> Result<pid_t> {
        let threads = self.threads()?;
        let found = threads.iter().find(|(thread, _)| thread == name);
        Ok(found
            .with_context(|| format!("no thread {name} in {threads:?}"))?
            .1)
    }

    /// The status of a thread (proc_pid_status(5)), by key.
    pub fn status(&self, thread: pid_t) -> Result<BTreeMap<String, String>> {
        let path = self.directory().join(format!("task/{thread}/status"));
        let text = fs::read_to_string(path)?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Ok(lines
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect())
    }

    /// The descriptor of what has that in its name.
    pub fn descriptor(&self, name: &str) -> Result<u64> {
        for entry in fs::read_dir(self.directory().join("fd"))? {
            let entry = entry?;
            let target = fs::read_link(entry.path())?;
            if target.to_string_lossy().contains(name) {
                return Ok(entry.file_name().to_string_lossy().parse()?);
            }
        }
        bail!("it has no descriptor of {name}")
    }

    /// The descriptor of its window.
    pub fn window(&self) -> Result<u64> {
        self.descriptor("memfd:")
    }

    /// Numbers of the files that it has mapped.
    pub fn mapped_files(&self) -> Result<Vec<u64>> {
        let maps = fs::read_to_string(self.directory().join("maps"))?;
        let inodes = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(4));
        Ok(inodes.filter_map(|inode| inode.parse().ok()).collect())
    }

    /// Waits for its end; gives its status and what it wrote to standard error.
    pub fn wait(&mut self) -> Result<(Option<i32>, String)> {
        let mut text = String::new();
        if let Some(mut output) = self.0.stderr.take() {
            output.read_to_string(&mut text)?;
        }
        Ok((self.0.wait()?.code(), text))
    }

    /// Checks that it ends with a status, whatever it is now.
    pub fn ends_with(&self, status: u8) -> Result<()> {
        let mut found = 0;
        // SAFETY: `found` lives through the call. WNOWAIT is not there: std's own wait finds nothing
        // then, and is not used any more.
        unsafe { libc::kill(self.pid(), libc::SIGCONT) };
        for _ in 0..5000 {
            // SAFETY: as above.
            let ended = unsafe { libc::waitpid(self.pid(), &raw mut found, libc::WNOHANG) };
            if ended == self.pid() && libc::WIFSTOPPED(found) {
                // SAFETY: takes integers.
                unsafe { libc::ptrace(libc::PTRACE_DETACH, self.pid(), 0, 0) };
            } else if ended == self.pid() {
                let code = libc::WEXITSTATUS(found);
                ensure!(
                    libc::WIFEXITED(found) && code == status.into(),
                    "{found:#x}"
                );
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        bail!("it does not end")
    }

    /// Ends it as a user does, and checks that it says so.
    pub fn end(mut self) -> Result<()> {
        self.end_in_good_order()
    }

    fn end_in_good_order(&mut self) -> Result<()> {
        ensure!(
            self.0.try_wait()?.is_none(),
            "it has ended: {:?}",
            self.wait()?
        );
        // SAFETY: takes integers; the process is ours and not waited for.
        unsafe { libc::kill(self.pid(), libc::SIGTERM) };
        let (status, text) = self.wait()?;
        ensure!(
            status == Some(128 + libc::SIGTERM),
            "status {status:?}: {text}"
        );
        Ok(())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.kill();
    }
}
