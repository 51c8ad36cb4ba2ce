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
//! ([`iso`]) with a kernel and an initial file system ([`initramfs`]) whose first process is
//! `postern-init`. Equal machines execute equal instructions.

mod bochs;
pub mod console;
mod directory;
pub mod initramfs;
mod iso;
mod shell;

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use postern_init::{DecodeError, PLAN_PATH, Plan, Record};

use crate::interrupt;
use crate::job::{Content, Done, Job};
use bochs::{Emulator, Serial};
use directory::RunDirectory;
use initramfs::Initramfs;

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
    /// Modules that it needs before all others.
    pub modules: Vec<PathBuf>,
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

/// A machine that could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file or process could not be handled.
    #[error("emulated machine: {what}: {source}")]
    Prepare {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A tool failed.
    #[error("emulated machine: {tool} failed: {message}")]
    Tool {
        /// Its name.
        tool: String,
        /// What it said.
        message: String,
    },
    /// The emulator could not be started.
    #[error("emulated machine: cannot start {}: {source}; `cargo lab setup` builds it", program.display())]
    Start {
        /// The emulator.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine was not done in time.
    #[error("emulated machine: not done after {} s; the end of its console:\n{tail}", after.as_secs())]
    Timeout {
        /// The time it was given.
        after: Duration,
        /// End of the console.
        tail: String,
    },
    /// Its kernel gave up.
    #[error("emulated machine: {line}; the end of its console:\n{tail}")]
    KernelPanic {
        /// The kernel's last line.
        line: String,
        /// End of the console.
        tail: String,
    },
    /// The emulator gave up, for example at a triple fault.
    #[error("emulated machine: Bochs: {line}; the end of its console:\n{tail}")]
    Emulator {
        /// Bochs' reason.
        line: String,
        /// End of the console.
        tail: String,
    },
    /// It ended without a word.
    #[error("emulated machine: it ended before its work was done; the end of its console:\n{tail}")]
    Ended {
        /// End of the console.
        tail: String,
    },
    /// A kernel module could not be loaded.
    #[error("emulated machine: loading {module}: {error}; the end of the kernel's log:\n{tail}")]
    Module {
        /// Its file.
        module: String,
        /// Why.
        error: String,
        /// End of the kernel's log.
        tail: String,
    },
    /// Its output has no sense.
    #[error("emulated machine: {0}")]
    Records(#[from] DecodeError),
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
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
        let directory = self.prepare(jobs, false)?;
        let start = Instant::now();
        let mut emulator = Emulator::start(
            directory.path(),
            self.platform,
            self.memory_mb,
            Serial::File,
        )?;
        let mut console = Console::new(emulator.console_path(), self.streaming, self.watcher);
        let mut doomed: Option<Instant> = None;
        let mut timed_out = false;
        while emulator.try_wait()?.is_none() {
            if interrupt::requested() {
                return Err(MachineError::Interrupted);
            }
            console.follow();
            // After a panic the kernel has a moment for its last words.
            if doomed.is_none() && console::panic(&console.text).is_some() {
                doomed = Some(Instant::now() + Duration::from_secs(1));
            }
            timed_out = start.elapsed() > self.timeout;
            if timed_out || doomed.is_some_and(|end| Instant::now() > end) {
                emulator.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        console.follow();
        let records = postern_init::decode(&emulator.output())?;
        let death = (records.last() != Some(&Record::End))
            .then(|| self.cause_of_death(&records, &console.text, &emulator.log(), timed_out));
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
        let directory = self.prepare(jobs, true)?;
        shell::attend(|terminal| {
            let serial = Serial::Terminal(terminal);
            Emulator::start(directory.path(), self.platform, self.memory_mb, serial)
        })
    }

    fn prepare(&self, jobs: &[Job], shell: bool) -> Result<RunDirectory, MachineError> {
        let directory = RunDirectory::new(&self.platform.run, self.kept)?;
        let mut plan = Plan {
            shell,
            ..Plan::default()
        };
        let mut root = Initramfs::new();
        root.device("dev/console", 5, 1)
            .directory("root")
            .directory("sbin");
        root.link("lib64", "lib").directory("lib");
        root.file("init", read(&self.platform.init)?);
        root.file("bin/busybox", read(&self.platform.busybox)?);
        let needed = self.kernel.modules.iter().map(|path| (path, ""));
        let wanted = self
            .modules
            .iter()
            .map(|(path, params)| (path, params.as_str()));
        for (path, params) in needed.chain(wanted) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let guest = format!("/lib/modules/{name}");
            root.file(&guest, stripped(path, &directory)?);
            plan.modules.push(postern_init::Module {
                path: guest,
                params: params.to_owned(),
            });
        }
        add_jobs(jobs, &mut root, &mut plan)?;
        let json = serde_json::to_vec(&plan).map_err(|error| MachineError::Prepare {
            what: "writing the plan".to_owned(),
            source: error.into(),
        })?;
        root.file(PLAN_PATH, json);
        iso::make(
            directory.path(),
            self.platform,
            &self.kernel.image,
            &root,
            &self.arguments,
        )?;
        Ok(directory)
    }

    fn cause_of_death(
        &self,
        records: &[Record],
        text: &str,
        log: &str,
        timed_out: bool,
    ) -> MachineError {
        let tail = console::tail(text);
        if let Some(Record::ModuleFailed { path, error }) = records.last() {
            let kernel_log: String = records
                .iter()
                .filter_map(|record| match record {
                    Record::KernelLog { text, .. } => Some(text.as_str()),
                    _ => None,
                })
                .collect();
            let tail = console::tail(&kernel_log);
            return MachineError::Module {
                module: path.clone(),
                error: error.clone(),
                tail,
            };
        }
        if let Some(line) = console::panic(text) {
            return MachineError::KernelPanic {
                line: line.to_owned(),
                tail,
            };
        }
        if timed_out {
            return MachineError::Timeout {
                after: self.timeout,
                tail,
            };
        }
        match console::emulator_panic(log) {
            Some(line) => MachineError::Emulator {
                line: line.to_owned(),
                tail,
            },
            None => MachineError::Ended { tail },
        }
    }
}

/// Puts the files of jobs into the archive, each content once, and their commands into the plan.
fn add_jobs(jobs: &[Job], root: &mut Initramfs, plan: &mut Plan) -> Result<(), MachineError> {
    let mut store: HashMap<&Content, String> = HashMap::new();
    for (index, job) in jobs.iter().enumerate() {
        let dir = format!("/job/{index}");
        root.directory(&dir);
        for (name, content) in &job.files {
            let path = if name.starts_with('/') {
                name.clone()
            } else {
                format!("{dir}/{name}")
            };
            match store.get(content) {
                Some(first) => root.link(&path, first),
                None => {
                    store.insert(content, path.clone());
                    let bytes = match content {
                        Content::Bytes(bytes) => bytes.clone(),
                        Content::File(path) => read(path)?,
                    };
                    root.file(&path, bytes)
                }
            };
        }
        plan.commands.push(postern_init::Command {
            dir,
            script: job.script.clone(),
            fetch: job.fetch.clone(),
            timeout_s: job.timeout.as_secs(),
        });
    }
    Ok(())
}

/// Sorts records by job. The last element is the job that was not finished, often an empty one.
fn collect(records: Vec<Record>) -> Vec<Done> {
    let mut finished = Vec::new();
    let mut current = Done::default();
    for record in records {
        match record {
            Record::Output { data, .. } => current.output.extend(data),
            Record::KernelLog { text, .. } => current.kernel_log.push_str(&text),
            Record::File { name, data, .. } => {
                current.files.insert(name, data);
            }
            Record::FileMissing { name, error, .. } => {
                current.missing.insert(name, error);
            }
            Record::Status { status, .. } => {
                current.status = status;
                finished.push(std::mem::take(&mut current));
            }
            Record::ModuleFailed { .. } | Record::End => {}
        }
    }
    finished.push(current);
    finished
}

/// The console's file, as far as it has been read.
struct Console<'a> {
    path: PathBuf,
    bytes: u64,
    text: String,
    streaming: bool,
    watcher: Option<&'a (dyn Fn(&str) + Sync)>,
    /// Bytes of `text` in lines that the watcher has seen.
    watched: usize,
}

impl<'a> Console<'a> {
    fn new(path: PathBuf, streaming: bool, watcher: Option<&'a (dyn Fn(&str) + Sync)>) -> Self {
        Self {
            path,
            bytes: 0,
            text: String::new(),
            streaming,
            watcher,
            watched: 0,
        }
    }

    fn follow(&mut self) {
        let mut news = Vec::new();
        let length = std::fs::File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.bytes))?;
            file.read_to_end(&mut news)
        });
        self.bytes += length.unwrap_or(0) as u64;
        let news = String::from_utf8_lossy(&news).replace('\r', "");
        if self.streaming && !news.is_empty() {
            let mut out = io::stdout();
            // A closed standard output is no reason to stop the machine.
            let _ = out.write_all(news.as_bytes()).and_then(|()| out.flush());
        }
        self.text.push_str(&news);
        let Some(watcher) = self.watcher else { return };
        while let Some(length) = self.text[self.watched..].find('\n') {
            watcher(&self.text[self.watched..self.watched + length]);
            self.watched += length + 1;
        }
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, MachineError> {
    std::fs::read(path).map_err(|source| MachineError::Prepare {
        what: format!("reading {}", path.display()),
        source,
    })
}

/// A module without what only debuggers need, which is most of it.
fn stripped(module: &std::path::Path, directory: &RunDirectory) -> Result<Vec<u8>, MachineError> {
    // A missing module gets the message of a missing file, not that of the tool.
    read(module)?;
    let out = directory.path().join("module.ko");
    let mut strip = Command::new("strip");
    tool(strip.args(["-g", "-R", ".BTF", "-o"]).arg(&out).arg(module))?;
    let bytes = read(&out)?;
    // What is left behind would only fill the directory.
    let _ = std::fs::remove_file(&out);
    Ok(bytes)
}

/// Runs a tool that says nothing if all is well.
fn tool(command: &mut Command) -> Result<(), MachineError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| MachineError::Prepare {
        what: format!("running {name}"),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MachineError::Tool {
        tool: name,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(command: u32, status: Option<i32>) -> Record {
        Record::Status { command, status }
    }

    #[test]
    fn records_are_sorted_by_job() {
        let jobs = collect(vec![
            Record::Output {
                command: 0,
                data: b"a".to_vec(),
            },
            Record::Output {
                command: 0,
                data: b"b".to_vec(),
            },
            Record::File {
                command: 0,
                name: "x".into(),
                data: vec![1],
            },
            status(0, Some(0)),
            Record::Output {
                command: 1,
                data: b"c".to_vec(),
            },
        ]);
        assert_eq!(jobs.len(), 2);
        assert_eq!(
            (jobs[0].output.as_slice(), jobs[0].status),
            (&b"ab"[..], Some(0))
        );
        assert_eq!(jobs[0].files["x"], [1]);
        assert_eq!(
            (jobs[1].output.as_slice(), jobs[1].status),
            (&b"c"[..], None)
        );
    }

    #[test]
    fn one_content_is_stored_once() {
        let jobs = [1, 2].map(|n| Job::new(&n.to_string(), "true").bytes("x", b"same".as_slice()));
        let mut root = Initramfs::new();
        let mut plan = Plan::default();
        add_jobs(&jobs, &mut root, &mut plan).unwrap();
        let mut bytes = Vec::new();
        root.write(&mut bytes).unwrap();
        let count = bytes.windows(4).filter(|window| window == b"same").count();
        assert_eq!((count, plan.commands.len()), (1, 2));
    }
}
