//! Files that people asked for: refused before the work when they cannot be written, and written
//! whole or not at all.

use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Error of a file that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a folder of that name.
    #[error("{} is a folder; give the name of a file", file.display())]
    IsFolder {
        /// The name.
        file: PathBuf,
    },
    /// The folder of the file does not exist or takes no files.
    #[error("cannot write {}; give a file in a folder that exists and is writable", file.display())]
    Folder {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Checks that `file` can be written, without changing it.
///
/// # Errors
///
/// `file` is a folder, or its folder does not exist or takes no files.
pub fn check_writable(file: &Path) -> Result<(), Error> {
    if file.is_dir() {
        return Err(Error::IsFolder { file: file.into() });
    }
    temporary_for(file)
        .map(drop)
        .map_err(|source| Error::Folder {
            file: file.into(),
            source,
        })
}

/// Writes `file` by way of a temporary file beside it.
///
/// # Errors
///
/// Those of the file system, and those of `write`; then `file` is as it was.
pub fn write_whole(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut temporary = temporary_for(file)?;
    let mut out = BufWriter::new(temporary.as_file_mut());
    write(&mut out)?;
    out.flush()?;
    drop(out);
    temporary.persist(file).map_err(|error| error.error)?;
    Ok(())
}

/// A new file in the folder of `file`, removed again unless it is given its name.
fn temporary_for(file: &Path) -> io::Result<NamedTempFile> {
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    tempfile::Builder::new()
        .prefix(".postern-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        // The temporary name means nothing to people.
        .map_err(|error| error.kind().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out");
        write_whole(&file, |out| out.write_all(b"old")).unwrap();
        let failed = write_whole(&file, |out| {
            out.write_all(b"new")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(std::fs::read(&file).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn writable_and_unwritable_places_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out");
        check_writable(&file).unwrap();
        assert!(!file.exists());
        assert!(matches!(
            check_writable(folder.path()),
            Err(Error::IsFolder { .. })
        ));
        let error = check_writable(&folder.path().join("missing/out")).unwrap_err();
        assert!(error.to_string().contains("missing/out"), "{error}");
    }
}
