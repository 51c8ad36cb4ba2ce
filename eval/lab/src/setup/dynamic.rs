//! Programs that are linked dynamically, for machines that have no libraries: with the libraries that
//! they need, and those that these need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::job::Job;

/// The dynamic loader, which is one of the libraries.
pub const LOADER: &str = "ld-linux-x86-64.so.2";
/// Where packages have their libraries.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// Where packages have their programs.
const PROGRAMS: [&str; 4] = ["bin", "sbin", "usr/bin", "usr/sbin"];

/// The libraries that a program needs, and those that they need, of packages unpacked into `tree`.
///
/// # Errors
///
/// A library that is in no package, which is named.
pub fn libraries(tree: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let mut known = BTreeSet::new();
    let mut libraries = Vec::new();
    let mut unread = vec![program.to_owned()];
    while let Some(file) = unread.pop() {
        let output = Command::new("readelf").arg("-dW").arg(&file).output();
        let output = output.context("running readelf")?;
        for name in needed_names(&String::from_utf8_lossy(&output.stdout)) {
            if !known.insert(name.to_owned()) {
                continue;
            }
            let places = LIBRARIES.map(|place| tree.join(place).join(name));
            let Some(library) = places.into_iter().find(|path| path.exists()) else {
                bail!("{name}, which {} needs, is in no package", file.display());
            };
            libraries.push(library.clone());
            unread.push(library);
        }
    }
    Ok(libraries)
}

/// Names in what `readelf -d` prints of a file: `... (NEEDED) Shared library: [NAME]`.
fn needed_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.rsplit_once('[')?.1.strip_suffix(']'))
}

/// Gives a job programs of this host under their own names, in a directory `programs` of it, as
/// scripts that run them with the libraries beside them.
///
/// # Errors
///
/// A program or a library that is not installed, which is named.
pub fn add_host_programs(mut job: Job, names: &[&str]) -> Result<Job> {
    let host = Path::new("/");
    for name in names {
        let places = PROGRAMS.map(|place| host.join(place).join(name));
        let Some(program) = places.into_iter().find(|path| path.exists()) else {
            bail!("this host has no program {name}");
        };
        for library in libraries(host, &program)? {
            let file = library.file_name().unwrap_or_default().to_string_lossy();
            job = job.file(&format!("programs/libraries/{file}"), library.clone());
        }
        let script = format!(
            "#!/bin/sh\nhere=${{0%/*}}/libraries\n\
             exec \"$here/{LOADER}\" --library-path \"$here\" \"$here/{name}\" \"$@\"\n"
        );
        job = job
            .file(&format!("programs/libraries/{name}"), program)
            .bytes(&format!("programs/{name}"), script.as_bytes());
    }
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_needed_libraries_are_read() {
        let text = " 0x0000000000000001 (NEEDED)             Shared library: [libz.so.1]\n \
                    0x000000000000000e (SONAME)             Library soname: [libx.so.2]\n";
        assert_eq!(needed_names(text).collect::<Vec<_>>(), ["libz.so.1"]);
    }

    #[test]
    fn a_program_of_the_host_brings_its_libraries() {
        let job = add_host_programs(Job::new("x", ""), &["bash"]).unwrap();
        for name in ["bash", "libraries/bash", "libraries/libc.so.6"] {
            assert!(
                job.files.contains_key(&format!("programs/{name}")),
                "{name}"
            );
        }
        let error = add_host_programs(Job::new("x", ""), &["no-such-program"]);
        assert!(error.unwrap_err().to_string().contains("no-such-program"));
    }
}
