//! Where a bridge that runs is found: a socket, one for an interface, at which its counters are read. It
//! lies in a directory that root alone can use, so no other program of the guest can take its name first,
//! to keep a bridge from starting or to answer for it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// The directory.
const DIRECTORY: &str = "/run/postern-bridge";

/// The place of the bridge with an interface, free again once the process has ended.
#[derive(Debug)]
pub struct Place {
    socket: UnixListener,
    path: PathBuf,
}

impl Place {
    /// Takes the place.
    ///
    /// # Errors
    ///
    /// Another bridge has the interface, or the directory cannot be used.
    pub fn take(name: &str) -> Result<Place> {
        let path = path(name)?;
        let socket = bind(&path).with_context(|| {
            format!("listening to readers of the counters at {}", path.display())
        })?;
        match socket {
            Some(socket) => Ok(Place { socket, path }),
            None => {
                bail!("a postern-bridge runs with {name}: end it, or choose another name (--tap)")
            }
        }
    }

    /// Where readers of the counters come.
    pub fn socket(&self) -> &UnixListener {
        &self.socket
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Without the right to it, which a bridge may have given up, the next one does it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Listens at a socket, unless somebody does.
fn bind(path: &Path) -> io::Result<Option<UnixListener>> {
    match DirBuilder::new().mode(0o700).create(DIRECTORY) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Until it listens: of two that find what a third has left one is the first.
    let directory = File::open(DIRECTORY)?;
    flock(&directory, FlockOperation::LockExclusive)?;
    match UnixStream::connect(path) {
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    UnixListener::bind(path).map(Some)
}

/// Connects to the bridge with an interface, to read its counters.
///
/// # Errors
///
/// There is none, or the caller has no right to.
pub fn connect(name: &str) -> Result<UnixStream> {
    let connected = UnixStream::connect(path(name)?);
    connected.with_context(|| match name {
        _ if rustix::process::geteuid().is_root() => {
            format!("no postern-bridge runs with {name} in this network namespace")
        }
        _ => format!("only root reads the counters of the postern-bridge with {name}"),
    })
}

/// The socket for an interface of this network namespace, in which its name is its own.
fn path(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.contains('/') {
        bail!("{name:?} is no name of a network interface");
    }
    let namespace = fs::metadata("/proc/self/ns/net").context("finding the network namespace")?;
    Ok(Path::new(DIRECTORY).join(format!("{}-{name}", namespace.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_by_interface_and_namespace() {
        let path = path("postern0").unwrap();
        let text = path.to_str().unwrap();
        assert!(text.starts_with("/run/postern-bridge/") && text.ends_with("-postern0"));
        for name in ["", "a/b", "../x"] {
            assert!(super::path(name).is_err(), "{name}");
        }
    }
}
