//! Values as JSON in files that only exist in memory.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;

/// A memfd with a value as JSON.
pub(super) fn json_file(name: &str, value: &impl Serialize) -> io::Result<File> {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    // The position, which whoever gets the descriptor shares, stays at the beginning.
    file.write_all_at(&serde_json::to_vec(value)?, 0)?;
    Ok(file)
}
