//! File systems of the guest.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount, mount_move};

use crate::cmdline::Root;

/// Where the root file system is mounted in the initial one.
pub const ROOT: &str = "/sysroot";

/// Times that the device of the root file system is looked for, with [`WAIT`] in between: a driver
/// may still be at it.
const TRIES: u32 = 500;
const WAIT: Duration = Duration::from_millis(10);

/// Mounts the kernel's own file systems, and those in memory, below `root`.
///
/// # Errors
///
/// The first that cannot be mounted.
pub fn kernel_file_systems(root: &str) -> Result<()> {
    for (kind, directory, needed) in [
        ("devtmpfs", "/dev", true),
        ("proc", "/proc", true),
        ("sysfs", "/sys", true),
        ("devpts", "/dev/pts", false),
        ("tmpfs", "/dev/shm", true),
        ("tmpfs", "/run", true),
        ("tmpfs", "/tmp", true),
        // Not every kernel has them.
        ("debugfs", "/sys/kernel/debug", false),
        ("tracefs", "/sys/kernel/tracing", false),
    ] {
        let path = format!("{root}{directory}");
        // There is no making them in /sys.
        let _ = fs::create_dir_all(&path);
        let mounted = mount(kind, &*path, kind, MountFlags::empty(), None);
        if needed {
            mounted.with_context(|| format!("mounting {kind} at {path}"))?;
        }
    }
    Ok(())
}

/// Mounts the root file system read-only at [`ROOT`], below an overlay in memory, with all that the
/// kernel offers.
///
/// # Errors
///
/// There is no such device, or it has no such file system.
pub fn root(root: &Root) -> Result<()> {
    let directory = |path: &str| {
        fs::create_dir_all(path).with_context(|| format!("making the directory {path}"))
    };
    for _ in 0..TRIES {
        if Path::new(&root.device).exists() {
            break;
        }
        thread::sleep(WAIT);
    }
    if !Path::new(&root.device).exists() {
        bail!(
            "there is no device {}, which root= names; has the VM a disk?",
            root.device
        );
    }
    directory("/lower")?;
    mount(
        &*root.device,
        "/lower",
        &*root.kind,
        MountFlags::RDONLY,
        None,
    )
    .with_context(|| {
        format!(
            "mounting {} as {} (rootfstype= names another type)",
            root.device, root.kind
        )
    })?;
    directory("/memory")?;
    mount("tmpfs", "/memory", "tmpfs", MountFlags::empty(), None).context("mounting a tmpfs")?;
    for path in ["/memory/upper", "/memory/work", ROOT] {
        directory(path)?;
    }
    let layers = c"lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work";
    mount(
        "overlay",
        ROOT,
        "overlay",
        MountFlags::empty(),
        Some(layers),
    )
    .context("mounting an overlay")?;
    for path in ["/dev", "/proc", "/sys", "/run", "/tmp"] {
        let below = format!("{ROOT}{path}");
        directory(&below)?;
        mount_move(path, &*below).with_context(|| format!("moving {path} to {below}"))?;
    }
    Ok(())
}
