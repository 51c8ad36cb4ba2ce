//! What /proc and /sys say of the host: kernel, module, its users, signatures, the CPU's defects.
#![deny(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Parameters of the loaded kvm_intel; absent ones are not parameters of this module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvmModule {
    /// Whether views are allowed. Only the patched module has it.
    pub ept_views: Option<bool>,
    /// Whether views are allowed on CPUs that leak.
    pub ept_views_insist: Option<bool>,
    /// Whether services may be called by VMCALL, in the host's kernel.
    pub ept_views_hypercall: Option<bool>,
    /// 1 where guests get Intel PT.
    pub pt_mode: Option<u32>,
    /// How many descriptors and modules use it; nothing where the kernel does not count.
    pub users: Option<u32>,
}

/// A process that has VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmProcess {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Descriptors of VMs.
    pub vms: usize,
}

/// The facts of these files; nothing where one cannot be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFiles {
    /// As `uname -r` has it.
    pub kernel_release: String,
    /// Version of the kernel's Debian package, where it is Debian's.
    pub debian_version: Option<String>,
    /// Whether the firmware started the kernel by Secure Boot.
    pub secure_boot: Option<bool>,
    /// Mode of kernel lockdown: `none`, `integrity`, `confidentiality`.
    pub lockdown: Option<String>,
    /// Whether the kernel was told to load signed modules only.
    pub signatures_enforced: Option<bool>,
    /// Whether DKMS has made a key to sign modules with.
    pub dkms_key: bool,
    /// The loaded kvm_intel.
    pub module: Option<KvmModule>,
    /// Processes that have VMs, as far as this user sees.
    pub vm_processes: Vec<VmProcess>,
    /// Whether there are processes whose descriptors this user does not see.
    pub hidden_processes: bool,
    /// The CPU's defects, as /proc/cpuinfo lists them.
    pub bugs: Option<Vec<String>>,
    /// What the kernel says about defects, by the names of the files.
    pub vulnerabilities: BTreeMap<String, String>,
    /// Vendor and product of the machine, as its firmware has them.
    pub product: Option<String>,
}

/// The variable that says how the firmware started the system: 4 bytes of attributes, then 0 or 1
/// (UEFI specification, "Globally Defined Variables").
const SECURE_BOOT: &str =
    "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

impl HostFiles {
    /// Reads them below `root`, which is `/` but for tests.
    pub fn read(root: &Path) -> HostFiles {
        let text = |path: &str| text(root.join(path));
        let (vm_processes, hidden_processes) = vm_processes(&root.join("proc"));
        let product: Vec<String> = ["sys_vendor", "product_name"]
            .iter()
            .filter_map(|name| text(&format!("sys/class/dmi/id/{name}")))
            .filter(|word| !word.is_empty())
            .collect();
        HostFiles {
            kernel_release: text("proc/sys/kernel/osrelease").unwrap_or_default(),
            debian_version: text("proc/version").as_deref().and_then(debian_version),
            secure_boot: fs::read(root.join(SECURE_BOOT))
                .ok()
                .and_then(|bytes| Some(*bytes.get(4)? == 1)),
            lockdown: text("sys/kernel/security/lockdown").and_then(|line| {
                let (_, rest) = line.split_once('[')?;
                Some(rest.split_once(']')?.0.to_owned())
            }),
            signatures_enforced: text("sys/module/module/parameters/sig_enforce")
                .map(|value| is_on(&value)),
            dkms_key: root.join("var/lib/dkms/mok.pub").exists(),
            module: module(&root.join("sys/module/kvm_intel")),
            vm_processes,
            hidden_processes,
            bugs: text("proc/cpuinfo").as_deref().and_then(bugs),
            vulnerabilities: vulnerabilities(&root.join("sys/devices/system/cpu/vulnerabilities")),
            product: (!product.is_empty()).then(|| product.join(" ")),
        }
    }
}

/// `6.1.190-1` of `... #1 SMP PREEMPT_DYNAMIC Debian 6.1.190-1 (2026-01-01)`.
fn debian_version(line: &str) -> Option<String> {
    let (_, build) = line.split_once(" #")?;
    let (_, package) = build.split_once(" Debian ")?;
    package.split_ascii_whitespace().next().map(str::to_owned)
}

/// What the lines "bugs" list, of all processors.
fn bugs(cpuinfo: &str) -> Option<Vec<String>> {
    let lines = cpuinfo.lines().filter(|line| line.starts_with("bugs"));
    let mut lines = lines.filter_map(|line| line.split_once(':')).peekable();
    lines.peek()?;
    let names: BTreeSet<&str> = lines
        .flat_map(|(_, words)| words.split_ascii_whitespace())
        .collect();
    Some(names.into_iter().map(str::to_owned).collect())
}

fn vulnerabilities(directory: &Path) -> BTreeMap<String, String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name, text(entry.path())?))
        })
        .collect()
}

fn module(directory: &Path) -> Option<KvmModule> {
    if !directory.is_dir() {
        return None;
    }
    let parameter = |name: &str| text(directory.join("parameters").join(name));
    let flag = |name| parameter(name).map(|value| is_on(&value));
    let number = |value: Option<String>| value.and_then(|value| value.parse().ok());
    Some(KvmModule {
        ept_views: flag("ept_views"),
        ept_views_insist: flag("ept_views_insist"),
        ept_views_hypercall: flag("ept_views_hypercall"),
        pt_mode: number(parameter("pt_mode")),
        users: number(text(directory.join("refcnt"))),
    })
}

/// Processes with descriptors of VMs, and whether there are some that cannot be looked into.
fn vm_processes(proc: &Path) -> (Vec<VmProcess>, bool) {
    let (mut found, mut hidden) = (Vec::new(), false);
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let descriptors = match fs::read_dir(entry.path().join("fd")) {
            Ok(descriptors) => descriptors,
            Err(error) => {
                // It may have ended in between.
                hidden |= error.kind() == std::io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        let vms = descriptors
            .flatten()
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .filter(|target| target.as_os_str() == "anon_inode:kvm-vm")
            .count();
        if vms > 0 {
            let name = text(entry.path().join("comm")).unwrap_or_default();
            found.push(VmProcess { pid, name, vms });
        }
    }
    found.sort_by_key(|process| process.pid);
    (found, hidden)
}

fn is_on(value: &str) -> bool {
    matches!(value, "Y" | "1")
}

fn text(path: PathBuf) -> Option<String> {
    let text = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&text).trim().to_owned())
}
