//! This host as a testbed: jobs are processes of the host.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::interrupt;
use crate::job::{Content, Job, JobOutcome};

/// Runs a job in a directory of its own, which is removed afterwards.
///
/// # Errors
///
/// A job that cannot be started or watched. One that fails is no error.
pub fn run(job: &Job) -> Result<JobOutcome> {
    let directory = tempfile::tempdir().context("making a directory for a job")?;
    for (name, content) in &job.files {
        ensure!(
            !name.starts_with('/'),
            "{}: file {name} is not relative to the job",
            job.name
        );
        write_file(&directory.path().join(name), content)
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
    let mut outcome = JobOutcome {
        status,
        ..JobOutcome::default()
    };
    outcome.output = fs::read(&output).context("reading a job's output")?;
    for name in &job.fetch {
        match fs::read(directory.path().join(name)) {
            Ok(data) => drop(outcome.files.insert(name.clone(), data)),
            Err(error) => drop(outcome.missing.insert(name.clone(), error.to_string())),
        }
    }
    Ok(outcome)
}

fn write_file(path: &Path, content: &Content) -> std::io::Result<()> {
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
        let outcome = run(&job).unwrap();
        assert_eq!(
            (outcome.status, outcome.text().as_str()),
            (Some(3), "content ran\nerr\n")
        );
        assert_eq!(outcome.file("c").unwrap(), b"new\n");
        assert!(
            outcome
                .file("d")
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
    }

    #[test]
    fn a_job_that_takes_too_long_is_killed() {
        let job = Job::new("x", "exec sleep 60").timeout(Duration::from_millis(50));
        assert_eq!(run(&job).unwrap().status, None);
    }
}
