//! First process of a Linux guest: loads modules for its devices, mounts a root file system, sets up the network,
//! runs one program, hands its exit status to the VMM and switches the VM off.
//!
//! The kernel's command line says what is wanted:
//!
//! | word | meaning |
//! | --- | --- |
//! | `root=DEVICE` | device of a file system, which is mounted read-only below an overlay in memory; without it the program runs in the initial file system |
//! | `rootfstype=TYPE` | `erofs` (the default) or another one |
//! | `ip=...` | an interface, as dracut.cmdline(7) has it: `dhcp`, or `CLIENT::GATEWAY:NETMASK:HOST:INTERFACE:none:MTU`; may be there several times |
//! | `postern.run="SCRIPT"` | script for the shell; without it, the one in `/postern/run`, or a shell on the console |
//!
//! In the VM, `/run/guest-init snapshot LABEL` has the VMM take a snapshot of its counters.
#![deny(unsafe_code)]

mod cmdline;
mod modules;
mod mounts;
mod network;
#[allow(unsafe_code, reason = "instructions that write to I/O ports")]
mod ports;
mod program;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cmdline::Request;
use ports::Ports;
use rustix::system::{RebootCommand, reboot};

/// Script of the initial file system, for guests whose command line has none.
const SCRIPT: &str = "/postern/run";

/// Postern's programs for guests, which get into the root file system.
const PROGRAMS: [&str; 2] = ["postern-bridge", "postern-guest-linux"];

/// Status of a guest that could not begin with its program, or whose program's status is none that a
/// guest can end with.
const FAILED: i32 = 63;

/// The status that the VM ends with for its program's, and what is to be said about it.
fn handed_on(status: i32) -> (i32, Option<String>) {
    match status {
        0..FAILED => (status, None),
        _ => {
            let said = format!(
                "the program ended with status {status}; this VM ends with {FAILED}, since guests have 0 \
                 to {FAILED}, and {FAILED} is also that of a guest that cannot begin"
            );
            (FAILED, Some(said))
        }
    }
}

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return command(&std::env::args().skip(1).collect::<Vec<_>>());
    }
    let (status, said) = match live() {
        Ok(status) => handed_on(status),
        Err(error) => (FAILED, Some(format!("{error:#}"))),
    };
    if let Some(said) = said {
        eprintln!("postern-guest-init: {said}");
    }
    rustix::fs::sync();
    // What is still on its way to the console would be lost.
    let _ = rustix::termios::tcdrain(std::io::stdout());
    if let Ok(mut ports) = Ports::open() {
        ports.exit(status);
    }
    // The VM is still on only if its VMM has no such port.
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

/// Sets up what the command line asks for and runs the program. Returns its status.
fn live() -> Result<i32> {
    mounts::kernel_file_systems("")?;
    let text = fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?;
    let request = Request::parse(text.trim_end()).context("reading the kernel's command line")?;
    modules::load_for_devices()?;
    network::set_up(&request.networks)?;
    let own = fs::read_to_string(SCRIPT).ok();
    // For the program, which does not see the initial file system.
    fs::copy("/init", "/run/guest-init").context("copying /init")?;
    if let Some(root) = &request.root {
        mounts::root(root)?;
        for program in PROGRAMS {
            // An initial file system of somebody else's may not have it.
            let _ = fs::copy(
                format!("/bin/{program}"),
                format!("{}/usr/local/bin/{program}", mounts::ROOT),
            );
        }
    }
    program::run(request.root.is_some(), request.run.or(own).as_deref())
}

/// What it does in a VM when it is not the first process.
fn command(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let label = match words[..] {
        ["snapshot", label] => label.parse::<u32>().ok(),
        _ => None,
    };
    let Some(label) = label else {
        eprintln!(
            "postern-guest-init: this is the first process of a guest; in one, `/run/guest-init \
             snapshot LABEL` has the VMM take a snapshot of its counters under this number"
        );
        return ExitCode::from(2);
    };
    match Ports::open() {
        Ok(mut ports) => {
            ports.snapshot(label);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("postern-guest-init: asking for the right to I/O ports: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_a_guest_cannot_have_is_told() {
        assert_eq!(
            [0, 1, 62].map(handed_on),
            [(0, None), (1, None), (62, None)]
        );
        for status in [63, 64, 200, 255] {
            let (handed, said) = handed_on(status);
            assert_eq!(handed, FAILED);
            assert!(said.is_some_and(|said| said.contains(&format!("status {status};"))));
        }
    }
}
