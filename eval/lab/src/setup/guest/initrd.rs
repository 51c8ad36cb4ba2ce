//! Initial file systems of guests: the first process, busybox for the network, and modules.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Built;
use super::modules::{Modules, Tables};
use crate::machine::initramfs::Initramfs;
use crate::setup::cache::{Cache, Key, Step};
use crate::setup::packages::BUSYBOX;
use crate::setup::progress::{Progress, Task};
use crate::setup::series::Series;

/// What is in an initial file system.
pub struct Contents<'a> {
    /// Programs of the checkout.
    pub built: Built<'a>,
    /// Script that it runs unless it is told otherwise.
    pub program: Option<&'a str>,
    /// Directory of the kernel's modules, if it has not built in what guests need.
    pub modules: Option<&'a Path>,
}

/// Modules that guests may need, besides those that these need: virtio devices, file systems, what is
/// in the way of packets inside of a guest, and the devices of Postern. A guest loads what it has
/// devices for, and what it is asked for by a mount, a socket or an opened node.
const MODULES: [&str; 18] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio-rng",
    "vmw_vsock_virtio_transport",
    "pvpanic-pci",
    "pvpanic-mmio",
    "uio_pci_generic",
    "erofs",
    "ext4",
    "overlay",
    "crc32c_generic",
    "tun",
    "macvtap",
    "veth",
    "bridge",
    "vxlan",
    "loop",
];

/// The NIC's window is a device for which no driver speaks up: the one for user space is meant.
const NIC_DRIVER: &str = "alias pci:v00001AF4d00001110sv*sd*bc*sc*i* uio_pci_generic\n";

/// Directories that are there whatever is in them: an archive that is appended can put the script of
/// `/postern/run` into its own.
const DIRECTORIES: [&str; 4] = ["etc", "postern", "root", "sbin"];

/// What the DHCP client of busybox runs when it has an address.
const DHCP_SCRIPT: &str = "#!/bin/busybox sh
[ \"$1\" = bound ] || [ \"$1\" = renew ] || exit 0
/bin/busybox ip addr replace \"$ip/$mask\" dev \"$interface\"
[ -z \"$mtu\" ] || /bin/busybox ip link set \"$interface\" mtu \"$mtu\"
[ -z \"$router\" ] || /bin/busybox ip route replace default via \"${router%% *}\"
echo \"$interface has the address $ip/$mask from $serverid\"
";

/// Makes an initial file system.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn make(
    cache: &Cache,
    progress: &Progress,
    series: &Series,
    contents: &Contents<'_>,
) -> Result<PathBuf> {
    let mut key = Key::new()
        .files(&[
            contents.built.init.to_owned(),
            contents.built.traffic.to_owned(),
            contents.built.bridge.to_owned(),
        ])?
        .identity(Path::new(BUSYBOX))?
        .bytes(contents.program.unwrap_or_default().as_bytes())
        .bytes(MODULES.join(" ").as_bytes())
        .bytes(NIC_DRIVER.as_bytes())
        .bytes(DIRECTORIES.join(" ").as_bytes())
        .bytes(DHCP_SCRIPT.as_bytes());
    if let Some(modules) = contents.modules {
        key = key.bytes(modules.as_os_str().as_encoded_bytes());
    }
    let step = Step {
        name: &format!("guest-initrd-{}", series.name()),
        title: "initial file system of a guest",
        about: "",
        key,
        megabytes: 50,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let root = archive(task, contents)?;
        let path = directory.join("initrd");
        let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let mut out = BufWriter::new(file);
        root.write(&mut out)
            .and_then(|()| out.flush())
            .with_context(|| format!("writing {}", path.display()))
    })?;
    Ok(directory.join("initrd"))
}

fn archive(task: &Task, contents: &Contents<'_>) -> Result<Initramfs> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut root = Initramfs::new();
    for directory in DIRECTORIES {
        root.directory(directory);
    }
    root.device("dev/console", 5, 1)
        .file("init", read(contents.built.init)?)
        .file("bin/postern-guest-linux", read(contents.built.traffic)?)
        .file("bin/postern-bridge", read(contents.built.bridge)?)
        .file("bin/busybox", read(Path::new(BUSYBOX))?)
        .link("bin/sh", "busybox")
        .file("etc/udhcpc/default.script", DHCP_SCRIPT.into());
    if let Some(program) = contents.program {
        root.file("postern/run", program.into());
    }
    let Some(directory) = contents.modules else {
        return Ok(root);
    };
    let version = directory.file_name().and_then(OsStr::to_str);
    let version =
        version.with_context(|| format!("{} is no directory of modules", directory.display()))?;
    let modules = Modules::read(directory)?.with_needed(task, &MODULES)?;
    let tables = Tables::of(&modules);
    let mut file = |name: &str, content: Vec<u8>| {
        root.file(&format!("lib/modules/{version}/{name}"), content);
    };
    file("modules.dep", tables.dep.into());
    file("modules.alias", (tables.alias + NIC_DRIVER).into());
    file("modules.devname", tables.devname.into());
    for module in modules {
        file(&format!("{}.ko", module.name), module.content);
    }
    // The kernel runs it for what it lacks.
    root.link("sbin/modprobe", "../bin/busybox");
    Ok(root)
}
