//! Files that people name: images, policies, captures, topologies, kernels.
//!
//! Each is a regular file, and is read up to a limit. A device may have no end, a pipe may have no
//! writer, and neither is waited for.
#![forbid(unsafe_code)]

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The fault of a file, as what follows its name in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is none of that name.
    #[error("does not exist: check its name")]
    Missing,
    /// The user may not read it.
    #[error("may not be read by this user: run as one who may, or allow it (chmod a+r)")]
    Denied(#[source] io::Error),
    /// The system does not read it.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It is a directory, a device, a pipe or a socket.
    #[error("is {0}: give a regular file")]
    NotAFile(&'static str),
    /// It is larger than any of its kind.
    #[error("has more than {}: give a smaller one", size(*.most))]
    TooLarge {
        /// The most bytes that such a file may have.
        most: u64,
    },
    /// It is no text.
    #[error("is not text in UTF-8: give a text file")]
    NotText,
}

/// Opens a regular file for reading.
///
/// # Errors
///
/// [`FileError::Missing`], [`FileError::Denied`], [`FileError::NotAFile`] or [`FileError::Read`].
pub fn open(path: &Path) -> Result<File, FileError> {
    // A pipe without a writer would be waited for.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|error| match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, _) => FileError::Missing,
        (ErrorKind::PermissionDenied, _) => FileError::Denied(error),
        (_, Some(libc::ENXIO)) => FileError::NotAFile("a socket"),
        _ => FileError::Read(error),
    })?;
    let kind = file.metadata().map_err(FileError::Read)?.file_type();
    match kind.is_file() {
        true => Ok(file),
        false => Err(FileError::NotAFile(name(kind))),
    }
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
///
/// A [`FileError`].
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    // Some files of /proc have more bytes than their size says, and some have no end.
    let file = open(path)?.take(most.saturating_add(1));
    { file }.read_to_end(&mut bytes).map_err(FileError::Read)?;
    match bytes.len() as u64 > most {
        true => Err(FileError::TooLarge { most }),
        false => Ok(bytes),
    }
}

/// Reads a text of at most `most` bytes from a regular file.
///
/// # Errors
///
/// A [`FileError`].
pub fn read_text(path: &Path, most: u64) -> Result<String, FileError> {
    String::from_utf8(read(path, most)?).map_err(|_| FileError::NotText)
}

fn name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// A number of bytes in words: whole MiB where it is that.
fn size(bytes: u64) -> String {
    match bytes.is_multiple_of(1 << 20) {
        true => format!("{} MiB", bytes >> 20),
        false => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (pipe, socket) = (
            directory.path().join("pipe"),
            directory.path().join("socket"),
        );
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, kind) in [
            (Path::new("/dev/zero"), "is a device: give a regular file"),
            (Path::new("/"), "is a directory: give a regular file"),
            (&pipe, "is a pipe: give a regular file"),
            (&socket, "is a socket: give a regular file"),
        ] {
            let error = read(path, 1 << 20).unwrap_err();
            assert_eq!(error.to_string(), kind);
        }
        let error = read(&directory.path().join("absent"), 1).unwrap_err();
        assert!(matches!(error, FileError::Missing), "{error}");
    }

    #[test]
    fn files_are_read_up_to_their_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read_text(&path, u64::MAX).unwrap(), "12345");
        let error = read(&path, 4).unwrap_err();
        assert_eq!(
            error.to_string(),
            "has more than 4 bytes: give a smaller one"
        );
        fs::write(&path, b"\xff").unwrap();
        let error = read_text(&path, 5).unwrap_err();
        assert!(matches!(error, FileError::NotText), "{error}");
        // Its size says 0.
        assert!(
            !read(Path::new("/proc/self/status"), 1 << 20)
                .unwrap()
                .is_empty()
        );
        let error = read(Path::new("/proc/self/status"), 10).unwrap_err();
        assert!(matches!(error, FileError::TooLarge { most: 10 }), "{error}");
    }
}
