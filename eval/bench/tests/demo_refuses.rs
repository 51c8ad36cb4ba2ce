//! Input that `cargo demo` cannot use is refused at once: one sentence that names it, a status that
//! is not zero, nothing left behind.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A pcap header, little endian: microseconds, link type as given.
fn header(link_type: u32) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, link_type] {
        file.extend(word.to_le_bytes());
    }
    file
}

/// A record with `captured` bytes of a frame of `wire` bytes.
fn record(captured: u32, wire: u32) -> Vec<u8> {
    let mut record = Vec::new();
    for word in [1, 2, captured, wire] {
        record.extend(word.to_le_bytes());
    }
    record.extend(vec![0x55; captured as usize]);
    record
}

/// Runs the demo in `folder` with a cache of its own there, so that a demo that should not begin
/// has nothing to work with.
fn demo(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postern-demo"))
        .args(arguments)
        .current_dir(folder)
        .env("POSTERN_CACHE", folder.join("cache"))
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("the demo starts")
}

/// The demo refuses `arguments` with a sentence that has all of `parts`.
fn refuses(folder: &TempDir, arguments: &[&str], parts: &[&str]) {
    let before = names(folder.path());
    let output = demo(folder.path(), arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} passed: {output:?}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(names(folder.path()), before, "files are left");
}

/// What is in a folder, but for the cache.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder exists");
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "cache")
        .collect();
    names.sort();
    names
}

#[test]
fn captures_that_cannot_be_sent() {
    let folder = TempDir::new().expect("a folder can be made");
    let good = record(60, 60);
    let files: [(&str, Vec<u8>, &str); 8] = [
        ("empty.pcap", vec![], "is empty"),
        ("none.pcap", header(1), "holds no frames"),
        ("text.pcap", b"not a capture".to_vec(), "is not a pcap"),
        (
            "cut.pcap",
            [header(1), good.clone(), good[..40].to_vec()].concat(),
            "inside frame 2",
        ),
        ("header.pcap", header(1)[..20].to_vec(), "truncated"),
        (
            "link.pcap",
            [header(113), good.clone()].concat(),
            "LINUX_SLL",
        ),
        (
            "long.pcap",
            [header(1), good, record(1515, 1515)].concat(),
            "frame 2: 1515 bytes are over the limit of 1514",
        ),
        (
            "snap.pcap",
            [header(1), record(96, 1400)].concat(),
            "only 96 of its 1400 bytes",
        ),
    ];
    for (name, bytes, part) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a file can be written");
        refuses(&folder, &["--pcap", name], &[name, part]);
    }
    refuses(&folder, &["--pcap", "missing.pcap"], &["missing.pcap"]);
    refuses(&folder, &["--pcap", "."], &["cannot read capture ."]);
}

#[test]
fn results_that_cannot_be_written() {
    let folder = TempDir::new().expect("a folder can be made");
    refuses(
        &folder,
        &["--json", "missing/out.json"],
        &["missing/out.json"],
    );
    refuses(&folder, &["--json", "."], &["is a folder"]);
}

#[test]
fn flags_out_of_range() {
    let folder = TempDir::new().expect("a folder can be made");
    for flags in [
        ["--batch", "0"],
        ["--batch", "257"],
        ["--frames", "0"],
        ["--frames", "-5"],
        ["--frames", "lots"],
    ] {
        refuses(&folder, &flags, &flags);
    }
    // Words of the command line are those that the user types.
    refuses(&folder, &["--color"], &["--color", "Usage: cargo demo"]);
}

#[test]
fn networks_of_linux_guests_that_there_are_not() {
    let folder = TempDir::new().expect("a folder can be made");
    let names = "give one of elisa, elisa-strict, exit-kernel, exit-user, vhost-net, virtio-user";
    refuses(
        &folder,
        &["--linux", "--network", "direct"],
        &["direct", names],
    );
    refuses(&folder, &["--network", "elisa"], &["--linux"]);
    for flags in [["--batch", "8"], ["--frames", "9"], ["--pcap", "x"]] {
        refuses(
            &folder,
            &["--linux", flags[0], flags[1]],
            &["--linux", flags[0]],
        );
    }
    refuses(&folder, &["--linux", "--json", "."], &["is a folder"]);
}
