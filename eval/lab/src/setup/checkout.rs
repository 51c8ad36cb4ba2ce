//! The checkout that this program was built from, and where cargo builds what is in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, OnceLock};

use anyhow::{Context, Result, ensure};

/// The top of the checkout.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        // A checkout that was moved away gets its message from whoever reads a file of it.
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    });
    &ROOT
}

/// Cargo's target directory of the checkout. All that is built of it is built there, with what its
/// developers build, so that nothing is built twice and everything goes with the checkout.
///
/// # Errors
///
/// Cargo does not tell.
pub fn target() -> Result<&'static Path> {
    let target = metadata()?["target_directory"].as_str();
    Ok(Path::new(
        target.context("cargo metadata names no directory")?,
    ))
}

/// Packages of the checkout, their programs and tests, as `cargo metadata` tells them.
///
/// # Errors
///
/// Cargo does not tell.
pub fn metadata() -> Result<&'static serde_json::Value> {
    static METADATA: OnceLock<serde_json::Value> = OnceLock::new();
    if let Some(metadata) = METADATA.get() {
        return Ok(metadata);
    }
    let mut command = cargo();
    command.args(["metadata", "--no-deps", "--offline"]);
    command.args(["--format-version", "1"]);
    let output = command.output().context("running cargo")?;
    let failed = || {
        format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    };
    ensure!(output.status.success(), failed());
    let found = serde_json::from_slice(&output.stdout).with_context(failed)?;
    Ok(METADATA.get_or_init(|| found))
}

/// A command of cargo in the checkout.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root());
    // These say something about the build of this very program.
    for (name, _) in std::env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"CARGO_PKG_") || bytes.starts_with(b"CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}
