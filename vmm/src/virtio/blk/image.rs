//! The file or block device that a disk is: opened, checked and locked.
#![deny(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags};

use super::config::DiskConfig;
use super::lock;
use crate::virtio::buffers::Buffers;

/// Bytes of a sector, the unit of all offsets and sizes of requests.
pub(super) const SECTOR: u64 = 512;

/// Why a disk cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error(
        "there is no disk {}: make an empty one with truncate -s SIZE {}",
        .0.display(), .0.display()
    )]
    Missing(PathBuf),
    /// The user may not open it.
    #[error(
        "no permission to {} the disk {}: ask its owner{}",
        access(*.readonly), .path.display(), or_readonly(*.readonly)
    )]
    Permission {
        /// The disk.
        path: PathBuf,
        /// Whether it was to be read only.
        readonly: bool,
    },
    /// It cannot be written for another reason.
    #[error(
        "the disk {} can only be read ({source}): give it as readonly",
        .path.display()
    )]
    ReadOnly {
        /// The disk.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("the disk {} is {what}: give a raw image or a block device", .path.display())]
    Kind {
        /// The disk.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Another program has it.
    #[error(
        "the disk {} is in use by another VM or program{}",
        .path.display(), or_share(*.readonly)
    )]
    Locked {
        /// The disk.
        path: PathBuf,
        /// Whether it was to be read only.
        readonly: bool,
    },
    /// An image of another format.
    #[error(
        "the disk {} is an image of format {format}, and only raw ones can be used: convert it with \
         qemu-img convert -O raw {} NEW",
        .path.display(), .path.display()
    )]
    Format {
        /// The disk.
        path: PathBuf,
        /// Name of the format, as qemu-img has it.
        format: &'static str,
    },
    /// No sector.
    #[error("the disk {} is empty: {}", .path.display(), fill(.path, *.block))]
    Empty {
        /// The disk.
        path: PathBuf,
        /// Whether it is a block device.
        block: bool,
    },
    /// No whole number of sectors.
    #[error(
        "the disk {} has {size} bytes, which is no multiple of {SECTOR}: make it fit with truncate -s \
         {} {}",
        .path.display(), .size.next_multiple_of(SECTOR), .path.display()
    )]
    Size {
        /// The disk.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// The file system has no O_DIRECT.
    #[error(
        "the file system of the disk {} cannot leave out the page cache: give the disk without \
         direct",
        .0.display()
    )]
    Direct(PathBuf),
    /// Anything else.
    #[error("cannot {what} the disk {}", .path.display())]
    System {
        /// The operation that failed.
        what: &'static str,
        /// The disk.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

fn fill(path: &Path, block: bool) -> String {
    match block {
        true => "give a device with a medium".to_owned(),
        false => format!(
            "give it a size (truncate -s SIZE {}; SIZE is 1G, for example)",
            path.display()
        ),
    }
}

fn access(readonly: bool) -> &'static str {
    match readonly {
        true => "read",
        false => "read and write",
    }
}

fn or_readonly(readonly: bool) -> &'static str {
    match readonly {
        true => "",
        false => ", or give it as readonly",
    }
}

fn or_share(readonly: bool) -> &'static str {
    match readonly {
        true => " that writes to it: wait for its end, or copy the disk",
        false => ": wait for its end, copy the disk, or give it as readonly to all",
    }
}

/// Where formats that are not raw have their mark, and the name that qemu-img has for them.
const FORMATS: [(usize, &[u8], &str); 7] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0x40, &0xbeda_107f_u32.to_le_bytes(), "vdi"),
];

/// The disk, open and locked.
#[derive(Debug)]
pub(super) struct Image {
    path: PathBuf,
    readonly: bool,
    /// Through the page cache.
    cached: File,
    /// Around it (O_DIRECT), with the unit in which it can be used.
    direct: Option<(File, u64)>,
    size: u64,
    /// Bytes of a logical and of a physical block.
    blocks: (u32, u32),
    /// Whether the host can forget what is in a range.
    discards: bool,
}

impl Image {
    pub(super) fn open(config: &DiskConfig) -> Result<Image, Error> {
        let path = &config.path;
        let readonly = config.readonly;
        let system = |what| {
            move |source| Error::System {
                what,
                path: path.clone(),
                source,
            }
        };
        let block = check_kind(path)?;
        if block && !readonly && is_readonly_device(path) {
            return Err(Error::ReadOnly {
                path: path.clone(),
                source: io::ErrorKind::ReadOnlyFilesystem.into(),
            });
        }
        let mut cached = open(path, readonly, block, OFlags::empty())?;
        if !lock::lock(&cached, !readonly).map_err(system("lock"))? {
            let path = path.clone();
            return Err(Error::Locked { path, readonly });
        }
        // Of a block device, the metadata say nothing about the size.
        let size = cached.seek(SeekFrom::End(0)).map_err(system("seek in"))?;
        cached.rewind().map_err(system("seek in"))?;
        let mut head = Vec::new();
        Read::by_ref(&mut cached)
            .take(SECTOR)
            .read_to_end(&mut head)
            .map_err(system("read"))?;
        let marked = |&(at, mark, _): &(usize, &[u8], _)| {
            head.get(at..).is_some_and(|rest| rest.starts_with(mark))
        };
        if let Some(&(_, _, format)) = FORMATS.iter().find(|&one| marked(one)) {
            let path = path.clone();
            return Err(Error::Format { path, format });
        }
        if size == 0 {
            let path = path.clone();
            return Err(Error::Empty { path, block });
        }
        if !size.is_multiple_of(SECTOR) {
            let path = path.clone();
            return Err(Error::Size { path, size });
        }
        let blocks = match block {
            true => (
                rustix::fs::ioctl_blksszget(&cached).unwrap_or(SECTOR as u32),
                rustix::fs::ioctl_blkpbszget(&cached).unwrap_or(SECTOR as u32),
            ),
            false => (SECTOR as u32, 4096),
        };
        let direct = match config.direct {
            true => {
                let file = open(path, readonly, false, OFlags::DIRECT)?;
                let unit = u64::from(if block { blocks.0 } else { blocks.1 });
                Some((file, unit.next_power_of_two()))
            }
            false => None,
        };
        // Beyond the end of a file there is nothing to forget, and file systems that could not say so.
        let discards = !readonly
            && (block || fallocate(&cached, FallocateFlags::PUNCH_HOLE, size, SECTOR).is_ok());
        Ok(Image {
            path: path.clone(),
            readonly,
            cached,
            direct,
            size,
            blocks,
            discards,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn readonly(&self) -> bool {
        self.readonly
    }

    /// Size in bytes, when it was opened.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a logical and of a physical block.
    pub(super) fn blocks(&self) -> (u32, u32) {
        self.blocks
    }

    /// Whether the host can forget what is in a range.
    pub(super) fn discards(&self) -> bool {
        self.discards
    }

    /// Reads into all of `buffers`.
    pub(super) fn read(&self, buffers: &mut Buffers, offset: u64) -> io::Result<()> {
        buffers.fill_from(self.file_for(buffers, offset).as_fd(), offset)
    }

    /// Writes all of `buffers`; `durable`, so that no flush is needed.
    pub(super) fn write(
        &self,
        buffers: &mut Buffers,
        offset: u64,
        durable: bool,
    ) -> io::Result<()> {
        buffers.store_to(self.file_for(buffers, offset).as_fd(), offset, durable)
    }

    /// The file through which these bytes can be read and written. What does not fit the unit of
    /// O_DIRECT goes through the page cache, with which the kernel keeps O_DIRECT coherent.
    fn file_for(&self, buffers: &Buffers, offset: u64) -> &File {
        match &self.direct {
            Some((file, unit)) if offset & (unit - 1) == 0 && buffers.aligned_to(*unit) => file,
            _ => &self.cached,
        }
    }

    /// Makes durable what has been written.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self.readonly {
            true => Ok(()),
            false => Ok(rustix::fs::fdatasync(&self.cached)?),
        }
    }

    /// Forgets a range: it has any content afterwards.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        fallocate(&self.cached, FallocateFlags::PUNCH_HOLE, offset, len)
    }

    /// Fills a range with zeros; `unmap`, and the host may give its space away.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let how = match unmap && self.discards {
            true => FallocateFlags::PUNCH_HOLE,
            false => FallocateFlags::ZERO_RANGE,
        };
        match fallocate(&self.cached, how, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.write_plain_zeroes(offset, len)
            }
            done => done,
        }
    }

    fn write_plain_zeroes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        while len > 0 {
            let part = len.min(ZEROES.len() as u64);
            self.cached.write_all_at(&ZEROES[..part as usize], offset)?;
            offset += part;
            len -= part;
        }
        Ok(())
    }
}

fn fallocate(file: &File, how: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
    let how = how | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, how, offset, len)?)
}

/// Whether it is a block device, and not a file.
fn check_kind(path: &Path) -> Result<bool, Error> {
    let kind = match path.metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(error) => return Err(open_error(path, true, error)),
    };
    let what = match () {
        () if kind.is_file() => return Ok(false),
        () if kind.is_block_device() => return Ok(true),
        () if kind.is_dir() => "a directory",
        () if kind.is_char_device() => "a character device",
        () if kind.is_fifo() => "a pipe",
        () => "a socket",
    };
    let path = path.to_owned();
    Err(Error::Kind { path, what })
}

/// Whether this is a block device that nobody can write to. Linux lets it be opened for writing, and
/// refuses the writes.
fn is_readonly_device(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else {
        return false;
    };
    let device = metadata.rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"));
    text.is_ok_and(|text| text.trim() == "1")
}

/// Opens the disk; a block device to write to for this program alone, which a mounted one refuses.
fn open(path: &Path, readonly: bool, exclusive: bool, flags: OFlags) -> Result<File, Error> {
    let exclusive = match exclusive && !readonly {
        true => OFlags::EXCL,
        false => OFlags::empty(),
    };
    // What was a file when it was looked at may be a pipe by now: do not wait for its other end.
    let flags = flags | exclusive | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .write(!readonly)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(|error| match flags.contains(OFlags::DIRECT) {
            true if error.kind() == io::ErrorKind::InvalidInput => Error::Direct(path.to_owned()),
            _ => open_error(path, readonly, error),
        })
}

fn open_error(path: &Path, readonly: bool, source: io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => Error::Missing(path),
        io::ErrorKind::PermissionDenied => Error::Permission { path, readonly },
        io::ErrorKind::ReadOnlyFilesystem => Error::ReadOnly { path, source },
        io::ErrorKind::ResourceBusy => Error::Locked { path, readonly },
        _ => Error::System {
            what: "open",
            path,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn refused(config: &DiskConfig) -> String {
        Image::open(config).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_disk_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none");
        for (path, said) in [
            (missing.as_path(), "truncate -s SIZE"),
            (directory.path(), "is a directory: give a raw image"),
            (Path::new("/dev/null"), "is a character device"),
            (
                image(&[0; 513]).path(),
                "513 bytes, which is no multiple of 512",
            ),
            (image(&[0; 513]).path(), "truncate -s 1024 "),
            (
                image(&[]).path(),
                "is empty: give it a size (truncate -s SIZE ",
            ),
        ] {
            let error = refused(&DiskConfig::new(path));
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn other_formats_are_named() {
        for (at, mark, format) in FORMATS {
            let mut bytes = vec![0; 1024];
            bytes[at..at + mark.len()].copy_from_slice(mark);
            let error = refused(&DiskConfig::new(image(&bytes).path()));
            assert!(error.contains(&format!("format {format},")), "{error}");
            assert!(error.contains("qemu-img convert -O raw"), "{error}");
        }
    }

    #[test]
    fn writers_are_alone() {
        let file = image(&[1; 1024]);
        let writer = DiskConfig::new(file.path());
        let reader = DiskConfig {
            readonly: true,
            ..writer.clone()
        };
        let one = Image::open(&reader).unwrap();
        let two = Image::open(&reader).unwrap();
        assert!(refused(&writer).contains("readonly to all"));
        drop((one, two));
        let _writer = Image::open(&writer).unwrap();
        assert!(refused(&writer).contains("in use by another VM"));
        assert!(refused(&reader).contains("that writes to it"));
    }

    #[test]
    fn what_may_not_be_written_can_be_read() {
        // Root may write to all files but those of a file system that nobody can write to.
        let path = Path::new("/proc/version");
        let config = DiskConfig::new(path);
        assert!(Image::open(&config).is_err());
        let file = image(&[1; 512]);
        let config = DiskConfig {
            readonly: true,
            ..DiskConfig::new(file.path())
        };
        let image = Image::open(&config).unwrap();
        assert!(image.readonly() && !image.discards());
        assert_eq!(image.size(), 512);
    }

    #[test]
    fn discarded_ranges_have_no_space() {
        let file = image(&vec![0xaa; 1 << 20]);
        let image = Image::open(&DiskConfig::new(file.path())).unwrap();
        if !image.discards() {
            eprintln!("SKIP: the file system of temporary files cannot punch holes");
            return;
        }
        let before = file.path().metadata().unwrap();
        image.discard(0, 1 << 19).unwrap();
        let after = file.path().metadata().unwrap();
        assert_eq!(after.size(), before.size());
        assert!(after.blocks() < before.blocks());
        for (offset, unmap) in [(1 << 19, false), (3 << 18, true)] {
            image.write_zeroes(offset, 4096, unmap).unwrap();
        }
        image.write_plain_zeroes(512, 70_000).unwrap();
        image.flush().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(bytes[..(1 << 19) + 4096].iter().all(|&byte| byte == 0));
        assert!(
            bytes[(1 << 19) + 4096..3 << 18]
                .iter()
                .all(|&byte| byte == 0xaa)
        );
    }
}
