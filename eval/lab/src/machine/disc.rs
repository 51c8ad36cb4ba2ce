//! The disc of a machine, made of kernel, modules, programs and the files of jobs.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use postern_init::{PLAN_PATH, Plan};

use super::directory::RunDirectory;
use super::disks::{self, Disks};
use super::error::MachineError;
use super::files::{Kernel, MachineFiles};
use super::initramfs::Initramfs;
use super::{iso, tool};
use crate::job::{Content, Job};

/// Contents of a machine, besides the jobs that it runs.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    /// Programs and firmware.
    pub files: &'a MachineFiles,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Kernel modules in the order of loading, each with parameters separated by blanks.
    pub modules: Vec<(PathBuf, String)>,
    /// Arguments for the kernel, besides those that every machine has.
    pub arguments: String,
}

/// Makes a directory with everything that the emulator needs, and says how many disks the machine
/// has. The directory is left behind if it is to be `kept`.
pub fn prepare(
    contents: &Contents<'_>,
    jobs: &[Job],
    shell: bool,
    kept: bool,
) -> Result<(RunDirectory, usize), MachineError> {
    let directory = RunDirectory::new(&contents.files.run, kept)?;
    let mut plan = Plan {
        shell,
        ..Plan::default()
    };
    let mut root = first_process(contents.files)?;
    let mut disks = Disks::default();
    add_jobs(jobs, &mut root, &mut plan, &mut disks)?;
    plan.disks = disks.count();
    let mut modules = contents.modules.clone();
    if plan.disks > 0 {
        let drivers = &contents.kernel.disk_drivers;
        if drivers.is_empty() {
            return Err(MachineError::Prepare {
                what: "making disks of large files".to_owned(),
                source: io::Error::other("there are no drivers for them; boot the small kernel"),
            });
        }
        modules.extend(drivers.iter().map(|path| (path.clone(), String::new())));
        disks.link(directory.path())?;
    }
    for (path, params) in &modules {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let guest = format!("/lib/modules/{name}");
        root.file(&guest, stripped(path, &directory)?);
        plan.modules.push(postern_init::Module {
            path: guest,
            params: params.clone(),
        });
    }
    let json = serde_json::to_vec(&plan).map_err(|error| MachineError::Prepare {
        what: "writing the plan".to_owned(),
        source: error.into(),
    })?;
    root.file(PLAN_PATH, json);
    iso::make(
        directory.path(),
        contents.files,
        &contents.kernel.image,
        &root,
        &contents.arguments,
    )?;
    Ok((directory, plan.disks))
}

/// The initial file system of a machine that has neither modules nor jobs.
///
/// # Errors
///
/// A program cannot be read.
pub fn first_process(files: &MachineFiles) -> Result<Initramfs, MachineError> {
    let mut root = Initramfs::new();
    root.device("dev/console", 5, 1)
        .directory("root")
        .directory("sbin")
        .link("lib64", "lib")
        .directory("lib")
        .file("init", read(&files.init)?)
        .file("bin/busybox", read(&files.busybox)?);
    Ok(root)
}

/// Puts the files of jobs into the archive, each content once, or makes disks of them, and their
/// commands into the plan.
fn add_jobs(
    jobs: &[Job],
    root: &mut Initramfs,
    plan: &mut Plan,
    disks: &mut Disks,
) -> Result<(), MachineError> {
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
            if let Content::File(file) = content
                && size(file)? >= disks::LARGE
            {
                root.link(&path, &disks.add(file)?);
                continue;
            }
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

fn size(path: &Path) -> Result<u64, MachineError> {
    let data = std::fs::metadata(path).map_err(|source| MachineError::Prepare {
        what: format!("reading {}", path.display()),
        source,
    })?;
    Ok(data.len())
}

fn read(path: &Path) -> Result<Vec<u8>, MachineError> {
    std::fs::read(path).map_err(|source| MachineError::Prepare {
        what: format!("reading {}", path.display()),
        source,
    })
}

/// A module without what only debuggers need, which is most of it.
fn stripped(module: &Path, directory: &RunDirectory) -> Result<Vec<u8>, MachineError> {
    // A missing module gets the message of a missing file, not that of the tool.
    read(module)?;
    let out = directory.path().join("module.ko");
    let mut strip = Command::new("strip");
    tool::run(strip.args(["-g", "-R", ".BTF", "-o"]).arg(&out).arg(module))?;
    let bytes = read(&out)?;
    // What is left behind would only fill the directory.
    let _ = std::fs::remove_file(&out);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_content_is_stored_once() {
        let jobs = [1, 2].map(|n| Job::new(&n.to_string(), "true").bytes("x", b"same".as_slice()));
        let mut root = Initramfs::new();
        let mut plan = Plan::default();
        add_jobs(&jobs, &mut root, &mut plan, &mut Disks::default()).unwrap();
        let mut bytes = Vec::new();
        root.write(&mut bytes).unwrap();
        let count = bytes.windows(4).filter(|window| window == b"same").count();
        assert_eq!((count, plan.commands.len()), (1, 2));
    }

    #[test]
    fn large_files_become_disks() {
        let directory = tempfile::tempdir().unwrap();
        let large = directory.path().join("large");
        std::fs::File::create(&large)
            .and_then(|file| file.set_len(disks::LARGE))
            .unwrap();
        let jobs = [Job::new("x", "true").file("image", large)];
        let (mut root, mut plan, mut disks) = (Initramfs::new(), Plan::default(), Disks::default());
        add_jobs(&jobs, &mut root, &mut plan, &mut disks).unwrap();
        let mut bytes = Vec::new();
        root.write(&mut bytes).unwrap();
        assert!(bytes.len() < 4096 && bytes.windows(8).any(|window| window == b"/dev/sda"));
        assert_eq!(disks.count(), 1);
    }
}
