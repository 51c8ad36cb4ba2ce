//! Modules of a distributed kernel, and the tables by which they are found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::cache::{Cache, Key, Step};
use crate::setup::kernel_tree::KernelTree;
use crate::setup::progress::{Progress, Task};

/// All modules of a kernel.
pub struct Modules {
    /// Files by name of module.
    files: BTreeMap<String, PathBuf>,
    /// Names of those that are part of the kernel itself.
    builtin: BTreeSet<String>,
}

/// A module as it is loaded.
pub struct Module {
    /// Its name.
    pub name: String,
    /// Content of its file, decompressed.
    pub content: Vec<u8>,
}

impl Modules {
    /// Finds the modules below a kernel's directory, `/lib/modules/VERSION` of its package.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        find(&directory.join("kernel"), &mut files)?;
        let list = directory.join("modules.builtin");
        let list =
            fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        let builtin = list
            .lines()
            .filter_map(|line| name_of(line.rsplit('/').next()?))
            .collect();
        Ok(Self { files, builtin })
    }

    /// These modules and those that they need, each after what it needs. Names of which the kernel
    /// has no module are passed over, since releases differ in what is a module.
    ///
    /// # Errors
    ///
    /// A module that cannot be read, or needs one that there is not.
    pub fn with_needed(&self, task: &Task, names: &[&str]) -> Result<Vec<Module>> {
        let mut known = BTreeSet::new();
        let mut ordered = Vec::new();
        for name in names {
            let name = normal(name);
            if self.files.contains_key(&name) {
                self.add(task, &name, &mut known, &mut ordered)?;
            }
        }
        Ok(ordered)
    }

    fn add(
        &self,
        task: &Task,
        name: &str,
        known: &mut BTreeSet<String>,
        ordered: &mut Vec<Module>,
    ) -> Result<()> {
        if self.builtin.contains(name) || !known.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            bail!("the kernel has no module {name}, which another one needs");
        };
        let content = content(task, file)?;
        for needed in depends(&content) {
            self.add(task, &needed, known, ordered)?;
        }
        ordered.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }
}

/// Modules of a kernel by name, and those that they need, as decompressed files in the order of
/// loading.
///
/// # Errors
///
/// The kernel has none, or they cannot be read.
pub fn files(
    cache: &Cache,
    progress: &Progress,
    tree: &KernelTree,
    names: &[&str],
) -> Result<Vec<PathBuf>> {
    const ORDER: &str = "order";
    let all = tree.modules.as_ref();
    let all = all.context("the kernel has nothing that is a module")?;
    let step = Step {
        name: "kernel-modules",
        title: "modules of a kernel's own",
        about: "a few seconds",
        key: Key::new()
            .identity(&tree.kernel.image)?
            .bytes(names.join(" ").as_bytes()),
        megabytes: 20,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let mut order = String::new();
        for module in Modules::read(all)?.with_needed(task, names)? {
            let file = format!("{}.ko", module.name);
            fs::write(directory.join(&file), module.content)
                .with_context(|| format!("keeping the module {file}"))?;
            order += &format!("{file}\n");
        }
        fs::write(directory.join(ORDER), order).context("noting the order of modules")
    })?;
    let order =
        fs::read_to_string(directory.join(ORDER)).context("reading the order of modules")?;
    Ok(order.lines().map(|file| directory.join(file)).collect())
}

fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let fail = || format!("reading {}", directory.display());
    for entry in fs::read_dir(directory).with_context(fail)? {
        let path = entry.with_context(fail)?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = path
            .file_name()
            .and_then(|name| name_of(&name.to_string_lossy()))
        {
            // One that lies there twice, also decompressed.
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The name of the module in a file, if it is one.
fn name_of(file: &str) -> Option<String> {
    let (name, kind) = file.split_once(".ko")?;
    matches!(kind, "" | ".xz").then(|| normal(name))
}

/// A module's name as the kernel has it: files have either of the two.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The content of a module's file, decompressed.
fn content(task: &Task, file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        task.show_line(&format!("decompressing {}", file.display()));
        let output = Command::new("xz").arg("-dc").arg(file).output();
        let output = output.context("running xz")?;
        if !output.status.success() {
            bail!("xz cannot decompress {}", file.display());
        }
        return Ok(output.stdout);
    }
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

/// Names of the modules that a module needs.
fn depends(module: &[u8]) -> Vec<String> {
    let values = info(module, "depends");
    let names = values.iter().flat_map(|value| value.split(','));
    names.filter(|name| !name.is_empty()).map(normal).collect()
}

/// Values of a key in a module's section `.modinfo`, words `KEY=VALUE` with a zero after each.
fn info(module: &[u8], key: &str) -> Vec<String> {
    let key = format!("\0{key}=");
    let found = module.windows(key.len()).enumerate();
    found
        .filter(|(_, bytes)| *bytes == key.as_bytes())
        .map(|(at, _)| {
            let value = module[at + key.len()..].split(|&byte| byte == 0);
            String::from_utf8_lossy(value.into_iter().next().unwrap_or_default()).into_owned()
        })
        .collect()
}

/// The tables of modprobe for modules that lie beside them (depmod(8), modules.dep(5)).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `modules.dep`: files that a module needs.
    pub dep: String,
    /// `modules.alias`: names of devices and of what the kernel asks for, as patterns.
    pub alias: String,
    /// `modules.devname`: nodes of devices whose opening loads a module.
    pub devname: String,
}

impl Tables {
    /// Makes them.
    pub fn of(modules: &[Module]) -> Self {
        let mut tables = Self::default();
        for module in modules {
            let mut needed = Vec::new();
            add_needed(modules, module, &mut needed);
            let files: String = needed.iter().map(|name| format!(" {name}.ko")).collect();
            tables.dep += &format!("{}.ko:{files}\n", module.name);
            let aliases = info(&module.content, "alias");
            for alias in aliases
                .iter()
                .filter(|alias| !alias.starts_with("devname:"))
            {
                tables.alias += &format!("alias {alias} {}\n", module.name);
            }
            let value = |prefix| aliases.iter().find_map(|alias| alias.strip_prefix(prefix));
            if let (Some(device), Some((major, minor))) = (
                value("devname:"),
                value("char-major-").and_then(|numbers| numbers.split_once('-')),
            ) {
                tables.devname += &format!("{} {device} c{major}:{minor}\n", module.name);
            }
        }
        tables
    }
}

/// Names of what a module needs, each before what it needs itself.
fn add_needed(modules: &[Module], module: &Module, needed: &mut Vec<String>) {
    for name in depends(&module.content) {
        // What is part of the kernel is not among them.
        let Some(other) = modules.iter().find(|other| other.name == name) else {
            continue;
        };
        needed.retain(|known| *known != name);
        needed.push(name);
        add_needed(modules, other, needed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::progress::Progress;

    #[test]
    fn modules_come_after_what_they_need() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("kernel/net");
        fs::create_dir_all(&kernel).unwrap();
        for (file, needs) in [
            ("virtio_net.ko", "net_failover,virtio"),
            ("net-failover.ko", "failover,ipv6"),
            ("failover.ko", ""),
            ("virtio.ko", ""),
            ("other.ko", ""),
        ] {
            fs::write(kernel.join(file), format!("ELF\0depends={needs}\0x")).unwrap();
        }
        fs::write(
            directory.path().join("modules.builtin"),
            "kernel/net/ipv6.ko\n",
        )
        .unwrap();
        let modules = Modules::read(directory.path()).unwrap();
        let log = directory.path().join("log");
        let task = Progress::silent().task("x", &log).unwrap();
        let names = |wanted: &[&str]| -> Vec<String> {
            let found = modules.with_needed(&task, wanted).unwrap();
            found.into_iter().map(|module| module.name).collect()
        };
        assert_eq!(
            names(&["virtio_net", "failover", "no_such"]),
            ["failover", "net_failover", "virtio", "virtio_net"]
        );
        assert_eq!(names(&["ipv6"]), [""; 0]);
    }

    #[test]
    fn modules_are_found_by_devices_and_by_nodes() {
        let module = |name: &str, info: &[&str]| Module {
            name: name.to_owned(),
            content: format!("ELF\0{}\0", info.join("\0")).into_bytes(),
        };
        let tables = Tables::of(&[
            module("failover", &["depends="]),
            module("net_failover", &["depends=failover"]),
            module(
                "virtio_net",
                &[
                    "alias=virtio:d00000001v*",
                    "depends=net_failover,failover,ipv6",
                ],
            ),
            module(
                "tun",
                &[
                    "alias=devname:net/tun",
                    "alias=char-major-10-200",
                    "depends=",
                ],
            ),
        ]);
        assert_eq!(
            tables.dep,
            "failover.ko:\nnet_failover.ko: failover.ko\n\
             virtio_net.ko: net_failover.ko failover.ko\ntun.ko:\n"
        );
        assert_eq!(
            tables.alias,
            "alias virtio:d00000001v* virtio_net\nalias char-major-10-200 tun\n"
        );
        assert_eq!(tables.devname, "tun net/tun c10:200\n");
    }

    #[test]
    fn a_module_that_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("kernel");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(kernel.join("a.ko"), b"\0depends=b\0").unwrap();
        fs::write(directory.path().join("modules.builtin"), "").unwrap();
        let modules = Modules::read(directory.path()).unwrap();
        let log = directory.path().join("log");
        let task = Progress::silent().task("x", &log).unwrap();
        let error = modules.with_needed(&task, &["a"]).err().unwrap();
        assert!(error.to_string().contains("module b,"), "{error}");
    }
}
