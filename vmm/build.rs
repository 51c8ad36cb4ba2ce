//! Tells the crate which kernels there are patch series for: what `kernel-patches/series` holds.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The folder, from this crate's.
const SERIES: &str = "../kernel-patches/series";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SERIES}");
    let mut folders: Vec<PathBuf> = fs::read_dir(SERIES)
        .expect("read kernel-patches/series")
        .map(|entry| entry.expect("read kernel-patches/series").path())
        .collect();
    folders.sort();
    let mut list = String::from("&[\n");
    for file in folders.iter().map(|folder| folder.join("series.toml")) {
        if !file.exists() {
            continue;
        }
        println!("cargo::rerun-if-changed={}", file.display());
        let text = fs::read_to_string(&file).expect("read a series.toml");
        let value = |key| value(&text, key, &file);
        writeln!(
            list,
            "    Series {{ linux: {:?}, base: {:?}, debian: {:?} }},",
            value("linux"),
            value("source_version"),
            value("debian"),
        )
        .expect("write to a string");
    }
    list.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("series.rs"), list).expect("write the list of series");
}

/// The value of a key, as `series.toml` has them: one a line, text in double quotes.
fn value<'a>(text: &'a str, key: &str, file: &Path) -> &'a str {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().trim_matches('"'))
        .unwrap_or_else(|| panic!("{} has no {key}", file.display()))
}
