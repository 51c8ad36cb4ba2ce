//! A bundle: all that a host needs to run figures, without a toolchain and a checkout.
//!
//! ```text
//!   FOLDER/
//!     postern-paper            this program, static
//!     programs/                VMM, guest, image of the NIC, ...
//!     eval/                    experiments and cost model, as in the checkout
//!     revision                 that it was made of
//! ```
//!
//! The program knows that it is in a bundle by the experiments that lie beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use postern_lab::setup::{self, Programs};

/// Name of the program.
const PROGRAM: &str = "postern-paper";
/// Folder of the other programs.
const PROGRAMS: &str = "programs";
/// File with the revision.
const REVISION: &str = "revision";
/// What of the checkout is in a bundle.
const FILES: [&str; 2] = ["eval/experiments", "eval/bench/cost-model.toml"];

/// The bundle that this program lies in, if it lies in one.
static BUNDLE: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    folder.join(FILES[0]).is_dir().then(|| folder.to_owned())
});

/// The folder whose experiments and cost model are used: the bundle, or the checkout.
pub fn root() -> &'static Path {
    BUNDLE.as_deref().unwrap_or_else(|| setup::root())
}

/// The revision of the source.
pub fn revision() -> String {
    let Some(bundle) = &*BUNDLE else {
        return postern_bench::revision::revision();
    };
    let text = fs::read_to_string(bundle.join(REVISION)).unwrap_or_default();
    match text.trim() {
        "" => "unknown".to_owned(),
        revision => revision.to_owned(),
    }
}

/// The programs that VMs are made of: those of the bundle, or of the checkout, which are built.
///
/// # Errors
///
/// A sentence that says what is missing.
pub fn programs() -> Result<Programs> {
    match &*BUNDLE {
        Some(bundle) => Programs::in_folder(&bundle.join(PROGRAMS)),
        None => setup::programs(),
    }
}

/// Makes a bundle in a new folder.
///
/// # Errors
///
/// A folder that exists or cannot be written, and programs that cannot be built.
pub fn make(folder: &Path) -> Result<()> {
    ensure!(
        BUNDLE.is_none(),
        "this is a bundle; bundles are made in a checkout"
    );
    ensure!(
        !folder.exists(),
        "{} exists; give a new folder",
        folder.display()
    );
    let programs = setup::programs()?;
    let paper = setup::paper()?;
    let fail = || format!("cannot write into {}", folder.display());
    fs::create_dir_all(folder.join(PROGRAMS)).with_context(fail)?;
    programs.copy_to(&folder.join(PROGRAMS))?;
    fs::copy(&paper, folder.join(PROGRAM)).with_context(fail)?;
    for name in FILES {
        copy(&setup::root().join(name), &folder.join(name))?;
    }
    fs::write(folder.join(REVISION), revision()).with_context(fail)
}

/// Copies a file, or a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let fail = || format!("copying {} to {}", from.display(), to.display());
    if !from.is_dir() {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(fail)?;
        }
        fs::copy(from, to).with_context(fail)?;
        return Ok(());
    }
    fs::create_dir_all(to).with_context(fail)?;
    for entry in fs::read_dir(from).with_context(fail)? {
        let name = entry.with_context(fail)?.file_name();
        copy(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_copied_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b/c"));
        fs::create_dir_all(from.join("x/y")).unwrap();
        fs::write(from.join("x/y/z"), "text").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(to.join("x/y/z")).unwrap(), b"text");
        copy(&from.join("x/y/z"), &to.join("n/z")).unwrap();
        assert_eq!(fs::read(to.join("n/z")).unwrap(), b"text");
    }

    #[test]
    fn a_checkout_is_no_bundle_and_folders_that_exist_are_left_alone() {
        assert_eq!(root(), setup::root());
        let directory = tempfile::tempdir().unwrap();
        let error = make(directory.path()).unwrap_err().to_string();
        assert!(error.contains("exists"), "{error}");
    }
}
