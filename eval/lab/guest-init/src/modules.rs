//! Kernel modules of the initial file system.

use std::fs::{self, File};

use anyhow::{Context, Result};
use rustix::io::Errno;

/// File that names modules, one a line, in the order of loading. There is none where the kernel has
/// all that it needs.
const LIST: &str = "/postern/modules";

/// Loads what the list names.
///
/// # Errors
///
/// A module that is missing or that the kernel refuses.
pub fn load_all() -> Result<()> {
    for path in fs::read_to_string(LIST).unwrap_or_default().lines() {
        let file = File::open(path).with_context(|| format!("opening the module {path}"))?;
        match rustix::system::finit_module(&file, c"", 0) {
            // It is in the kernel already.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => Err(error).with_context(|| format!("loading the module {path}"))?,
        }
    }
    Ok(())
}
