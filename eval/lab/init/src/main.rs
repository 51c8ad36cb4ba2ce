//! First process of the emulated machine: sets it up, carries out the plan, sends back what came of
//! it, and switches the machine off.

mod counters;
mod entropy;
mod kernel_log;
mod orphans;
mod ports;
mod run;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command as Program, ExitCode};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_init::{Module, PLAN_PATH, Plan, Record};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, wait};

use crate::kernel_log::KernelLog;
use crate::orphans::Orphans;
use crate::ports::Ports;

/// Sends records out of the machine.
#[derive(Debug)]
pub struct RecordSender(Mutex<Ports>);

impl RecordSender {
    /// Sends a record.
    pub fn send(&self, record: &Record) {
        let mut bytes = Vec::new();
        // Writing to a vector does not fail, and names are short.
        if record.encode(&mut bytes).is_ok()
            && let Ok(mut ports) = self.0.lock()
        {
            ports.output(&bytes);
        }
    }

    fn shutdown(&self) {
        if let Ok(mut ports) = self.0.lock() {
            ports.shutdown();
        }
    }
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        let counted = std::env::args().any(|word| word == counters::COUNT_BOOT);
        let boot = counted.then(counters::boot).transpose();
        if let Err(error) = boot.and_then(live) {
            complain(&error);
        }
        // The machine is still on only if it is another machine than expected.
        let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
        loop {
            thread::park();
        }
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["counters"] => counters::print(),
        ["counters", "check"] => counters::check(),
        _ => {
            eprintln!(
                "postern-init: this is the first process of the emulated machine; elsewhere in it, \
                 `postern-init counters` prints the machine's counters, and `postern-init counters \
                 check` counts what is known"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lives; keeps what was counted of its boot, if anything was.
fn live(boot: Option<String>) -> Result<()> {
    mount_all()?;
    if let Some(line) = boot {
        fs::write(counters::BOOT, line).with_context(|| format!("writing {}", counters::BOOT))?;
    }
    entropy::seed().context("seeding the kernel's random numbers")?;
    let sender = RecordSender(Mutex::new(Ports::open().context("asking for I/O ports")?));
    if let Err(error) = carry_out(&sender) {
        complain(&error);
    }
    // What is still on its way to the console would be lost.
    let _ = rustix::termios::tcdrain(std::io::stdout());
    sender.shutdown();
    Ok(())
}

fn complain(error: &anyhow::Error) {
    eprintln!("postern-init: {error:#}");
}

fn mount_all() -> Result<()> {
    for (kind, directory) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("tmpfs", "/dev/shm"),
    ] {
        fs::create_dir_all(directory).with_context(|| format!("making {directory}"))?;
        mount(kind, directory, kind, MountFlags::empty(), None)
            .with_context(|| format!("mounting {kind} at {directory}"))?;
    }
    // Not every kernel has them.
    let _ = fs::create_dir_all("/dev/pts");
    let _ = mount("devpts", "/dev/pts", "devpts", MountFlags::empty(), None);
    let _ = mount(
        "debugfs",
        "/sys/kernel/debug",
        "debugfs",
        MountFlags::empty(),
        None,
    );
    let _ = mount(
        "tracefs",
        "/sys/kernel/tracing",
        "tracefs",
        MountFlags::empty(),
        None,
    );
    Ok(())
}

fn carry_out(sender: &RecordSender) -> Result<()> {
    let plan = fs::read(PLAN_PATH).with_context(|| format!("reading {PLAN_PATH}"))?;
    let plan: Plan = serde_json::from_slice(&plan).context("reading the plan")?;
    let mut log = KernelLog::open().context("opening the kernel log")?;
    // The shell and its tools.
    Program::new("/bin/busybox")
        .args(["--install", "-s", "/bin"])
        .status()
        .context("running /bin/busybox")?;
    for module in &plan.modules {
        if let Err(error) = load(module) {
            let error = format!("{error:#}");
            sender.send(&Record::KernelLog {
                command: 0,
                text: log.read_new(),
            });
            sender.send(&Record::ModuleFailed {
                path: module.path.clone(),
                error,
            });
            return Ok(());
        }
    }
    wait_for_disks(plan.disks)?;
    let mut orphans = Orphans::new().context("asking for the ends of processes")?;
    for (index, command) in plan.commands.iter().enumerate() {
        run::run(index as u32, command, sender, &mut log, &mut orphans);
    }
    if plan.shell {
        shell()?;
    }
    sender.send(&Record::End);
    Ok(())
}

fn load(module: &Module) -> Result<()> {
    let file = File::open(&module.path)?;
    let params = std::ffi::CString::new(module.params.as_str())?;
    rustix::system::finit_module(&file, &params, 0)?;
    Ok(())
}

/// Waits until the devices of these disks are there: drivers look for them after they are loaded.
fn wait_for_disks(count: usize) -> Result<()> {
    let devices = ('a'..='z')
        .take(count)
        .map(|letter| format!("/dev/sd{letter}"));
    for device in devices {
        let mut tries = 0;
        while !Path::new(&device).exists() {
            ensure!(tries < 1000, "the machine's disk {device} does not appear");
            tries += 1;
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// A shell on the serial console, until it ends.
fn shell() -> Result<()> {
    let console = File::options().read(true).write(true).open("/dev/ttyS0")?;
    let mut program = Program::new("/bin/busybox");
    program
        .arg0("setsid")
        .args(["-c", "/bin/sh", "-l"])
        .env_clear()
        .envs(run::ENVIRONMENT)
        .env("TERM", "linux")
        .env("PS1", "machine:\\w# ")
        .current_dir("/root")
        .stdin(console.try_clone()?)
        .stdout(console.try_clone()?)
        .stderr(console);
    let shell = Pid::from_child(&program.spawn().context("running a shell")?);
    // Of all that end meanwhile, the shell is the last.
    while let Some((ended, _)) = wait(WaitOptions::empty()).context("waiting for a shell")? {
        if ended == shell {
            break;
        }
    }
    Ok(())
}
