//! `postern up --detach`: the topology runs in a process of its own, and this one ends when all VMs
//! run.
//!
//! ```text
//!   postern up --detach             postern up --detached
//!     starts it ------------------->  starts NICs and VMs; what goes wrong goes to both outputs,
//!     waits for a byte, or the end    which are those of the first process
//!                 <-----------------  all VMs run: leaves outputs, session and, by the byte, the
//!     ends with 0                     first process
//!     or with its status              or ends with the status of what went wrong
//! ```
#![deny(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context, anyhow};
use postern_vmm::signals;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process;
use crate::error::CommandError;

/// What the other process writes when all VMs run.
const READY: u8 = b'r';

/// Starts the other process and waits until all VMs run, or it has ended; returns the exit status.
pub fn start(topology: &Path, log: Option<&Path>) -> Result<u8, CommandError> {
    let (mut ready, writer) = io::pipe()
        .context("cannot make a pipe")
        .map_err(CommandError::internal)?;
    let mut child = spawn(topology, log, writer)
        .context("cannot start the process that runs the topology")
        .map_err(CommandError::internal)?;
    pass_signals_on(&child)?;
    let mut byte = [0];
    if let Ok(1) = ready.read(&mut byte)
        && byte == [READY]
    {
        return Ok(0);
    }
    let ended = child
        .wait()
        .context("cannot wait for the process that runs the topology")
        .map_err(CommandError::internal)?;
    Ok(process::status_of(ended))
}

fn spawn(topology: &Path, log: Option<&Path>, ready: PipeWriter) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["up", "--detached"]);
    if let Some(log) = log {
        command.arg("--log").arg(log);
    }
    // It reads nothing: its standard input is where it says that all VMs run.
    command.arg("--").arg(topology).stdin(ready).spawn()
}

/// A signal that is for this process alone is for the other one, too.
fn pass_signals_on(child: &Child) -> Result<(), CommandError> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .context("cannot watch the process that runs the topology")
        .map_err(CommandError::internal)?;
    let pass = move |number| {
        if let Some(signal) = Signal::from_named_raw(number) {
            // If it has ended, there is nothing to be told.
            let _ = pidfd_send_signal(&process, signal);
        }
    };
    signals::on_ending_signal(pass).map_err(CommandError::internal)
}

/// What the other process has of the first one: the way to tell that all VMs run, and the file that
/// outputs go to from then on.
#[derive(Debug)]
pub struct Detached {
    ready: File,
    output: File,
}

impl Detached {
    /// Takes it, and opens the file.
    pub fn new(log: Option<&Path>) -> Result<Detached, CommandError> {
        let taken = io::stdin().as_fd().try_clone_to_owned();
        let ready = taken
            .context("cannot keep standard input")
            .map_err(CommandError::internal)?;
        let mut options = OpenOptions::new();
        let output = match log {
            Some(log) => options.create(true).append(true).mode(0o600).open(log),
            None => options.write(true).open("/dev/null"),
        };
        let output = output
            .with_context(|| {
                format!(
                    "cannot write {}",
                    log.unwrap_or(Path::new("/dev/null")).display()
                )
            })
            .map_err(CommandError::configuration)?;
        Ok(Detached {
            ready: ready.into(),
            output,
        })
    }

    /// Lets the first process end, and has its outputs no more. An error when that one is gone: then
    /// nobody knows that anything runs.
    pub fn leave(mut self) -> anyhow::Result<()> {
        let outputs: [fn(OwnedFd) -> rustix::io::Result<()>; 2] = [
            |file| rustix::stdio::dup2_stdout(file),
            |file| rustix::stdio::dup2_stderr(file),
        ];
        for replace in outputs {
            let file = self
                .output
                .try_clone()
                .context("cannot duplicate a descriptor")?;
            replace(file.into()).context("cannot replace an output")?;
        }
        let nothing = File::open("/dev/null").context("cannot open /dev/null")?;
        rustix::stdio::dup2_stdin(nothing).context("cannot replace standard input")?;
        // Signals of that terminal are not for this process any more.
        rustix::process::setsid().context("cannot begin a session")?;
        let told = self.ready.write_all(&[READY]);
        told.map_err(|error| anyhow!(error).context("postern up --detach has gone"))
    }
}
