//! Modules of a distributed kernel, in the order of loading.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::progress::Task;

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

/// Names of the modules that a module needs: in its section `.modinfo`, words with a zero after
/// each, there is `depends=NAME,NAME`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(normal)
        .collect()
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
