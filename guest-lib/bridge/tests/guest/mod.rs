//! Network namespaces that stand for guests, and bridges in them.

use std::io;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::devices::{Devices, nic};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A NIC, and who has its ports.
pub struct Lan {
    devices: Devices,
    files: tempfile::TempDir,
    memory: PathBuf,
}

impl Lan {
    /// Runs a test on a NIC of two ports, or says why that cannot be.
    pub fn run(test: impl FnOnce(&Lan)) {
        let probe = thread::spawn(unshare).join().unwrap();
        if let Err(error) = probe {
            println!("SKIP: no network namespace can be made ({error}); run as root");
            return;
        }
        let files = tempfile::tempdir().unwrap();
        let memory = nic(files.path());
        let devices = Devices::new();
        let lan = Lan {
            devices,
            files,
            memory,
        };
        test(&lan);
    }

    /// A guest that has this port; its namespace is new.
    pub fn guest(&self, port: u32) -> Guest {
        let folder = self.devices.folder().join(format!("0000:00:0{port}.0"));
        if !folder.exists() {
            self.devices
                .add_port(&format!("0000:00:0{port}.0"), port, &self.memory);
        }
        let (jobs, queue) = channel::<Job>();
        thread::spawn(move || {
            unshare().unwrap();
            ip("link set lo up").unwrap();
            queue.iter().for_each(|job| job());
        });
        assert!(self.files.path().exists());
        Guest { port, folder, jobs }
    }
}

type Job = Box<dyn FnOnce() + Send>;

fn unshare() -> io::Result<()> {
    // SAFETY: only this thread moves to the new namespace.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A network namespace, and the device of its port.
pub struct Guest {
    port: u32,
    folder: PathBuf,
    jobs: Sender<Job>,
}

impl Guest {
    /// Does something in the namespace.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let (sender, result) = channel();
        let job: Box<dyn FnOnce() + Send> = Box::new(move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            let _ = sender.send(done);
        });
        // SAFETY: the job is over before this function returns, or the thread has ended.
        let job: Job = unsafe { std::mem::transmute(job) };
        self.jobs.send(job).unwrap();
        match result.recv().unwrap() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a bridge with the interface `postern0`, and gives the guest its address.
    pub fn start(&self, options: &[&str]) -> Bridge {
        self.start_as("postern0", options)
    }

    /// The same, with another interface.
    pub fn start_as(&self, interface: &str, options: &[&str]) -> Bridge {
        let bridge = self.spawn(interface, options);
        let add = format!("addr replace 10.0.0.{}/24 dev {interface}", self.port + 1);
        self.inside(|| {
            until("the bridge", || bridge.answers());
            ip(&add).unwrap();
        });
        bridge
    }

    /// Starts a bridge.
    pub fn spawn(&self, interface: &str, options: &[&str]) -> Bridge {
        self.spawn_with(interface, options, &[])
    }

    /// The same, with variables of the environment.
    pub fn spawn_with(&self, tap: &str, options: &[&str], variables: &[(&str, &str)]) -> Bridge {
        let mut command = self.command(options);
        command.envs(variables.iter().copied());
        let child = self.inside(|| command.spawn().unwrap());
        Bridge {
            child,
            interface: tap.to_owned(),
        }
    }

    /// What a bridge says that does not begin.
    pub fn fail(&self, options: &[&str]) -> String {
        let mut command = self.command(options);
        command.stderr(Stdio::piped());
        let mut child = self.inside(|| command.spawn().unwrap());
        // One that begins after all would never end.
        let begin = Instant::now();
        while child.try_wait().unwrap().is_none() && begin.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = bridge();
        // The device is a file: it cannot interrupt.
        command.arg("--device").arg(&self.folder);
        command.args(["--interval", "100"]).args(options);
        command
    }
}

fn bridge() -> Command {
    Command::new(Path::new(env!("CARGO_BIN_EXE_postern-bridge")))
}

/// A bridge that runs; it is killed in the end.
pub struct Bridge {
    child: Child,
    interface: String,
}

impl Bridge {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn ask(&self) -> Option<serde_json::Value> {
        let output = bridge()
            .args(["--stats", "--tap", &self.interface])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    fn answers(&self) -> bool {
        self.ask().is_some()
    }

    /// Its counters, as seen in its namespace.
    pub fn counters(&self) -> serde_json::Value {
        self.ask().expect("the bridge runs")
    }

    /// Has it end; its status.
    pub fn end(mut self) -> Option<i32> {
        self.signal(libc::SIGTERM);
        self.child.wait().unwrap().code()
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the child is this process's, and has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sum over the queues of a counter.
pub fn sum(counters: &serde_json::Value, name: &str) -> u64 {
    let queues = counters["queues"].as_array().unwrap();
    queues
        .iter()
        .map(|queue| queue[name].as_u64().unwrap())
        .sum()
}

/// Runs a program; what it says.
pub fn run(program: &str, arguments: &str) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output();
    let output = output.map_err(|error| format!("no command {program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!(
            "{program} {arguments}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        )),
    }
}

/// Runs `ip`.
pub fn ip(arguments: &str) -> Result<(), String> {
    run("ip", arguments).map(|_| ())
}

/// What `ip link` says of an interface; nothing if there is none.
pub fn link(name: &str) -> String {
    run("ip", &format!("link show {name}")).unwrap_or_default()
}

/// Waits for something.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "waited for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Sends datagrams of this size from one guest to the other, one at a time, and awaits each back.
pub fn exchange(from: &Guest, to: &Guest, count: usize, size: usize) {
    let socket = |guest: &Guest| {
        let address = format!("10.0.0.{}:0", guest.port + 1);
        let socket = guest.inside(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (near, far) = (socket(from), socket(to));
    let there = far.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; size];
            for _ in 0..count {
                let (length, sender) = far.recv_from(&mut buffer).unwrap();
                far.send_to(&buffer[..length], sender).unwrap();
            }
        });
        let mut buffer = vec![0; size];
        for number in 0..count {
            let sent = vec![number as u8; size];
            near.send_to(&sent, there).unwrap();
            assert_eq!(near.recv(&mut buffer).unwrap(), size);
            assert!(buffer == sent, "datagram {number}");
        }
    });
}
