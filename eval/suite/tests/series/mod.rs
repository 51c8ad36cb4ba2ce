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
    files_after(&series.patches().unwrap(), names)
}

/// A folder with the files `names` as they are after these patches, each of which they add.
pub fn files_after(patches: &[PathBuf], names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec!["apply".to_owned(), "--unsafe-paths".to_owned()];
    for name in names {
        arguments.push(format!("--include={name}"));
    }
    for patch in patches {
        let status = Command::new("git")
            .args(&arguments)
            .arg(patch)
            .current_dir(folder.path())
            // The folder is no repository, and must not be taken for part of one.
            .env("GIT_CEILING_DIRECTORIES", folder.path().parent().unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "{} does not apply", patch.display());
    }
    for name in names {
        assert!(
            folder.path().join(name).exists(),
            "the patches do not add {name}"
        );
    }
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
