//! Disks of a machine: large files of jobs, which would take too long to load into its memory.
//!
//! Each is a disk of its own, as it is: the job finds a link to its block device, from which VMs can
//! have it as their disk, and which the machine can mount. What the machine writes to it is lost with
//! the machine.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::error::MachineError;

/// Size in bytes from which a file of a job becomes a disk.
pub const LARGE: u64 = 32 << 20;

/// Places of the machine's two ATA channels for disks, less that of the disc that it boots.
const PLACES: [&str; 3] = ["ata0-slave", "ata1-master", "ata1-slave"];

/// The disks of a machine, in the order of their devices.
#[derive(Debug, Default)]
pub struct Disks(Vec<PathBuf>);

impl Disks {
    /// Adds a file unless it is there already. Returns the path of its device in the machine.
    pub fn add(&mut self, file: &Path) -> Result<String, MachineError> {
        let index = match self.0.iter().position(|known| known == file) {
            Some(index) => index,
            None if self.0.len() == PLACES.len() => {
                return Err(MachineError::Prepare {
                    what: format!("making {} a disk of the machine", file.display()),
                    source: io::Error::other(format!(
                        "it has room for {} files of {} MiB and more; put several into one image",
                        PLACES.len(),
                        LARGE >> 20
                    )),
                });
            }
            None => {
                self.0.push(file.to_owned());
                self.0.len() - 1
            }
        };
        Ok(format!("/dev/sd{}", char::from(b'a' + index as u8)))
    }

    /// Number of disks.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Links the files into the machine's directory, where the emulator looks for them and keeps what
    /// the machine writes.
    pub fn link(&self, directory: &Path) -> Result<(), MachineError> {
        for (index, file) in self.0.iter().enumerate() {
            let link = directory.join(name(index));
            std::path::absolute(file)
                .and_then(|file| symlink(file, &link))
                .map_err(|source| MachineError::Prepare {
                    what: format!("making a link to {}", file.display()),
                    source,
                })?;
        }
        Ok(())
    }

    /// Lines of the emulator's configuration, for `count` disks.
    pub fn configuration(count: usize) -> String {
        let mut lines = String::new();
        if count > 1 {
            lines += "ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15\n";
        }
        for (index, place) in PLACES.iter().take(count).enumerate() {
            // volatile: what is written goes to a file beside the link. Without a geometry, it is
            // that of the file.
            lines += &format!("{place}: type=disk, path={}, mode=volatile\n", name(index));
        }
        lines
    }
}

/// Name of a disk's link in the machine's directory.
fn name(index: usize) -> String {
    format!("disk{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_one_disk() {
        let mut disks = Disks::default();
        for (file, device) in [("/a", "/dev/sda"), ("/b", "/dev/sdb"), ("/a", "/dev/sda")] {
            assert_eq!(disks.add(Path::new(file)).unwrap(), device);
        }
        assert_eq!(disks.count(), 2);
        disks.add(Path::new("/c")).unwrap();
        let error = disks.add(Path::new("/d")).unwrap_err().to_string();
        assert!(
            error.contains("/d a disk") || error.contains("/d"),
            "{error}"
        );
    }

    #[test]
    fn the_second_channel_is_there_for_more_than_one_disk() {
        assert_eq!(Disks::configuration(0), "");
        assert!(!Disks::configuration(1).contains("ata1"));
        let three = Disks::configuration(3);
        assert_eq!(three.matches("type=disk").count(), 3);
        assert!(three.starts_with("ata1: enabled=1"));
    }
}
