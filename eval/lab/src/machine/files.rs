//! Files that machines are made of.

use std::path::PathBuf;

/// Programs and firmware that a machine is made of.
#[derive(Clone, Debug)]
pub struct MachineFiles {
    /// The emulator, with Postern's patches.
    pub bochs: PathBuf,
    /// Its BIOS.
    pub bios: PathBuf,
    /// Its VGA BIOS.
    pub vga_bios: PathBuf,
    /// Boot loader of the disc, `isolinux.bin`.
    pub isolinux: PathBuf,
    /// The boot loader's library, `ldlinux.c32`.
    pub ldlinux: PathBuf,
    /// Shell and tools, linked statically.
    pub busybox: PathBuf,
    /// First process, linked statically.
    pub init: PathBuf,
    /// Directory in which each machine has a directory of its own.
    pub run: PathBuf,
}

/// A kernel to boot.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Compressed image.
    pub image: PathBuf,
    /// Modules that drive the machine's disks, in the order of loading; none if it cannot have any.
    pub disk_drivers: Vec<PathBuf>,
}
