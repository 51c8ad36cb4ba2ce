//! Debian packages that tests need, besides those that everything needs.

use postern_lab::setup::{self, Package};

/// The packages.
const PACKAGES: &[Package] = &[
    ("cpio", "the machine's initial file system, read by others"),
    ("e2fsprogs", "a file system on a guest's disk"),
    ("fonts-dejavu-core", "plots"),
    ("git", "files that patches add"),
    ("perl", "style of the kernel patches"),
    ("systemd", "units of services, verified"),
    ("tcpdump", "captures, read by others"),
    ("valgrind", "instructions of the switch, counted"),
];

/// Installs what is missing. Where that cannot be done, the tests that need it say so.
pub fn install() {
    if let Err(error) = setup::install(PACKAGES) {
        eprintln!("postern: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use postern_lab::setup::packages;

    use super::*;

    /// A skipped test names what to install: nothing may be left to the user.
    #[test]
    fn what_tests_ask_for_is_installed() {
        let mut asked = Vec::new();
        for folder in ["eval", "guest-lib", "host-nic", "vmm"] {
            read(&setup::root().join(folder), &mut asked);
        }
        assert!(
            asked.iter().any(|package| package == "valgrind"),
            "{asked:?}"
        );
        let installed: Vec<&str> = packages::PACKAGES
            .iter()
            .chain(PACKAGES)
            .map(|(name, _)| *name)
            .collect();
        for package in asked {
            assert!(installed.contains(&&*package), "{package}");
        }
    }

    /// Packages that sources of tests ask for: `SKIP: ... install PACKAGE`.
    fn read(folder: &Path, asked: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, asked);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let lines = text.lines().filter(|line| line.contains("\"SKIP: "));
                let packages = lines.filter_map(|line| line.split_once("install "));
                let name = |rest: &str| -> String {
                    let is_name = |c: &char| c.is_alphanumeric() || *c == '-';
                    rest.chars().take_while(is_name).collect()
                };
                asked.extend(packages.map(|(_, rest)| name(rest)));
            }
        }
    }
}
