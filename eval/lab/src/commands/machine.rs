//! `cargo machine`: the emulated machine.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use postern_lab::job::Job;
use postern_lab::machine::{CONSOLE_LEVEL, EmulatedMachine};
use postern_lab::setup::{self, Flavour, Programs, Series};
use postern_lab::testbed::{EmulatedTestbed, VIEWS};
use postern_lab::topology_files::quoted;

use super::timeout::with_remedy;
use super::{guest, up};

/// Subcommands of `cargo machine`.
#[derive(Subcommand)]
pub enum MachineCommand {
    /// Boot, run a command, bring files back, switch off; its status becomes that of this program
    Run(RunArgs),
    /// Boot and open a shell in it
    Shell(MachineArgs),
    /// Run a topology: a NIC and VMs that a file describes, in the machine, or on this host where
    /// its KVM can make views
    Up(up::UpArgs),
    /// Make a Linux guest: a kernel, an initial file system, and a root file system of Debian
    /// packages
    Guest(guest::GuestArgs),
}

/// Arguments that say what is in the machine.
#[derive(Args)]
pub struct MachineArgs {
    /// Put a file of this host into the machine
    #[arg(long = "file", value_name = "GUESTPATH=HOSTPATH", value_parser = parse_file)]
    files: Vec<(String, PathBuf)>,

    /// Load this module instead of Postern's KVM; may be given several times, and is loaded in this
    /// order; parameters follow the path after a blank
    #[arg(long = "module", value_name = "FILE.ko[ PARAMETERS]", value_parser = parse_module)]
    modules: Vec<String>,

    /// Parameters for Postern's kvm-intel, instead of those with which it makes views
    #[arg(
        long,
        value_name = "PARAMETERS",
        default_value = VIEWS,
        conflicts_with = "modules"
    )]
    parameters: String,

    /// Load Postern's kvm-intel without parameters: then it makes no views
    #[arg(long, conflicts_with_all = ["parameters", "modules"])]
    no_views: bool,

    /// Load no module
    #[arg(long, conflicts_with = "modules")]
    no_modules: bool,

    /// Kernel to boot
    #[arg(long, value_enum, default_value = "small")]
    kernel: Flavour,

    /// More arguments for the kernel
    #[arg(long, value_name = "ARGUMENTS", default_value = "")]
    append: String,

    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(64..=3072))]
    memory: u32,

    /// Leave the machine's directory (disc, console, emulator's log) behind
    #[arg(long)]
    keep: bool,
}

/// Arguments of `cargo machine run`.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    machine: MachineArgs,

    /// Bring back this file of the machine
    #[arg(long = "fetch", value_name = "GUESTPATH")]
    fetch: Vec<String>,

    /// Directory that files are brought back to
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    fetch_to: PathBuf,

    /// Seconds after which the machine is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,

    /// A script for the machine's shell, or a program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs one of the machine's subcommands.
pub fn run_command(series: &Series, command: MachineCommand) -> Result<ExitCode> {
    match command {
        MachineCommand::Run(arguments) => run(series, &arguments),
        MachineCommand::Shell(arguments) => {
            // Before anything is built for it.
            ensure!(
                io::stdin().is_terminal(),
                "a shell needs a terminal, and standard input is none; cargo machine run -- COMMAND \
                 runs a script"
            );
            with_machine(series, &arguments, |machine, programs| {
                let job = with_files(Job::new("files", "true"), programs, &arguments.files);
                Ok(machine.shell(&[job])?)
            })?;
            Ok(ExitCode::SUCCESS)
        }
        MachineCommand::Up(arguments) => up::up(series, &arguments),
        MachineCommand::Guest(arguments) => guest::guest(series, &arguments),
    }
}

fn run(series: &Series, arguments: &RunArgs) -> Result<ExitCode> {
    let script = match &arguments.command[..] {
        [script] => script.clone(),
        words => words
            .iter()
            .map(|word| quoted(word))
            .collect::<Vec<_>>()
            .join(" "),
    };
    // The real time bounds it; the machine's own clock is no measure for people.
    let mut job = Job::new("command", &script).timeout(Duration::from_secs(u64::from(u32::MAX)));
    job.fetch.clone_from(&arguments.fetch);
    let outcome = with_machine(series, &arguments.machine, |machine, programs| {
        let job = with_files(job, programs, &arguments.machine.files);
        let timeout = Duration::from_secs(arguments.timeout);
        machine
            .timeout(timeout)
            .streaming(true)
            .run(job)
            .map_err(with_remedy)
    })?;
    for name in &arguments.fetch {
        let path = arguments
            .fetch_to
            .join(name.rsplit('/').next().unwrap_or(name));
        let data = outcome.file(name)?;
        fs::create_dir_all(&arguments.fetch_to)
            .and_then(|()| fs::write(&path, data))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    for line in outcome.kernel_warnings() {
        eprintln!("the machine's kernel complains: {line}");
    }
    Ok(ExitCode::from(outcome.status.unwrap_or(124) as u8))
}

/// The job with Postern's programs in its PATH, with what VMs are made of also where it runs, and
/// with the user's own files.
fn with_files(mut job: Job, programs: Option<&Programs>, files: &[(String, PathBuf)]) -> Job {
    if let Some(programs) = programs {
        for (name, path) in [
            ("postern", &programs.postern),
            ("postern-init", &programs.init),
            ("postern-exitcost", &programs.exitcost),
            ("postern-disktest", &programs.disktest),
            ("postern-nettest", &programs.nettest),
            ("guest", &programs.bare_guest),
            ("nic-image", &programs.nic_image),
        ] {
            job = job.file(&format!("/bin/{name}"), path);
        }
        for (name, path) in [
            ("guest", &programs.bare_guest),
            ("nic-image", &programs.nic_image),
        ] {
            // Of a script, and of a shell.
            job = job.file(name, path).file(&format!("/root/{name}"), path);
        }
    }
    files.iter().fold(job, |job, (to, from)| job.file(to, from))
}

/// Makes the machine that was asked for, and uses it, with Postern's programs unless the user
/// brings modules of their own.
fn with_machine<T>(
    series: &Series,
    arguments: &MachineArgs,
    use_it: impl FnOnce(EmulatedMachine<'_>, Option<&Programs>) -> Result<T>,
) -> Result<T> {
    let append = format!("{CONSOLE_LEVEL} {}", arguments.append);
    let adjust = |machine: EmulatedMachine<'_>, programs: Option<&Programs>| {
        use_it(
            machine
                .memory_mb(arguments.memory)
                .arguments(&append)
                .kept(arguments.keep),
            programs,
        )
    };
    if arguments.modules.is_empty() && !arguments.no_modules {
        let testbed = EmulatedTestbed::prepare(series, arguments.kernel)?;
        let parameters = match arguments.no_views {
            true => "",
            false => &arguments.parameters,
        };
        return adjust(testbed.machine(parameters)?, Some(&testbed.programs));
    }
    let (files, tree) = setup::bare(series, arguments.kernel)?;
    let mut machine = EmulatedMachine::new(&files, &tree.kernel);
    for module in &arguments.modules {
        let (path, parameters) = module.split_once(' ').unwrap_or((module, ""));
        machine = machine.module(path, parameters);
    }
    adjust(machine, None)
}

fn parse_module(text: &str) -> Result<String> {
    let (path, _) = text.split_once(' ').unwrap_or((text, ""));
    ensure!(Path::new(path).is_file(), "there is no module {path}");
    Ok(text.to_owned())
}

fn parse_file(text: &str) -> Result<(String, PathBuf)> {
    match text.split_once('=') {
        Some((guest, host)) if guest.starts_with('/') && !host.is_empty() => {
            let host = PathBuf::from(host);
            if !host.is_file() {
                bail!("there is no file {}", host.display());
            }
            Ok((guest.to_owned(), host))
        }
        _ => bail!("give an absolute path in the machine, =, and a file of this host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_have_to_be_there() {
        let error = parse_module("nosuch.ko a=1").unwrap_err().to_string();
        assert_eq!(error, "there is no module nosuch.ko");
        // Tests run in the directory of their package.
        assert_eq!(parse_module("Cargo.toml a=1").unwrap(), "Cargo.toml a=1");
    }
}
