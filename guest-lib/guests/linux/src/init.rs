//! The first process of a VM that has no other program.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use crate::exit_port;

/// The VM's status where the role could not begin.
const FAILED: u8 = 63;
/// Added to the number of the signal that ended the role; those that matter are below 32.
const BY_SIGNAL: u8 = 32;
/// Words with this beginning on the kernel's command line are not this program's.
const OTHERS: &str = "postern.";

/// Plays the role in a child, and ends the VM with its status, or 32 and the number of the signal that
/// ended it. For the role `panic` it ends itself.
pub fn live() -> ! {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with(OTHERS))
        .collect();
    if arguments.iter().any(|argument| argument == "panic") {
        std::process::exit(1);
    }
    let status = run(&arguments).unwrap_or_else(|error| {
        println!("error: {error:#}");
        FAILED
    });
    // What is still on its way to the console would be lost.
    let _ = rustix::termios::tcdrain(std::io::stdout());
    if let Err(error) = exit_port::exit(status) {
        println!("error: writing to the VM's exit port: {error}");
    }
    // The VM is still on only if its VMM has no such port.
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

fn run(arguments: &[String]) -> Result<u8> {
    for (kind, folder) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
    ] {
        fs::create_dir_all(folder).with_context(|| format!("making {folder}"))?;
        match mount(kind, folder, kind, MountFlags::empty(), None) {
            // The kernel may have done it (CONFIG_DEVTMPFS_MOUNT).
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("mounting {kind} at {folder}"));
            }
        }
    }
    println!("kernel {}", facts());
    let status = Command::new("/proc/self/exe")
        .args(arguments)
        .status()
        .context("starting the role")?;
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => code.clamp(0, i32::from(BY_SIGNAL) - 1) as u8,
        (None, Some(signal)) => BY_SIGNAL.saturating_add(signal as u8).min(FAILED),
        (None, None) => FAILED,
    })
}

/// What tests want to know of the kernel: its release, whether it isolates its page tables (KPTI), and
/// where its text begins (KASLR).
fn facts() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let meltdown = read("/sys/devices/system/cpu/vulnerabilities/meltdown");
    let symbols = read("/proc/kallsyms");
    let text = symbols.lines().find(|line| line.ends_with(" T _text"));
    let text = text.and_then(|line| line.split(' ').next());
    format!(
        "release={} pti={} text={}",
        release.trim(),
        meltdown.contains("PTI"),
        text.unwrap_or("unknown")
    )
}
