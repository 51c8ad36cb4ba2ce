//! Kernel modules of the initial file system, in `/lib/modules/VERSION` with modprobe's tables. The
//! kernel itself has modprobe load what a mount, a socket or an opened node asks for.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// Loads what the guest's devices need, by the names that the kernel has for them
/// (`/sys/bus/*/devices/*/modalias`), and makes the nodes of devices whose opening loads a module. A
/// kernel without modules has all that it needs.
///
/// # Errors
///
/// modprobe cannot be run, or a node cannot be made.
pub fn load_for_devices() -> Result<()> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let directory = Path::new("/lib/modules").join(release);
    if !directory.exists() {
        return Ok(());
    }
    let mut known = BTreeSet::new();
    loop {
        // Drivers find devices: what is on the bus of a virtio device's driver was not there before.
        let found = aliases().context("looking for devices in /sys/bus")?;
        let new: Vec<&String> = found.difference(&known).collect();
        if new.is_empty() {
            break;
        }
        // Most have no module, which it says by its status.
        Command::new("/sbin/modprobe")
            .args(["-a", "-q"])
            .args(new)
            .status()
            .context("running /sbin/modprobe")?;
        known.extend(found);
    }
    let table = fs::read_to_string(directory.join("modules.devname")).unwrap_or_default();
    table.lines().try_for_each(|line| {
        make_node(line).with_context(|| format!("making the device node of '{line}'"))
    })
}

/// Names of all devices.
fn aliases() -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for bus in fs::read_dir("/sys/bus")? {
        for device in fs::read_dir(bus?.path().join("devices"))? {
            // Not every device has a name.
            let alias = fs::read_to_string(device?.path().join("modalias")).unwrap_or_default();
            found.extend(alias.lines().map(str::to_owned));
        }
    }
    Ok(found)
}

/// Makes the node of a line `MODULE NAME cMAJOR:MINOR`, unless it is there.
fn make_node(line: &str) -> Result<()> {
    let mut words = line.split(' ').skip(1);
    let name = words.next().context("it has no name")?;
    let numbers = words.next().and_then(|word| word.strip_prefix('c'));
    let numbers = numbers.and_then(|word| word.split_once(':'));
    let (major, minor) = numbers.context("it has no numbers cMAJOR:MINOR")?;
    let node = Path::new("/dev").join(name);
    if node.exists() {
        return Ok(());
    }
    if let Some(directory) = node.parent() {
        fs::create_dir_all(directory)?;
    }
    let device = makedev(major.parse()?, minor.parse()?);
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &node, FileType::CharacterDevice, mode, device)?;
    Ok(())
}
