//! Directories that machines run in.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::MachineError;

/// A directory of one machine or test, gone when that is.
///
/// Its lock says that somebody uses it, so that one left behind by a program that was killed can be
/// told and removed.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    kept: bool,
    _lock: File,
}

impl RunDirectory {
    /// Makes a directory below `parent`, and removes those that nobody uses any more: whatever is in
    /// `parent` without a lock that somebody holds.
    ///
    /// # Errors
    ///
    /// It cannot be made or locked.
    pub fn new(parent: &Path, kept: bool) -> Result<Self, MachineError> {
        let prepare = |source| MachineError::Prepare {
            what: format!("making a directory in {}", parent.display()),
            source,
        };
        fs::create_dir_all(parent).map_err(prepare)?;
        // One program at a time, so that none takes a new directory for one left behind.
        let all = File::open(parent).map_err(prepare)?;
        flock(&all, FlockOperation::LockExclusive).map_err(|e| prepare(e.into()))?;
        remove_unused(parent);
        let path = (0..)
            .map(|number| parent.join(format!("{}-{number}", std::process::id())))
            .find_map(|path| match fs::create_dir(&path) {
                Ok(()) => Some(Ok(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => None,
                Err(error) => Some(Err(error)),
            })
            .expect("there is always another number")
            .map_err(prepare)?;
        let lock = File::create(path.join("lock")).map_err(prepare)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| prepare(e.into()))?;
        Ok(Self {
            path,
            kept,
            _lock: lock,
        })
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if self.kept {
            let kept = self.path.with_extension("kept");
            // If it cannot be renamed, the next run removes it.
            let _ = fs::rename(&self.path, &kept);
            eprintln!("kept {}", kept.display());
        } else {
            // What cannot be removed now, the next run removes.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn remove_unused(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let kept = path.extension().is_some();
        let used = File::open(path.join("lock"))
            .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err());
        if !kept && !used {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_directories_stay_and_unused_ones_go() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("1-0");
        fs::create_dir(&left).unwrap();
        File::create(left.join("lock")).unwrap();
        let first = RunDirectory::new(parent.path(), false).unwrap();
        let second = RunDirectory::new(parent.path(), true).unwrap();
        assert!(!left.exists());
        assert!(first.path().exists() && second.path().exists());
        let paths = [first.path().to_owned(), second.path().to_owned()];
        drop((first, second));
        assert!(!paths[0].exists() && paths[1].with_extension("kept").exists());
        drop(RunDirectory::new(parent.path(), false).unwrap());
        assert!(paths[1].with_extension("kept").exists());
    }
}
