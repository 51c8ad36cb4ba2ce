//! The ISO image that a machine boots: isolinux, a kernel, an initial file system.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::error::MachineError;
use super::files::MachineFiles;
use super::initramfs::Initramfs;
use super::tool;

/// Kernel command line. The machine's serial port runs at its highest speed, since every byte takes
/// its emulated time; addresses of programs are not random, so that equal runs are equal.
pub const COMMAND_LINE: &str = "console=ttyS0,115200 nokaslr norandmaps mitigations=off panic=-1 \
                            reboot=t no_timer_check quiet";

/// Makes `directory/machine.iso` from files put into `directory/iso`.
pub fn make(
    directory: &Path,
    files: &MachineFiles,
    kernel: &Path,
    initramfs: &Initramfs,
    more_arguments: &str,
) -> Result<(), MachineError> {
    let fail = |what: &str, path: &Path, source: io::Error| MachineError::Prepare {
        what: format!("{what} {}", path.display()),
        source,
    };
    let tree = directory.join("iso");
    fs::create_dir_all(&tree).map_err(|error| fail("making", &tree, error))?;
    for (from, name) in [
        (&*files.isolinux, "isolinux.bin"),
        (&*files.ldlinux, "ldlinux.c32"),
        (kernel, "kernel"),
    ] {
        fs::copy(from, tree.join(name)).map_err(|error| fail("copying", from, error))?;
    }
    let configuration = format!(
        "DEFAULT l\nPROMPT 0\nLABEL l\nKERNEL kernel\n\
         APPEND initrd=initrd {COMMAND_LINE} {more_arguments}\n"
    );
    let path = tree.join("isolinux.cfg");
    fs::write(&path, configuration).map_err(|error| fail("writing", &path, error))?;
    let path = tree.join("initrd");
    write_buffered(&path, |out| initramfs.write(out))
        .map_err(|error| fail("writing", &path, error))?;
    stop_clocks(&tree).map_err(|error| fail("dating", &tree, error))?;

    let image = directory.join("machine.iso");
    let mut genisoimage = Command::new("genisoimage");
    genisoimage
        .args([
            "-quiet",
            "-b",
            "isolinux.bin",
            "-c",
            "boot.cat",
            "-no-emul-boot",
        ])
        .args(["-boot-load-size", "4", "-boot-info-table", "-o"])
        .args([&image, &tree]);
    tool::run(&mut genisoimage)?;
    clear_dates(&image).map_err(|error| fail("dating", &image, error))?;
    fs::remove_dir_all(&tree).map_err(|error| fail("removing", &tree, error))
}

fn write_buffered(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 20, File::create(path)?);
    write(&mut out)?;
    out.flush()
}

/// 2000-01-01, for everything on the disc.
const DATE: Duration = Duration::from_secs(946_684_800);

fn stop_clocks(tree: &Path) -> io::Result<()> {
    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + DATE);
    for entry in fs::read_dir(tree)? {
        File::open(entry?.path())?.set_times(times)?;
    }
    File::open(tree)?.set_times(times)
}

/// Size of a sector of the disc.
const SECTOR: u64 = 2048;
/// Offset of the volume descriptors, in bytes.
const DESCRIPTORS: u64 = 16 * SECTOR;
/// The four dates of a volume descriptor, as ECMA-119 "Primary Volume Descriptor" places them.
const DATES: std::ops::Range<usize> = 813..881;
/// The date of the root directory's record in a volume descriptor.
const ROOT_DATE: std::ops::Range<usize> = 174..181;
/// Bytes of a directory's record that are its date.
const RECORD_DATE: std::ops::Range<usize> = 18..25;

/// Writes the same dates into every image: those of the volume are when it was made, and those of
/// directory records that the program makes itself.
fn clear_dates(image: &Path) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(image)?;
    let mut sector = [0; SECTOR as usize];
    file.seek(SeekFrom::Start(DESCRIPTORS))?;
    file.read_exact(&mut sector)?;
    // "Not specified", for each of the four.
    for date in sector[DATES].chunks_exact_mut(17) {
        date[..16].fill(b'0');
        date[16] = 0;
    }
    sector[ROOT_DATE].fill(0);
    let root = u32::from_le_bytes([158, 159, 160, 161].map(|at: usize| sector[at]));
    let root_size = u32::from_le_bytes([166, 167, 168, 169].map(|at: usize| sector[at]));
    file.seek(SeekFrom::Start(DESCRIPTORS))?;
    file.write_all(&sector)?;

    let mut directory = vec![0; root_size as usize];
    file.seek(SeekFrom::Start(u64::from(root) * SECTOR))?;
    file.read_exact(&mut directory)?;
    let mut at = 0;
    while at < directory.len() {
        match directory[at] {
            // No record crosses into another sector.
            0 => at = (at + 1).next_multiple_of(SECTOR as usize),
            length => {
                if let Some(date) = directory.get_mut(at + RECORD_DATE.start..at + RECORD_DATE.end)
                {
                    date.fill(0);
                }
                at += usize::from(length);
            }
        }
    }
    file.seek(SeekFrom::Start(u64::from(root) * SECTOR))?;
    file.write_all(&directory)
}
