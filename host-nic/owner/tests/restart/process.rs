//! The processes of a test, and what is left of them.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::path::{Path as FilePath, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use postern_abi::platform::CallPath;
use postern_nic_client::bells::Bells;
use postern_nic_client::control::{Control, PortInfo};
use postern_nic_client::memory::Memory;
use postern_nic_client::protocol::AccessFds;
use postern_nic_client::request::{self, ClientError, Tenancy, control};
use postern_nic_owner::frame_port::FramePort;
use postern_nic_owner::host_port::HostPort;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

/// The socket, for processes that are to be part of a test.
pub const SOCKET: &str = "POSTERN_TEST_SOCKET";
/// How many milliseconds a keeper stays for nobody.
pub const GRACE: &str = "POSTERN_TEST_GRACE";
/// How long something may take that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A process of a test.
pub struct Process {
    pub child: Child,
    said: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(role: &str, socket: &FilePath, grace: u32) -> Process {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", role, "--nocapture"])
            .env(SOCKET, socket)
            .env(GRACE, grace.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Process { child, said }
    }

    pub fn hear(&mut self, word: &str) {
        assert!(self.listen(word), "no {word}");
    }

    /// Whether it says that before it ends.
    pub fn listen(&mut self, word: &str) -> bool {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            if self.said.read_line(&mut line).unwrap() == 0 {
                return false;
            }
        }
        true
    }

    /// Waits until it has ended in good order.
    pub fn end(&mut self) {
        assert!(self.child.wait().unwrap().success());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port used by this process.
pub struct Tenant {
    pub port: HostPort,
    pub bells: Bells,
    _tenancy: Tenancy,
}

impl Tenant {
    pub fn attach(socket: &FilePath, port: u32) -> Tenant {
        Tenant::try_attach(socket, port).unwrap()
    }

    pub fn try_attach(socket: &FilePath, port: u32) -> Result<Tenant, ClientError> {
        let mut tenancy = request::port(socket, port, CallPath::Direct)?;
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
        let bells = std::mem::take(&mut tenancy.fds.bells);
        Ok(Tenant {
            port: port.hold(),
            bells: Bells::from_fds(tenancy.geometry(), bells).unwrap(),
            _tenancy: tenancy,
        })
    }

    pub fn send_all(&mut self, frames: &[Vec<u8>]) {
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let mut sent = 0;
        while sent < frames.len() {
            sent += self.port.send(&frames[sent..]);
        }
        while self.port.flush() != 0 {
            thread::yield_now();
        }
    }
}

/// A NIC's directory, and the processes that must be gone in the end.
pub struct Bench {
    pub directory: tempfile::TempDir,
    grace: u32,
    found: Cell<Option<Process>>,
}

impl Bench {
    pub fn new(grace: u32) -> Bench {
        Bench {
            directory: tempfile::tempdir().unwrap(),
            grace,
            found: Cell::new(None),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("nic")
    }

    pub fn owner(&self, word: &str) -> Process {
        let mut owner = Process::start("be_an_owner", &self.socket(), self.grace);
        owner.hear(word);
        owner
    }

    /// When whoever is the owner now has gone.
    pub fn owner_soon(&self, word: &str) -> Process {
        eventually("keeper without an owner", || {
            let mut owner = Process::start("be_an_owner", &self.socket(), self.grace);
            match owner.listen(word) {
                true => {
                    self.found.set(Some(owner));
                    true
                }
                false => false,
            }
        });
        self.found.take().unwrap()
    }

    /// Is the owner for as long as it takes to tell the keeper that.
    pub fn tell_keeper(&self, record: &[u8]) {
        let path = self.directory.path().join("nic.keeper");
        let mut buffer = [0; 512];
        eventually("keeper without an owner", || {
            let kind = SocketType::SEQPACKET;
            let flags = SocketFlags::CLOEXEC;
            let keeper = socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
            connect(&keeper, &SocketAddrUnix::new(&path).unwrap()).unwrap();
            let mut hear = || {
                let (size, _) = recv(&keeper, &mut buffer[..], RecvFlags::empty()).unwrap();
                String::from_utf8_lossy(&buffer[..size]).into_owned()
            };
            let answer = hear();
            let Some(count) = answer.strip_prefix("kept ") else {
                return false;
            };
            for _ in 0..count.parse().unwrap() {
                hear();
            }
            send(&keeper, record, SendFlags::empty()).unwrap();
            true
        });
    }

    pub fn echo(&self) -> Process {
        let mut echo = Process::start("be_an_echo", &self.socket(), self.grace);
        echo.hear("attached");
        echo
    }

    pub fn ports(&self) -> Vec<PortInfo> {
        control(&self.socket(), &Control::Ports).unwrap()
    }

    /// Processes of this test, keepers among them, with how many descriptors each has.
    pub fn processes(&self) -> Vec<(u32, usize)> {
        let wanted = format!("{SOCKET}={}", self.socket().display());
        let all = fs::read_dir("/proc").unwrap().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        numbers
            .filter(|pid| {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment
                    .split(|byte| *byte == 0)
                    .any(|one| one == wanted.as_bytes())
            })
            .map(|pid| {
                let fds = fs::read_dir(format!("/proc/{pid}/fd"));
                (pid, fds.map_or(0, Iterator::count))
            })
            .collect()
    }

    /// Waits until nothing is left of the NIC.
    pub fn expect_nothing(&self) {
        eventually("an end of all processes and names", || {
            let names = fs::read_dir(self.directory.path()).unwrap().count();
            self.processes().is_empty() && names == 0
        });
    }
}

pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "no {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
