//! The name of a NIC's socket: a path that fits into the address of a Unix socket, in a directory that is
//! there.
#![deny(unsafe_code)]

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most bytes of a path that Linux takes as the address of a Unix socket (`sun_path` of unix(7) has
/// 108, of which the last is zero).
pub const MAX_SOCKET_PATH: usize = 107;

/// The path is too long for a socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the socket {} has a name of {} bytes, of which Linux takes {MAX_SOCKET_PATH}: choose a \
     shorter one, or a relative one",
    .0.display(), .0.as_os_str().len()
)]
pub struct SocketPathError(pub PathBuf);

/// Checks that a socket can have that name.
///
/// # Errors
///
/// When the name is too long.
pub fn check(path: &Path) -> Result<(), SocketPathError> {
    match path.as_os_str().as_bytes().len() {
        ..=MAX_SOCKET_PATH => Ok(()),
        _ => Err(SocketPathError(path.to_owned())),
    }
}

/// The directory that a file or socket is to be made in, if it is not there.
pub fn missing_directory(path: &Path) -> Option<&Path> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    (!directory.is_dir()).then_some(directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_directory_that_is_missing_is_known() {
        let missing = |path: &str| missing_directory(Path::new(path)).map(Path::to_owned);
        assert_eq!(missing("/nosuch/deeper/x"), Some("/nosuch/deeper".into()));
        assert_eq!(
            [missing("x"), missing("/x"), missing("/proc/x")],
            [None, None, None]
        );
    }

    #[test]
    fn the_limit_is_that_of_the_system() {
        let directory = tempfile::tempdir().unwrap();
        let length = directory.path().as_os_str().len() + 1;
        for (size, fits) in [(MAX_SOCKET_PATH, true), (MAX_SOCKET_PATH + 1, false)] {
            let path = directory.path().join("s".repeat(size - length));
            assert_eq!(UnixListener::bind(&path).is_ok(), fits);
            let checked = check(&path);
            assert_eq!(checked.is_ok(), fits);
            if let Err(error) = checked {
                assert!(
                    error
                        .to_string()
                        .contains("108 bytes, of which Linux takes 107")
                );
            }
        }
    }
}
