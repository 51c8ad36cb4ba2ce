//! Calls of block devices that no library has.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

/// `BLKDISCARD`, `BLKZEROOUT` (Linux: include/uapi/linux/fs.h): a range of two 64-bit numbers.
const BLKDISCARD: u64 = 0x1277;
const BLKZEROOUT: u64 = 0x127f;

/// Forgets a range of a disk.
pub fn discard(disk: &File, offset: u64, length: u64) -> Result<()> {
    range(disk, BLKDISCARD, offset, length).context("BLKDISCARD")
}

/// Fills a range of a disk with zeros.
pub fn zero_out(disk: &File, offset: u64, length: u64) -> Result<()> {
    range(disk, BLKZEROOUT, offset, length).context("BLKZEROOUT")
}

fn range(disk: &File, call: u64, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: both calls read two numbers at the pointer, which `range` has.
    match unsafe { libc::ioctl(disk.as_raw_fd(), call as libc::Ioctl, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
