//! Initial file system of the machine: a cpio archive in the "newc" form.
//!
//! Archives of equal content are equal, byte for byte: entries are sorted, times are zero.
//! (Linux: Documentation/driver-api/early-userspace/buffer-format.rst)

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// An archive in the making, by absolute path without the leading slash.
#[derive(Debug, Default)]
pub struct Initramfs(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    Directory,
    File(Vec<u8>),
    Link(String),
    Device { major: u32, minor: u32 },
}

impl Initramfs {
    /// An archive with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// An archive with a console, and the program of this file as the first process.
    ///
    /// # Errors
    ///
    /// The file cannot be read; the message names it.
    pub fn with_program(program: &Path) -> io::Result<Self> {
        let content = std::fs::read(program).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot read {}: {error}", program.display()),
            )
        })?;
        let mut root = Self::new();
        root.device("dev/console", 5, 1).file("init", content);
        Ok(root)
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.insert(path, Entry::Directory)
    }

    /// Adds a file that everybody may read and execute.
    pub fn file(&mut self, path: &str, content: Vec<u8>) -> &mut Self {
        self.insert(path, Entry::File(content))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.insert(path, Entry::Link(target.to_owned()))
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> &mut Self {
        self.insert(path, Entry::Device { major, minor })
    }

    /// Adds an entry and the directories above it. A later entry replaces an earlier one.
    fn insert(&mut self, path: &str, entry: Entry) -> &mut Self {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.0
                .entry(path[..end].to_owned())
                .or_insert(Entry::Directory);
        }
        self.0.insert(path.to_owned(), entry);
        self
    }

    /// The archive, in memory.
    ///
    /// # Errors
    ///
    /// A file of 4 GiB or more.
    pub fn archive(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the archive.
    ///
    /// # Errors
    ///
    /// Those of `out`, and a file of 4 GiB or more.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        // Sorted by path, a directory comes before what is in it.
        for (inode, (path, entry)) in (1..).zip(&self.0) {
            let (mode, data, device): (u32, &[u8], (u32, u32)) = match entry {
                Entry::Directory => (0o040_755, &[], (0, 0)),
                Entry::File(content) => (0o100_755, content, (0, 0)),
                Entry::Link(target) => (0o120_777, target.as_bytes(), (0, 0)),
                Entry::Device { major, minor } => (0o020_600, &[], (*major, *minor)),
            };
            write_entry(out, inode, path, mode, data, device)?;
        }
        write_entry(out, 0, "TRAILER!!!", 0, &[], (0, 0))
    }
}

fn write_entry(
    out: &mut impl Write,
    inode: u32,
    path: &str,
    mode: u32,
    data: &[u8],
    (major, minor): (u32, u32),
) -> io::Result<()> {
    let size = u32::try_from(data.len()).map_err(io::Error::other)?;
    let name_size = path.len() as u32 + 1;
    write!(
        out,
        "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}",
        0, 0, 1, 0
    )?;
    write!(
        out,
        "{:08x}{:08x}{major:08x}{minor:08x}{name_size:08x}{:08x}",
        0, 0, 0
    )?;
    out.write_all(path.as_bytes())?;
    // Name and data each end at a multiple of four; the header has 110 bytes.
    let padding = |length: usize| &[0u8; 4][..length.next_multiple_of(4) - length];
    out.write_all(b"\0")?;
    out.write_all(padding(110 + path.len() + 1))?;
    out.write_all(data)?;
    out.write_all(padding(data.len()))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Initramfs::new();
        archive
            .file("/a/b/odd", b"abc".to_vec())
            .link("/a/link", "b/odd")
            .directory("z");
        archive.device("dev/console", 5, 1);
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(sample(), sample());
        assert_eq!(sample().len() % 4, 0);
    }

    #[test]
    fn cpio_reads_it() {
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            println!("SKIP: cpio is missing; apt-get install cpio");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 7, "{listing}");
        assert!(
            lines[2].starts_with("-rwxr-xr-x") && lines[2].ends_with(" a/b/odd"),
            "{listing}"
        );
        assert!(lines[3].ends_with(" a/link -> b/odd"), "{listing}");
        assert!(
            lines[5].starts_with("crw") && lines[5].contains("5,   1"),
            "{listing}"
        );
    }
}
