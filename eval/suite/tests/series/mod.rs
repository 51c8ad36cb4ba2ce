//! Reads files that a kernel series adds, without a kernel tree.

use std::path::{Path, PathBuf};
use std::process::Command;

pub use postern_lab::setup::Series;
use postern_lab::setup::root;

/// All series; what a test says holds for each.
pub fn all() -> Vec<Series> {
    let all = Series::all(root()).unwrap();
    assert!(!all.is_empty(), "no series");
    all
}

/// A folder with the files `names` as they are after the whole series, each of which it adds.
pub fn added_files(series: &Series, names: &[&str]) -> tempfile::TempDir {
    files_after(series, &[], names)
}

/// The same after further patches.
pub fn files_after(series: &Series, more: &[PathBuf], names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(root().join("kernel-patches/build.sh"))
        .args(["files", "--series", &series.name()])
        .args(
            more.iter()
                .flat_map(|patch| ["--extra".as_ref(), patch.as_os_str()]),
        )
        .arg("--out")
        .arg(folder.path())
        .args(names)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    folder
}

/// Compiles a C program of the folder and returns what it prints.
pub fn compile_and_run(folder: &Path, source: &str, include: &[&str]) -> Vec<u8> {
    let program = folder.join("program");
    let mut compiler = Command::new("cc");
    compiler
        .arg("-Wall")
        .arg("-Werror")
        .arg("-o")
        .arg(&program)
        .arg(folder.join(source));
    for path in include {
        compiler.arg("-I").arg(folder.join(path));
    }
    let output = compiler.output().expect("a C compiler; install gcc");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success());
    output.stdout
}
