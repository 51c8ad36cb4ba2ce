//! The guest's program.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};
use rustix::process::{Pid, WaitOptions, wait};

use crate::mounts::ROOT;

/// Its environment.
const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("TERM", "linux"),
    ("LANG", "C.UTF-8"),
];

/// Runs the script, or a shell on the console if there is none, to its end. Returns its exit status,
/// or 128 and the number of the signal that ended it.
///
/// # Errors
///
/// There is no shell.
pub fn run(in_root: bool, script: Option<&str>) -> Result<i32> {
    let busybox = "/bin/busybox";
    if !in_root {
        // The initial file system has no other tools.
        Command::new(busybox)
            .args(["--install", "-s", "/bin"])
            .status()
            .with_context(|| format!("running {busybox}"))?;
    }
    let mut command = match (script, in_root) {
        (Some(script), _) => {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", script]);
            shell
        }
        // It gives the shell the console as its terminal, for Ctrl-C.
        (None, false) => {
            let mut shell = Command::new(busybox);
            shell.args(["setsid", "-c", "/bin/sh", "-l"]);
            shell
        }
        (None, true) => {
            let mut shell = Command::new("/usr/bin/setsid");
            shell.args(["-c", "/bin/sh", "-l"]);
            shell
        }
    };
    command.env_clear().envs(ENVIRONMENT);
    if in_root {
        let enter = || {
            rustix::process::chroot(ROOT)?;
            rustix::process::chdir("/root").or_else(|_| rustix::process::chdir("/"))?;
            Ok(())
        };
        before_exec(&mut command, enter);
    }
    let child = command.spawn().context("running the guest's program")?;
    let program = Pid::from_child(&child);
    // Processes whose parents have ended are the first one's.
    while let Some((ended, status)) = wait(WaitOptions::empty()).context("waiting for a process")? {
        if ended == program {
            let status = ExitStatus::from_raw(status.as_raw());
            let signalled = status.signal().map(|signal| 128 + signal);
            return Ok(status.code().or(signalled).unwrap_or(128));
        }
    }
    anyhow::bail!("the guest's program has vanished")
}

#[allow(unsafe_code, reason = "a child enters its root before it begins")]
fn before_exec(
    command: &mut Command,
    act: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: what is run makes system calls that may be made between fork and exec, and touches no
    // memory of others: this process has one thread.
    unsafe { command.pre_exec(act) };
}
