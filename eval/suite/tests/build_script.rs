//! What `kernel-patches/build.sh` refuses, and says.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use postern_lab::setup::{Series, root};

/// A copy of the folder with the script, to be spoiled.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let copy = tempfile::tempdir().unwrap();
        let status = Command::new("cp")
            .arg("-a")
            .arg(root().join("kernel-patches"))
            .arg(copy.path())
            .status()
            .unwrap();
        assert!(status.success());
        Self(copy)
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("kernel-patches")
    }

    /// Runs the script, with a cache of its own; what it says if it fails.
    fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new(self.folder().join("build.sh"))
            .args(arguments)
            .env("POSTERN_CACHE", self.0.path().join("cache"))
            .env("POSTERN_LINUX_SOURCE", "/nowhere/linux.tar.xz")
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Writes out a file that the series adds.
    fn files(&self) -> Result<(), String> {
        let out = self.0.path().join("files");
        let path = "arch/x86/kvm/vmx/ept_view.h";
        self.run(&["files", "--out", out.to_str().unwrap(), path])
    }
}

/// The message is one line of the script's own, and has this in it.
#[track_caller]
fn assert_says(result: Result<(), String>, part: &str) {
    let text = result.unwrap_err();
    assert!(
        text.starts_with("build.sh: ") && text.lines().count() == 1 && text.contains(part),
        "{text:?} is not one line about {part:?}"
    );
}

#[test]
fn another_patch_never_goes_where_load_looks() {
    let copy = Copy::new();
    let patch = Series::default_one(root()).unwrap().omit_defences();
    let extra = ["build", "--extra", patch.to_str().unwrap()];
    assert_says(copy.run(&extra), "--out");
    let default = copy.0.path().join("cache/modules/6.1.0-1-amd64");
    let given = [&extra[..], &["--out", default.to_str().unwrap()]].concat();
    assert_says(copy.run(&given), "load takes modules from");
    assert_says(copy.run(&["deb", "--weakened"]), "nothing else");
}

#[test]
fn modules_without_defences_are_not_loaded() {
    let copy = Copy::new();
    let out = copy.0.path().join("out");
    fs::create_dir(&out).unwrap();
    let load = ["load", "--out", out.to_str().unwrap()];
    assert_says(copy.run(&load), "run build.sh first");
    let module = |info: &str| {
        let bytes = [b"\x7fELF\0\xff", info.as_bytes(), b"\0license=GPL\0"].concat();
        fs::write(out.join("kvm-intel.ko"), bytes).unwrap();
    };
    module("postern=TEST ONLY: can leave out defences");
    assert_says(copy.run(&load), "can leave defences out");
    // The mark is that of the patch.
    for series in Series::all(root()).unwrap() {
        let patch = fs::read_to_string(series.omit_defences()).unwrap();
        assert!(patch.contains("\n+MODULE_INFO(postern, \"TEST ONLY"));
        assert!(patch.contains("\n+\tadd_taint(TAINT_USER, "));
    }
    if Path::new("/proc/modules").exists() {
        println!("SKIP: this kernel takes modules, and the next ones are none");
        return;
    }
    // These get as far as to what this machine lacks.
    let end = |text: &str| text.contains("takes no modules") || text.contains("needs root");
    module("postern=anything");
    assert!(end(&copy.run(&load).unwrap_err()));
    module("postern=TEST ONLY: can leave out defences");
    let flag = [&load[..], &["--weakened"]].concat();
    assert!(end(&copy.run(&flag).unwrap_err()));
}

#[test]
fn unloading_where_there_are_no_modules_is_one_message() {
    if Path::new("/proc/modules").exists() {
        println!("SKIP: this kernel takes modules");
        return;
    }
    let text = Copy::new().run(&["unload"]).unwrap_err();
    assert!(text.starts_with("build.sh: ") && text.lines().count() == 1);
}

#[test]
fn every_new_file_has_its_step() {
    let copy = Copy::new();
    copy.files().unwrap();
    let steps = copy.folder().join("new/steps");
    let good = fs::read_to_string(&steps).unwrap();
    let header = "arch/x86/kvm/vmx/ept_view.h\n";
    let (before, after) = good.split_once(header).unwrap();
    let lines = |before: &str, with: &str| fs::write(&steps, format!("{before}{with}{after}"));
    let before_step = before.trim_end().trim_end_matches(char::is_numeric);

    lines(before_step, "").unwrap();
    assert_says(copy.files(), "does not say which step adds");
    lines(before_step, &format!("99 {header}")).unwrap();
    assert_says(copy.files(), "has the number 99");
    lines(before, &format!("{header}1 nothing.c\n")).unwrap();
    assert_says(copy.files(), "nothing.c, which is not in");
}

#[test]
fn what_is_missing_is_told_in_one_line() {
    let copy = Copy::new();
    assert_says(copy.run(&["series"]), "--out");
    let out = copy.0.path().join("series");
    let series = ["series", "--out", out.to_str().unwrap()];
    assert_says(copy.run(&series), "/nowhere/linux.tar.xz is missing");
    assert_says(
        copy.run(&["series", "--series", "2.4", "--out", "x"]),
        "there is no series 2.4",
    );
    assert_says(copy.run(&["build", "--kdir", "/nowhere"]), "/nowhere");
    assert_says(copy.run(&["files", "--nothing"]), "--nothing");
}
