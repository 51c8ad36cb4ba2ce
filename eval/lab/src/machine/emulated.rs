//! The emulated machine: what it is made of, its boot, and what came of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use postern_init::Record;

use super::bochs::{Emulator, Serial};
use super::console::Console;
use super::disc::{self, Contents};
use super::error::MachineError;
use super::files::{Kernel, MachineFiles};
use super::results::{cause_of_death, collect};
use super::shell;
use crate::job::{Job, JobOutcome};
use crate::{diagnosis, interrupt};

/// Outcome of a boot.
#[derive(Debug)]
pub struct BootOutcome {
    /// The jobs that were finished, in order. If there are fewer than asked for, `death` says why.
    pub jobs: Vec<JobOutcome>,
    /// Outcome so far of the job that was not finished.
    pub unfinished: JobOutcome,
    /// Reason why the machine ended before its jobs did.
    pub death: Option<MachineError>,
    /// Text of the console.
    pub console: String,
    /// Real time that it took.
    pub elapsed: Duration,
}

/// A machine that can be booted: its contents, and how a boot is followed.
#[derive(Clone)]
pub struct EmulatedMachine<'a> {
    contents: Contents<'a>,
    memory_mb: u32,
    timeout: Duration,
    streaming: bool,
    watcher: Option<&'a (dyn Fn(&str) + Sync)>,
    kept: bool,
}

impl std::fmt::Debug for EmulatedMachine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmulatedMachine")
            .field("memory_mb", &self.memory_mb)
            .finish_non_exhaustive()
    }
}

impl<'a> EmulatedMachine<'a> {
    /// A machine with one CPU, 512 MiB of memory and no module.
    pub fn new(files: &'a MachineFiles, kernel: &'a Kernel) -> Self {
        Self {
            contents: Contents {
                files,
                kernel,
                modules: Vec::new(),
                arguments: String::new(),
            },
            memory_mb: 512,
            timeout: Duration::from_secs(300),
            streaming: false,
            watcher: None,
            kept: false,
        }
    }

    /// Loads a kernel module, after those named before, with parameters separated by blanks.
    pub fn module(mut self, path: impl Into<PathBuf>, params: &str) -> Self {
        self.contents.modules.push((path.into(), params.to_owned()));
        self
    }

    /// Adds arguments to the kernel's command line.
    pub fn arguments(mut self, arguments: &str) -> Self {
        self.contents.arguments = arguments.to_owned();
        self
    }

    /// Sets the size of memory.
    pub fn memory_mb(mut self, megabytes: u32) -> Self {
        self.memory_mb = megabytes;
        self
    }

    /// Sets the real time after which the machine is given up.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Copies the console to standard output while the machine runs.
    pub fn streaming(mut self, yes: bool) -> Self {
        self.streaming = yes;
        self
    }

    /// Has `watcher` called with each line of the console while the machine runs.
    pub fn watched(mut self, watcher: &'a (dyn Fn(&str) + Sync)) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// Leaves the machine's directory behind, and says where it is.
    pub fn kept(mut self, yes: bool) -> Self {
        self.kept = yes;
        self
    }

    /// Boots, runs one job and switches off.
    ///
    /// # Errors
    ///
    /// [`MachineError`], also when the machine dies of the job. A job that fails is no error here.
    pub fn run(&self, job: Job) -> Result<JobOutcome, MachineError> {
        let mut outcome = self.run_all(&[job])?;
        match (outcome.jobs.pop(), outcome.death) {
            (Some(done), None) => Ok(done),
            (_, Some(death)) => Err(death),
            (None, None) => Err(MachineError::Ended {
                tail: diagnosis::tail(&outcome.console),
            }),
        }
    }

    /// Boots, runs jobs one after another and switches off.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the machine cannot be started or is interrupted. Its death on the way is
    /// part of the [`BootOutcome`].
    pub fn run_all(&self, jobs: &[Job]) -> Result<BootOutcome, MachineError> {
        let (directory, disks) = disc::prepare(&self.contents, jobs, false, self.kept)?;
        let start = Instant::now();
        let mut emulator = Emulator::start(
            directory.path(),
            self.contents.files,
            (self.memory_mb, disks),
            Serial::File,
        )?;
        let mut console = Console::new(emulator.console_path(), self.streaming, self.watcher);
        let mut timed_out = None;
        while emulator.try_wait()?.is_none() {
            if interrupt::requested() {
                return Err(MachineError::Interrupted);
            }
            console.follow();
            if start.elapsed() > self.timeout {
                timed_out = Some(self.timeout);
                emulator.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        console.follow();
        let records = postern_init::decode(&emulator.output())?;
        let death = (records.last() != Some(&Record::End))
            .then(|| cause_of_death(&records, &console.text, &emulator.log(), timed_out));
        let mut jobs = collect(records);
        let unfinished = jobs.pop().unwrap_or_default();
        Ok(BootOutcome {
            jobs,
            unfinished,
            death,
            console: console.text,
            elapsed: start.elapsed(),
        })
    }

    /// Boots, runs jobs and gives the user a shell on this terminal until it ends.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the machine cannot be started, or if standard input is no terminal.
    pub fn shell(&self, jobs: &[Job]) -> Result<(), MachineError> {
        let (directory, disks) = disc::prepare(&self.contents, jobs, true, self.kept)?;
        shell::attend(|terminal| {
            let serial = Serial::Terminal(terminal);
            Emulator::start(
                directory.path(),
                self.contents.files,
                (self.memory_mb, disks),
                serial,
            )
        })
    }
}
