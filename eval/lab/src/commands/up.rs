//! `cargo machine up`: topologies, with the files that they name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use postern_lab::machine::CONSOLE_LEVEL;
use postern_lab::setup::{self, Programs, Series};
use postern_lab::testbed::{self, EmulatedTestbed, VIEWS};
use postern_lab::topology_files::{self, name_of};
use postern_vmm::status;
use postern_vmm::topology::Topology;

use super::timeout::with_remedy;

/// Arguments of `cargo machine up`.
#[derive(Args)]
pub struct UpArgs {
    /// The topology; examples/NAME.toml also names one of vmm/examples
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,

    /// Memory of the machine in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048,
          value_parser = clap::value_parser!(u32).range(64..=3072))]
    memory: u32,

    /// Seconds after which the machine is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 3600,
          value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,

    /// Leave the machine's directory (disc, console, emulator's log) behind
    #[arg(long)]
    keep: bool,
}

/// Runs a topology to the end of its VMs.
pub fn up(series: &Series, arguments: &UpArgs) -> Result<ExitCode> {
    let file = find(&arguments.file)?;
    // Before anything is built for it.
    if let Err(faults) = Topology::read(&file) {
        eprintln!("{:#}", anyhow::Error::from(faults));
        return Ok(ExitCode::from(status::CONFIGURATION));
    }
    if testbed::host_has_views() {
        return on_host(&file);
    }
    let testbed = EmulatedTestbed::prepare(series, setup::Flavour::Small)?;
    // The real time bounds it.
    let job = topology_files::job(&file, &testbed.programs)?
        .timeout(Duration::from_secs(u64::from(u32::MAX)));
    let outcome = testbed
        .machine(VIEWS)?
        .memory_mb(arguments.memory)
        .arguments(CONSOLE_LEVEL)
        .timeout(Duration::from_secs(arguments.timeout))
        .kept(arguments.keep)
        .streaming(true)
        .run(job)
        .map_err(with_remedy)?;
    for line in outcome.kernel_warnings() {
        eprintln!("the machine's kernel complains: {line}");
    }
    Ok(ExitCode::from(outcome.status.unwrap_or(124) as u8))
}

/// The file that is meant: as it is, or one of the examples.
fn find(file: &Path) -> Result<PathBuf> {
    let example = setup::root().join("vmm").join(file);
    match (file.is_file(), example.is_file()) {
        (true, _) => Ok(file.to_owned()),
        (false, true) => Ok(example),
        (false, false) => bail!(
            "there is no topology {}; {} has examples",
            file.display(),
            setup::root().join("vmm/examples").display()
        ),
    }
}

/// Runs it on this host, in a network of its own if it has commands, and in a directory of links to its files, so that what is made for it lies
/// beside what is there.
fn on_host(file: &Path) -> Result<ExitCode> {
    let programs = setup::programs()?;
    let directory = tempfile::tempdir().context("making a directory for a topology")?;
    let mut files: BTreeMap<String, PathBuf> = topology_files::collect(file, &programs)?;
    files.insert(name_of(file), file.to_owned());
    for (name, path) in files {
        let link = directory.path().join(&name);
        let made = link.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| symlink(std::path::absolute(&path)?, &link))
            .with_context(|| format!("making a link to {}", path.display()))?;
    }
    let script = topology_files::script(file, &name_of(file), "sh -c")?;
    let status = shell(&script, &programs, (file, directory.path()))?;
    Ok(ExitCode::from(status))
}

/// Runs the script with the user's terminal. Ctrl-C reaches `postern up` by itself, which then ends
/// its VMs.
fn shell(script: &str, programs: &Programs, (topology, directory): (&Path, &Path)) -> Result<u8> {
    let beside = programs
        .postern
        .parent()
        .context("a program without a directory")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [beside.to_owned()]
        .into_iter()
        .chain(std::env::split_paths(&path));
    // What its commands make goes with it.
    let text = fs::read_to_string(topology).context("reading a topology")?;
    let mut command = match topology_files::commands(&text).next() {
        Some(_) => {
            let mut command = Command::new("unshare");
            command.args(["--net", "--mount", "/bin/sh"]);
            command
        }
        None => Command::new("/bin/sh"),
    };
    let status = command
        .args(["-c", script])
        .env("PATH", std::env::join_paths(path).context("setting PATH")?)
        .current_dir(directory)
        .status()
        .context("running /bin/sh")?;
    ensure!(status.code().is_some(), "postern up was ended by a signal");
    Ok(status.code().unwrap_or_default() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topology_is_checked_before_anything_is_built() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bad.toml");
        let series = Series::default_one(setup::root()).unwrap();
        for text in ["[nic\n", "[nic]\nport = 2\n"] {
            fs::write(&file, text).unwrap();
            let arguments = UpArgs {
                file: file.clone(),
                memory: 64,
                timeout: 1,
                keep: false,
            };
            // A build would take minutes, and a machine would end with another status.
            let ended = up(&series, &arguments).unwrap();
            assert_eq!(ended, ExitCode::from(status::CONFIGURATION));
        }
    }
}
