//! The name of a NIC's socket: a path that fits into the address of a Unix socket.
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

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
