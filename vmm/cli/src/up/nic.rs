//! A NIC of `postern up`: a process of its own owns it, as `postern nic` does, confined unless the
//! topology says otherwise.
#![deny(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use postern_nic_client::request::{self, ClientError};
use postern_vmm::topology::NicConfig;
use postern_vmm::{socket_path, status};
use rustix::process::{Signal, pidfd_send_signal};
use serde::de::IgnoredAny;

use super::event::Event;
use super::process;
use crate::confine::Seccomp;
use crate::error::CommandError;
use crate::output;
use crate::run_dir::Place;

/// A NIC whose owner runs.
pub struct NicProcess {
    socket: PathBuf,
    /// What people call it.
    name: String,
    process: OwnedFd,
    /// Waits for its end.
    watcher: JoinHandle<io::Result<ExitStatus>>,
}

impl NicProcess {
    /// Starts the owner of the NIC, and waits until it serves.
    pub fn start(
        nic: &NicConfig,
        place: &Place,
        events: &Sender<Event>,
    ) -> Result<NicProcess, CommandError> {
        let socket = match &nic.socket {
            Some(socket) => socket.clone(),
            None => place.nic(nic.name.as_deref()),
        };
        socket_path::check(&socket).map_err(CommandError::configuration)?;
        let name = match &nic.name {
            Some(name) => format!("NIC {name}"),
            None => "the NIC".to_owned(),
        };
        let mut child = run(nic, &socket)
            .with_context(|| format!("cannot start the process of {name}"))
            .map_err(CommandError::internal)?;
        let handed_on = hand_on(child.stderr.take());
        let description = await_start(&mut child, &name).inspect_err(|_| {
            // What it said of the reason comes first.
            let _ = handed_on.map(JoinHandle::join);
        })?;
        match &nic.name {
            Some(name) => output::tell(format_args!("NIC {name}: {description}")),
            None => output::tell(description),
        }
        let process = process::watch(&mut child)
            .with_context(|| format!("cannot watch {name}"))
            .map_err(CommandError::internal)?;
        let (events, whose) = (events.clone(), name.clone());
        let watch = move || {
            let status = child.wait();
            let end = match &status {
                Ok(status) => format!("{whose} ended: {status}"),
                Err(error) => format!("{whose} is lost: {error}"),
            };
            // If it was to end, nobody listens any more.
            let _ = events.send(Event::NicLost(end));
            status
        };
        let watcher = thread::Builder::new().name("nic".to_owned()).spawn(watch);
        let watcher = watcher.map_err(|error| {
            let _ = pidfd_send_signal(&process, Signal::KILL);
            CommandError::internal(anyhow!(error).context(format!("cannot watch {name}")))
        })?;
        Ok(NicProcess {
            socket,
            name,
            process,
            watcher,
        })
    }

    /// Sets what the topology says of ports and captures; an error comes with its key, below that of
    /// the NIC.
    pub fn set_up(&self, nic: &NicConfig) -> Result<(), (String, ClientError)> {
        for (key, control) in nic.controls() {
            request::control::<IgnoredAny>(&self.socket, &control).map_err(|error| (key, error))?;
        }
        Ok(())
    }

    /// The NIC's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the NIC, which writes its counters.
    pub fn finish(self) -> Result<(), CommandError> {
        // The only error left is that it has ended.
        let _ = pidfd_send_signal(&self.process, Signal::TERM);
        let failed = |error| CommandError {
            status: status::NIC,
            error,
        };
        match self.watcher.join() {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(failed(anyhow!("{} ended: {status}", self.name))),
            Ok(Err(error)) => Err(failed(anyhow!("{} is lost: {error}", self.name))),
            Err(_) => Err(CommandError::internal(anyhow!(
                "the thread that watches {} panicked",
                self.name
            ))),
        }
    }
}

/// Prints on standard error what the process has to say. It has none of ours, which `postern up
/// --detach` gives up.
fn hand_on(said: Option<ChildStderr>) -> Option<JoinHandle<()>> {
    let mut said = said?;
    Some(thread::spawn(move || {
        // If nobody reads it, nothing is lost but that.
        let _ = io::copy(&mut said, &mut io::stderr());
    }))
}

/// Starts the process.
fn run(nic: &NicConfig, socket: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command
        .args(arguments(nic, socket))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A signal of the terminal is for this process alone, which ends the VMs first.
        .process_group(0);
    process::end_with_parent(&mut command);
    Ok(command.spawn()?)
}

/// Waits until the owner serves, and says so on its standard output; gives what it says.
fn await_start(child: &mut Child, name: &str) -> Result<String, CommandError> {
    let mut description = String::new();
    if let Some(output) = child.stdout.take() {
        // Without a whole line it has ended.
        let _ = BufReader::new(output).read_line(&mut description);
    }
    if description.ends_with('\n') {
        return Ok(description.trim_end().to_owned());
    }
    let _ = child.kill();
    let status = child.wait().map_err(CommandError::internal)?;
    Err(CommandError {
        // Those of `postern nic` mean the same.
        status: match status.code() {
            Some(code @ 1..) => code as u8,
            _ => status::NIC,
        },
        error: anyhow!("{name} cannot be started"),
    })
}

/// The flags of `postern nic` for a NIC.
fn arguments(nic: &NicConfig, socket: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["nic".into(), "--no-keeper".into(), "--quiet".into()];
    let mut flag = |name, value| arguments.push(process::joined(name, value));
    let geometry = nic.geometry;
    flag("--socket", socket.into());
    flag("--ports", geometry.ports().to_string().into());
    flag("--queues", geometry.queues().to_string().into());
    flag("--ring", geometry.ring().to_string().into());
    flag("--lanes", geometry.lanes().to_string().into());
    flag("--lane", geometry.lane().to_string().into());
    flag("--seccomp", Seccomp::from(nic.seccomp).name().into());
    if let Some(seconds) = nic.ageing {
        flag("--ageing", seconds.to_string().into());
    }
    let no_learning: Vec<String> = nic.no_learning.iter().map(u32::to_string).collect();
    let paths: Vec<&str> = nic.paths.iter().map(|path| path.name()).collect();
    for (name, list) in [
        ("--no-learning", no_learning.join(",")),
        ("--paths", paths.join(",")),
    ] {
        if !list.is_empty() {
            flag(name, list.into());
        }
    }
    for (name, file) in [("--image", &nic.image), ("--stats", &nic.stats)] {
        if let Some(file) = file {
            flag(name, file.clone().into());
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use postern_abi::platform::CallPath;
    use postern_abi::window::Geometry;

    use super::*;

    fn flags(nic: &NicConfig) -> Vec<String> {
        let flags = arguments(nic, Path::new("/s")).into_iter();
        flags
            .map(|flag| flag.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_nic_becomes_flags() -> Result<(), Box<dyn std::error::Error>> {
        let geometry = Geometry::new(4, 2, 1 << 18, 1 << 15)?;
        let nic = NicConfig {
            image: Some("/image".into()),
            paths: vec![CallPath::Elisa, CallPath::Direct],
            ageing: Some(7),
            no_learning: vec![1, 3],
            stats: Some("/stats".into()),
            seccomp: false,
            ..NicConfig::new(geometry)
        };
        let found = flags(&nic);
        for flag in [
            "--no-keeper",
            "--socket=/s",
            "--ports=4",
            "--queues=2",
            "--ring=262144",
            "--lane=32768",
            "--image=/image",
            "--paths=elisa,direct",
            "--ageing=7",
            "--no-learning=1,3",
            "--stats=/stats",
            "--seccomp=off",
        ] {
            assert!(found.iter().any(|found| found == flag), "{flag}: {found:?}");
        }
        let plain = flags(&NicConfig::new(geometry));
        assert!(plain.iter().any(|flag| flag == "--seccomp=on"), "{plain:?}");
        assert!(
            !plain.iter().any(|flag| flag.starts_with("--paths")),
            "{plain:?}"
        );
        Ok(())
    }
}
