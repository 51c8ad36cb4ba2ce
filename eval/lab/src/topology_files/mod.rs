//! Files that a topology names: those that lie beside it, and those that are made for it.
//!
//! | name | is |
//! | --- | --- |
//! | `guest` | the guest without an operating system |
//! | `nic-image` | the image of the NIC |
//! | `small/kernel`, `small/initrd` | the small kernel, and busybox |
//! | `debian-12/kernel`, `debian-12/initrd`, `debian-12/root.erofs` | Debian 12 with [`PACKAGES`] |
//! | `debian-13/...` | the same of Debian 13 |
//!
//! Where a topology needs more than its VMs, such as a bridge, it has lines `#$ COMMAND`, which run
//! first, by root, with the programs of Debian.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::job::Job;
use crate::setup::guest::IMAGE;
use crate::setup::{self, Flavour, Guest, GuestOptions, Programs, Series, Setup};

/// Debian packages in the guests that are made for topologies.
pub const PACKAGES: [&str; 15] = [
    "curl",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "memcached",
    "nginx-light",
    "openssh-client",
    "openssh-server",
    "procps",
    "redis-server",
    "redis-tools",
    "strace",
    "tcpdump",
    "udhcpc",
];

/// Beginning of a line with a command.
const COMMAND: &str = "#$ ";

/// Shell function for the machine, which has no programs but busybox: `debian PROGRAM...` runs one
/// of the root file system of the first guest in the working directory that has one.
pub const DEBIAN: &str = include_str!("debian.sh");

/// Root file system that the commands of a topology find their programs in.
const ROOT: &str = "debian-12/root.erofs";

/// A job that runs a topology in the emulated machine.
///
/// # Errors
///
/// As [`collect`].
pub fn job(topology: &Path, programs: &Programs) -> Result<Job> {
    let name = name_of(topology);
    let script = script(topology, &name, "debian sh -c")?;
    let job = Job::new(&name, &format!("{DEBIAN}{script}"))
        .file(&name, topology)
        .file("/bin/postern", &programs.postern);
    let files = collect(topology, programs)?.into_iter();
    Ok(files.fold(job, |job, (name, path)| job.file(&name, path)))
}

/// The name of a topology's file.
pub fn name_of(topology: &Path) -> String {
    let name = topology.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The files that a topology names, by the names that it has for them. Names of which there is no
/// file, such as those of files that it makes, are passed over.
///
/// # Errors
///
/// A topology that is no TOML, or a guest that cannot be made.
pub fn collect(topology: &Path, programs: &Programs) -> Result<BTreeMap<String, PathBuf>> {
    let text = fs::read_to_string(topology)
        .with_context(|| format!("cannot read {}", topology.display()))?;
    let value: toml::Table =
        toml::from_str(&text).with_context(|| format!("{} is no TOML", topology.display()))?;
    let mut names = BTreeSet::new();
    strings(&toml::Value::Table(value), &mut names);
    if commands(&text).next().is_some() {
        names.insert(ROOT.to_owned());
    }
    let beside = topology.parent().unwrap_or(Path::new(""));
    let mut files = BTreeMap::new();
    let mut made = Made::default();
    for name in names {
        let path = beside.join(&name);
        if path.is_file() {
            if Path::new(&name).is_absolute() || name.starts_with("..") {
                bail!(
                    "{} names {name}, which does not lie below its own directory; put a link to it \
                     there",
                    topology.display()
                );
            }
            files.insert(name, path);
        } else if let Some(path) = made.file(&name, programs)? {
            files.insert(name, path);
        }
    }
    Ok(files)
}

/// The script that runs a topology, which the shell finds under this name: if it has commands, these
/// first, by `shell`, a command that takes a script.
///
/// # Errors
///
/// It cannot be read.
pub fn script(topology: &Path, name: &str, shell: &str) -> Result<String> {
    let text = fs::read_to_string(topology)
        .with_context(|| format!("cannot read {}", topology.display()))?;
    let name = quoted(name);
    if commands(&text).next().is_none() {
        return Ok(format!("exec postern up {name}\n"));
    }
    let mut script = String::from("set -e");
    for command in commands(&text) {
        script += &format!("\n{command}");
    }
    let script = quoted(&script);
    Ok(format!("{shell} {script} && exec postern up {name}\n"))
}

/// The commands of a topology.
pub fn commands(topology: &str) -> impl Iterator<Item = &str> {
    topology
        .lines()
        .filter_map(|line| line.strip_prefix(COMMAND))
}

/// A word that the shell takes as it is.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// All strings of a value.
fn strings(value: &toml::Value, found: &mut BTreeSet<String>) {
    match value {
        toml::Value::String(text) => drop(found.insert(text.clone())),
        toml::Value::Array(values) => values.iter().for_each(|value| strings(value, found)),
        toml::Value::Table(table) => table.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}

/// Guests that were made, by name.
#[derive(Default)]
struct Made(BTreeMap<String, Guest>);

impl Made {
    /// The file of this name, if it is one that is made.
    fn file(&mut self, name: &str, programs: &Programs) -> Result<Option<PathBuf>> {
        match name {
            "guest" => return Ok(Some(programs.bare_guest.clone())),
            "nic-image" => return Ok(Some(programs.nic_image.clone())),
            _ => {}
        }
        let Some((name, part)) = name.split_once('/') else {
            return Ok(None);
        };
        if !["kernel", "initrd", IMAGE].contains(&part) {
            return Ok(None);
        }
        if !self.0.contains_key(name) {
            match guest(name)? {
                Some(made) => drop(self.0.insert(name.to_owned(), made)),
                None => return Ok(None),
            }
        }
        let guest = &self.0[name];
        Ok(match part {
            "kernel" => Some(guest.kernel.clone()),
            "initrd" => Some(guest.initrd.clone()),
            _ => guest.image.clone(),
        })
    }
}

/// Makes the guest with this name: `small`, `debian-12` or `debian-13`, if it is one of these.
///
/// # Errors
///
/// It cannot be made.
pub fn guest(name: &str) -> Result<Option<Guest>> {
    let Some((series, kernel)) = guest_of(name)? else {
        return Ok(None);
    };
    let packages: &[&str] = match kernel {
        Flavour::Debian => &PACKAGES,
        Flavour::Small | Flavour::Debug => &[],
    };
    let options = GuestOptions {
        kernel,
        packages,
        program: None,
    };
    Ok(Some(Setup::of(&series)?.guest(&options)?))
}

/// Series and kernel of the guest with this name.
fn guest_of(name: &str) -> Result<Option<(Series, Flavour)>> {
    let codename = match name {
        "small" => {
            let series = Series::default_one(setup::root())?;
            return Ok(Some((series, Flavour::Small)));
        }
        "debian-12" => "bookworm",
        "debian-13" => "trixie",
        _ => return Ok(None),
    };
    let all = Series::all(setup::root())?;
    let found = all.into_iter().find(|series| series.debian == codename);
    Ok(found.map(|series| (series, Flavour::Debian)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_strings_of_a_topology_may_be_files() {
        let text = "[nic]\nimage = \"a\"\n[[vm]]\ndisks = [{ path = \"b/c\" }]\nvcpus = 1\n";
        let mut found = BTreeSet::new();
        strings(&toml::from_str(text).unwrap(), &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "b/c"]);
    }

    #[test]
    fn commands_of_a_topology_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.toml");
        fs::write(&file, "# A text.\n#$ echo 'a b'\n[nic]\n").unwrap();
        assert_eq!(
            script(&file, "x.toml", "sh -c").unwrap(),
            "sh -c 'set -e\necho '\\''a b'\\''' && exec postern up 'x.toml'\n"
        );
    }

    #[test]
    fn guests_have_names() {
        for (name, known) in [("debian-13", true), ("small", true), ("debian-14", false)] {
            assert_eq!(guest_of(name).unwrap().is_some(), known, "{name}");
        }
    }
}
