//! Locks of images, against another VM that would write to the same one: open file description
//! locks of fcntl(2), which QEMU's images have, too.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks the whole file: shared with other readers, or, for `exclusive`, with nobody. `false` if
/// another has it. The lock goes with the last descriptor of the open file.
pub(super) fn lock(file: &File, exclusive: bool) -> io::Result<bool> {
    let kind = match exclusive {
        true => libc::F_WRLCK,
        false => libc::F_RDLCK,
    };
    let whole = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: F_OFD_SETLK reads a `struct flock`, which lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &whole) } {
        -1 => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            error => Err(error),
        },
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_or_many_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || file.reopen().unwrap();
        let (one, two, writer) = (open(), open(), open());
        assert!(lock(&one, false).unwrap() && lock(&two, false).unwrap());
        assert!(!lock(&writer, true).unwrap());
        drop((one, two));
        assert!(lock(&writer, true).unwrap());
        assert!(!lock(&open(), false).unwrap() && !lock(&open(), true).unwrap());
        drop(writer);
        assert!(lock(&open(), true).unwrap());
    }
}
