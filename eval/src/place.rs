//! Where VMs run: on this host if it has VMFUNC and the patched KVM, in the emulated machine if not.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::interrupt;
use crate::job::{Content, Done, Job};
use crate::report::Source;
use crate::setup::{self, Flavour, Lab, Programs};

/// A place to run jobs.
pub enum Place {
    /// The emulated machine.
    Emulated(Box<Lab>),
    /// This host.
    Hardware(Programs),
}

impl Place {
    /// Takes the host if it can, and makes ready what the place needs.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn prepare() -> Result<Self> {
        if host_has_views() {
            return Ok(Self::Hardware(setup::programs()?));
        }
        Ok(Self::Emulated(Box::new(Lab::prepare(Flavour::Small)?)))
    }

    /// The label of what is measured there.
    pub fn source(&self) -> Source {
        match self {
            Self::Emulated(_) => Source::Emulated,
            Self::Hardware(_) => Source::Hardware,
        }
    }

    /// Programs to give to jobs.
    pub fn programs(&self) -> &Programs {
        match self {
            Self::Emulated(lab) => &lab.programs,
            Self::Hardware(programs) => programs,
        }
    }

    /// Runs jobs one after another, in the emulated machine in one boot; `kvm-intel` has these
    /// parameters there. On the host it is as its administrator loaded it.
    ///
    /// # Errors
    ///
    /// A place that could not run all jobs. A job that fails is no error.
    pub fn run(&self, jobs: &[Job], parameters: &str) -> Result<Vec<Done>> {
        match self {
            Self::Emulated(lab) => {
                let outcome = lab.machine(parameters).run_all(jobs)?;
                match outcome.death {
                    None => Ok(outcome.jobs),
                    Some(death) => {
                        let name = jobs
                            .get(outcome.jobs.len())
                            .map_or("its end", |job| &job.name);
                        Err(death).context(format!("the machine did not survive {name}"))
                    }
                }
            }
            Self::Hardware(_) => jobs.iter().map(run_on_host).collect(),
        }
    }
}

/// Whether KVM of this host can make views.
pub fn host_has_views() -> bool {
    postern_kvm::has_views()
}

fn run_on_host(job: &Job) -> Result<Done> {
    let directory = tempfile::tempdir().context("making a directory for a job")?;
    for (name, content) in &job.files {
        ensure!(
            !name.starts_with('/'),
            "{}: file {name} is not relative to the job",
            job.name
        );
        place_file(&directory.path().join(name), content)
            .with_context(|| format!("{}: making its file {name}", job.name))?;
    }
    let output = directory.path().join(".output");
    let out = File::create(&output).context("making a file for a job's output")?;
    let mut child = Command::new("/bin/sh")
        .args(["-c", &job.script])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(
            out.try_clone()
                .context("making a file for a job's output")?,
        )
        .stderr(out)
        .spawn()
        .context("running /bin/sh")?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for a job")? {
            use std::os::unix::process::ExitStatusExt;
            break Some(
                status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            );
        }
        if interrupt::requested() || start.elapsed() > job.timeout {
            // It may have ended in between.
            let _ = child.kill();
            let _ = child.wait();
            interrupt::check()?;
            break None;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let mut done = Done {
        status,
        ..Done::default()
    };
    done.output = fs::read(&output).context("reading a job's output")?;
    for name in &job.fetch {
        match fs::read(directory.path().join(name)) {
            Ok(data) => drop(done.files.insert(name.clone(), data)),
            Err(error) => drop(done.missing.insert(name.clone(), error.to_string())),
        }
    }
    Ok(done)
}

fn place_file(path: &Path, content: &Content) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match content {
        Content::File(from) => drop(fs::copy(from, path)?),
        Content::Bytes(bytes) => fs::write(path, bytes)?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_job_on_the_host_gets_its_files_and_gives_back_its_results() {
        let job = Job::new("x", "cat in/a; ./b; echo err >&2; echo new > c; exit 3")
            .bytes("in/a", b"content ".as_slice())
            .bytes("b", b"#!/bin/sh\necho ran\n".as_slice())
            .fetch("c")
            .fetch("d");
        let done = run_on_host(&job).unwrap();
        assert_eq!(
            (done.status, done.text().as_str()),
            (Some(3), "content ran\nerr\n")
        );
        assert_eq!(done.file("c").unwrap(), b"new\n");
        assert!(
            done.file("d")
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
    }

    #[test]
    fn a_job_that_takes_too_long_is_killed() {
        let job = Job::new("x", "exec sleep 60").timeout(Duration::from_millis(50));
        assert_eq!(run_on_host(&job).unwrap().status, None);
    }
}
