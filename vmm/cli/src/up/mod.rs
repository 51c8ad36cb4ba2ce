//! `postern up`: a NIC and several VMs, one process each.

mod process;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use postern_nic::server::{Options, Server, Stopper};
use postern_vmm::topology::{NicConfig, Topology, VmConfig};
use postern_vmm::{signals, status};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use crate::error::CommandError;
use crate::{nic, output};

/// Flags of `postern up`.
#[derive(ClapArgs)]
pub struct Args {
    /// The file that describes NIC and VMs (see below)
    topology: PathBuf,
}

/// What `--help` says about the file and the exit status.
pub const HELP: &str = "\
The file, in TOML (relative names are relative to its directory):
  [nic]                    # optional; a VM with a port needs it
  ports = 2
  queues = 1               # of each port; as many as a VM with a port has processors; optional
  ring = \"256K\"            # size of each TX ring; optional
  lane = \"256K\"            # size of each lane (see postern nic --help); optional
  image = \"nic-image\"      # for elisa, elisa-strict and exit-kernel
  no_learning = [0]        # ports whose guests replay captures; optional
  stats = \"nic.json\"       # counters of all ports, at the end; optional

  [[vm]]
  name = \"sender\"
  kernel = \"testguest\"
  initrd = \"traffic.pcap\"  # this and all below are optional
  cmdline = \"send\"
  memory = \"64M\"
  vcpus = 1
  port = 0                 # together with path
  path = \"elisa\"
  exit_on_abort = false
  serial = \"sender.log\"    # by default each line is printed with the VM's name
  outbox = \"frames.pcap\"
  stats = \"sender.json\"
  counters = \"none\"        # none, emulated, perf

The first VM that ends with another status than 0, or a signal, takes all down.

Exit status:
  0      all VMs ended with status 0
  1-70   that of the first VM that did not (see postern run --help)
  64     the file cannot be used
  66     the NIC cannot be made, or cannot go on
  128+N  ended by signal N";

/// How long a VM has to end by itself once it is told to.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(5);

/// What the main thread waits for.
enum Event {
    /// A VM's process has ended, and all it printed is printed.
    Ended {
        index: usize,
        status: io::Result<ExitStatus>,
    },
    /// The NIC's server has ended by itself.
    NicLost(String),
    /// A signal to end.
    Signal(i32),
}

/// Runs all VMs to their end; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let topology = Topology::read(&args.topology).map_err(CommandError::configuration)?;
    let (sender, events) = mpsc::channel();
    let signal_sender = sender.clone();
    signals::on_ending_signal(move |signal| {
        // If nobody listens any more, all has ended.
        let _ = signal_sender.send(Event::Signal(signal));
    })
    .map_err(CommandError::internal)?;

    let nic = match &topology.nic {
        Some(nic) => Some(NicThread::start(nic, &sender)?),
        None => None,
    };
    let socket = nic.as_ref().map(|nic| nic.socket.as_path());
    let mut vms = VmProcesses::default();
    for (index, vm) in topology.vms.iter().enumerate() {
        if let Err(error) = vms.start(index, vm, socket, &sender) {
            vms.take_down(status::INTERNAL);
            vms.wait(&events);
            return Err(CommandError::internal(error));
        }
    }
    let status = vms.wait(&events);
    if let Some(nic) = nic {
        nic.finish()?;
    }
    Ok(status)
}

/// The NIC, served by a thread of this process.
struct NicThread {
    socket: PathBuf,
    stopper: Stopper,
    thread: thread::JoinHandle<Server>,
    stats: Option<(File, PathBuf)>,
    /// Holds the socket; removed in the end.
    _directory: TempDir,
}

impl NicThread {
    fn start(nic: &NicConfig, events: &Sender<Event>) -> Result<NicThread, CommandError> {
        let directory = tempfile::Builder::new()
            .prefix("postern-up-")
            .tempdir()
            .context("cannot make a private directory for the NIC's socket")
            .map_err(CommandError::internal)?;
        let socket = directory.path().join("nic");
        let mut options = Options::new(&socket, nic.geometry);
        options.image.clone_from(&nic.image);
        options.unlearned.clone_from(&nic.no_learning);
        let mut server = nic::serve::bind(&options)?;
        let stats = match &nic.stats {
            Some(path) => Some((output::create(path)?, path.clone())),
            None => None,
        };
        let stopper = server.stopper();
        let events = events.clone();
        let thread = thread::Builder::new()
            .name("nic".to_owned())
            .spawn(move || {
                if let Err(error) = server.run() {
                    let _ = events.send(Event::NicLost(format!("{:#}", anyhow!(error))));
                }
                server
            })
            .context("cannot start a thread for the NIC")
            .map_err(CommandError::internal)?;
        Ok(NicThread {
            socket,
            stopper,
            thread,
            stats,
            _directory: directory,
        })
    }

    fn finish(self) -> Result<(), CommandError> {
        self.stopper.stop();
        let server = self
            .thread
            .join()
            .map_err(|_| CommandError::internal(anyhow!("the NIC's thread panicked")))?;
        match self.stats {
            Some((file, path)) => output::write_json(file, &path, &server.counters()),
            None => Ok(()),
        }
    }
}

/// A VM whose process has not ended.
struct VmProcess {
    index: usize,
    name: String,
    process: OwnedFd,
}

/// The VMs that run, and what the first that failed ended with.
#[derive(Default)]
struct VmProcesses {
    running: Vec<VmProcess>,
    failed: Option<u8>,
    /// When those that still run are killed.
    deadline: Option<Instant>,
}

impl VmProcesses {
    /// Starts the process of a VM.
    fn start(
        &mut self,
        index: usize,
        vm: &VmConfig,
        socket: Option<&Path>,
        events: &Sender<Event>,
    ) -> anyhow::Result<()> {
        let (mut child, printed) = process::start(vm, socket)?;
        let watched = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let process = match watched {
            Ok(process) => process,
            Err(error) => {
                // Not waited for by anybody, so the number is still its own.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error).with_context(|| format!("cannot watch VM {}", vm.name));
            }
        };
        let (name, events) = (vm.name.clone(), events.clone());
        let thread = thread::Builder::new()
            .name(format!("vm-{name}"))
            .spawn(move || {
                process::print_lines(&name, printed);
                let status = child.wait();
                let _ = events.send(Event::Ended { index, status });
            });
        if let Err(error) = thread {
            let _ = pidfd_send_signal(&process, Signal::KILL);
            return Err(error).with_context(|| format!("cannot watch VM {}", vm.name));
        }
        self.running.push(VmProcess {
            index,
            name: vm.name.clone(),
            process,
        });
        Ok(())
    }

    /// Waits until no VM runs; returns the exit status.
    fn wait(mut self, events: &Receiver<Event>) -> u8 {
        while !self.running.is_empty() {
            let event = match self.deadline {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    events.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                }
            };
            match event {
                Ok(Event::Ended { index, status }) => self.ended(index, status),
                Ok(Event::NicLost(reason)) => {
                    eprintln!("postern: {reason}");
                    self.take_down(status::NIC);
                }
                Ok(Event::Signal(signal)) => {
                    self.take_down(status::SIGNAL_BASE.saturating_add(signal as u8));
                }
                Err(_) => {
                    self.signal(Signal::KILL);
                    self.deadline = None;
                }
            }
        }
        self.failed.unwrap_or(0)
    }

    fn ended(&mut self, index: usize, status: io::Result<ExitStatus>) {
        let Some(at) = self.running.iter().position(|vm| vm.index == index) else {
            return;
        };
        let vm = self.running.remove(at);
        let status = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => code as u8,
                (None, signal) => status::SIGNAL_BASE.saturating_add(signal.unwrap_or(0) as u8),
            },
            Err(_) => status::INTERNAL,
        };
        eprintln!("postern: VM {} ended with status {status}", vm.name);
        if status != 0 {
            self.take_down(status);
        }
    }

    /// Tells all VMs to end, because of that status; a second call changes nothing.
    fn take_down(&mut self, status: u8) {
        if self.failed.is_none() {
            self.failed = Some(status);
            self.deadline = Some(Instant::now() + TERMINATION_TIMEOUT);
            self.signal(Signal::TERM);
        }
    }

    fn signal(&self, signal: Signal) {
        for vm in &self.running {
            // The only error left is that it has just ended.
            let _ = pidfd_send_signal(&vm.process, signal);
        }
    }
}
