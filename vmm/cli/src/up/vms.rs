//! The VMs of `postern up`: one process each, watched until all have ended.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use postern_vmm::console::Destination;
use postern_vmm::topology::VmConfig;
use postern_vmm::{control, status};
use rustix::process::{Signal, pidfd_send_signal};

use super::console::ConsoleFile;
use super::event::Event;
use super::process;
use crate::output;

/// How long a VM has to end by itself once it is told to.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what a killed VM has printed may wait for a reader.
const READER_TIMEOUT: Duration = Duration::from_secs(1);

/// How often VMs that start are asked whether they run.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A VM whose process has not ended.
struct VmProcess {
    index: usize,
    name: String,
    /// The file that its console goes to, if it is not printed.
    console: Option<ConsoleFile>,
    process: OwnedFd,
    /// Where it answers once it runs.
    control: PathBuf,
}

/// The VMs that run, and what the first that failed ended with.
#[derive(Default)]
pub struct VmProcesses {
    running: Vec<VmProcess>,
    failed: Option<u8>,
    /// When those that still run are killed, or, once that is done, left alone.
    deadline: Option<Instant>,
    killed: bool,
}

impl VmProcesses {
    /// Starts the process of a VM.
    pub fn start(
        &mut self,
        index: usize,
        vm: &VmConfig,
        socket: Option<&Path>,
        control: &Path,
        events: &Sender<Event>,
    ) -> anyhow::Result<()> {
        let console = match &vm.serial {
            Some(Destination::File(file)) => Some(ConsoleFile::new(file)),
            _ => None,
        };
        let (mut child, printed) = process::start(vm, socket, control)?;
        let process =
            process::watch(&mut child).with_context(|| format!("cannot watch VM {}", vm.name))?;
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
            console,
            process,
            control: control.to_owned(),
        });
        Ok(())
    }

    /// Waits until no VM runs; returns the exit status.
    pub fn wait(mut self, events: &Receiver<Event>) -> u8 {
        while !self.running.is_empty() {
            let event = match self.deadline {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    events.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                }
            };
            match event {
                Ok(event) => self.happened(event),
                // Only what they have printed is left of them, and nobody reads it.
                Err(_) if self.killed => break,
                Err(_) => {
                    self.signal(Signal::KILL);
                    self.killed = true;
                    self.deadline = Some(Instant::now() + READER_TIMEOUT);
                }
            }
        }
        self.failed.unwrap_or(0)
    }

    /// Waits until each VM runs, or has run to its end; false if all are being taken down before.
    pub fn until_all_run(&mut self, events: &Receiver<Event>) -> bool {
        let mut awaited: Vec<usize> = self.running.iter().map(|vm| vm.index).collect();
        while self.failed.is_none() {
            let starts = |vm: &&VmProcess| awaited.contains(&vm.index);
            let waits = |vm: &VmProcess| control::report(&vm.control).is_err();
            let starting = self.running.iter().filter(starts);
            awaited = starting.filter(|vm| waits(vm)).map(|vm| vm.index).collect();
            if awaited.is_empty() {
                return true;
            }
            if let Ok(event) = events.recv_timeout(LOOK_INTERVAL) {
                self.happened(event);
            }
        }
        false
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Ended { index, status } => self.ended(index, status),
            Event::NicLost(reason) => {
                output::tell(reason);
                self.take_down(status::NIC);
            }
            Event::Signal(signal) => {
                self.take_down(status::SIGNAL_BASE.saturating_add(signal as u8));
            }
        }
    }

    fn ended(&mut self, index: usize, status: io::Result<ExitStatus>) {
        let Some(at) = self.running.iter().position(|vm| vm.index == index) else {
            return;
        };
        let vm = self.running.remove(at);
        let status = status.map_or(status::INTERNAL, process::status_of);
        output::tell(format_args!("VM {} ended with status {status}", vm.name));
        if status != 0 {
            if self.failed.is_none() {
                show_end_of_console(&vm);
            }
            self.take_down(status);
        }
    }

    /// Tells all VMs to end, because of that status; a second call changes nothing.
    pub fn take_down(&mut self, status: u8) {
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

/// Shows the end of a console that went to a file.
fn show_end_of_console(vm: &VmProcess) {
    let Some(console) = &vm.console else {
        return;
    };
    let lines = console.last_lines();
    if !lines.is_empty() {
        output::tell(format_args!(
            "the last lines of {}:",
            console.path().display()
        ));
    }
    for line in lines {
        output::complain(format_args!("{} | {line}\n", vm.name));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::process::Command;
    use std::sync::mpsc;

    use super::*;

    /// As one whose output nobody reads: nobody tells of its end.
    #[test]
    fn a_vm_of_whose_end_nobody_hears_is_left_alone() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = process::watch(&mut child).unwrap();
        let vm = VmProcess {
            index: 0,
            name: "a".to_owned(),
            console: None,
            process,
            control: PathBuf::new(),
        };
        let mut vms = VmProcesses::default();
        vms.running.push(vm);
        let (_sender, events) = mpsc::channel();
        vms.take_down(143);
        assert_eq!(vms.wait(&events), 143);
        assert!(!child.wait().unwrap().success());
    }
}
