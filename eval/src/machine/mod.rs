//! The emulated Intel machine: one call boots it, runs jobs in it and brings the results back.
//!
//! ```no_run
//! # use postern_eval::{job::Job, machine::{Machine, MachineError, Platform, Kernel}};
//! # fn example(platform: &Platform, kernel: &Kernel) -> Result<(), MachineError> {
//! let done = Machine::new(platform, kernel).run(Job::new("hello", "echo hello; uname -r"))?;
//! assert_eq!(done.status, Some(0));
//! # Ok(())
//! # }
//! ```
//!
//! The machine is Bochs with VMX, EPT and VMFUNC; its clock counts instructions. It boots a disc
//! with a kernel and an initial file system ([`initramfs`]) whose first process is
//! `postern-init`. Equal machines execute equal instructions.

mod bochs;
pub mod console;
mod contents;
mod directory;
mod error;
pub mod initramfs;
mod iso;
mod results;
mod shell;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use postern_init::Record;

use crate::interrupt;
use crate::job::{Done, Job};
use bochs::{Emulator, Serial};
use console::Console;
pub use error::MachineError;
use results::{cause_of_death, collect};

/// Programs and firmware that a machine is made of.
#[derive(Clone, Debug)]
pub struct Platform {
    /// The emulator, with Postern's patches.
    pub bochs: PathBuf,
    /// Its BIOS.
    pub bios: PathBuf,
    /// Its VGA BIOS.
    pub vga_bios: PathBuf,
    /// Boot loader of the disc, `isolinux.bin`.
    pub isolinux: PathBuf,
    /// The boot loader's library, `ldlinux.c32`.
    pub ldlinux: PathBuf,
    /// Shell and tools, linked statically.
    pub busybox: PathBuf,
    /// First process, linked statically.
    pub init: PathBuf,
    /// Where machines have their directories.
    pub run: PathBuf,
}

/// A kernel to boot.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Compressed image.
    pub image: PathBuf,
}

/// What became of a boot.
#[derive(Debug)]
pub struct Outcome {
    /// The jobs that were finished, in order. If there are fewer than asked for, `death` says why.
    pub jobs: Vec<Done>,
    /// What the job that was not finished has printed, and the kernel logged.
    pub unfinished: Done,
    /// Why the machine ended before its jobs did.
    pub death: Option<MachineError>,
    /// All that appeared on the console.
    pub console: String,
    /// Real time that it took.
    pub elapsed: Duration,
}

/// A machine to be.
#[derive(Clone)]
pub struct Machine<'a> {
    platform: &'a Platform,
    kernel: &'a Kernel,
    modules: Vec<(PathBuf, String)>,
    arguments: String,
    memory_mb: u32,
    timeout: Duration,
    streaming: bool,
    watcher: Option<&'a (dyn Fn(&str) + Sync)>,
    kept: bool,
}

impl<'a> Machine<'a> {
    /// A machine with one CPU, 512 MiB of memory and no module.
    pub fn new(platform: &'a Platform, kernel: &'a Kernel) -> Self {
        Self {
            platform,
            kernel,
            modules: Vec::new(),
            arguments: String::new(),
            memory_mb: 512,
            timeout: Duration::from_secs(300),
            streaming: false,
            watcher: None,
            kept: false,
        }
    }

    /// Loads a kernel module, after those named before, with parameters separated by blanks.
    pub fn module(mut self, path: impl Into<PathBuf>, params: &str) -> Self {
        self.modules.push((path.into(), params.to_owned()));
        self
    }

    /// Adds arguments to the kernel's command line.
    pub fn arguments(mut self, arguments: &str) -> Self {
        self.arguments = arguments.to_owned();
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
    pub fn run(&self, job: Job) -> Result<Done, MachineError> {
        let mut outcome = self.run_all(&[job])?;
        match (outcome.jobs.pop(), outcome.death) {
            (Some(done), None) => Ok(done),
            (_, Some(death)) => Err(death),
            (None, None) => Err(MachineError::Ended {
                tail: console::tail(&outcome.console),
            }),
        }
    }

    /// Boots, runs jobs one after another and switches off.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the machine cannot be started or is interrupted. Its death on the way is
    /// part of the [`Outcome`].
    pub fn run_all(&self, jobs: &[Job]) -> Result<Outcome, MachineError> {
        let directory = contents::prepare(self, jobs, false)?;
        let start = Instant::now();
        let mut emulator = Emulator::start(
            directory.path(),
            self.platform,
            self.memory_mb,
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
        Ok(Outcome {
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
        let directory = contents::prepare(self, jobs, true)?;
        shell::attend(|terminal| {
            let serial = Serial::Terminal(terminal);
            Emulator::start(directory.path(), self.platform, self.memory_mb, serial)
        })
    }
}
