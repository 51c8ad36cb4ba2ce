//! What a guest finds in its memory, put there when it starts and again after each reset.
#![deny(unsafe_code)]

use vm_memory::GuestMemoryMmap;

use super::error::Error;
use crate::acpi;
use crate::boot::{self, Descriptors, StartInfo};
use crate::loader::{Entry, InitrdFile, Kernel, KernelFile, Module};
use crate::memory;

/// The files of a guest, which stay open: a reset needs no path.
#[derive(Debug)]
pub(super) struct GuestFiles {
    pub(super) kernel: KernelFile,
    pub(super) initrd: Option<InitrdFile>,
}

/// A kernel and an initrd in memory.
#[derive(Debug)]
pub(super) struct Loaded {
    kernel: Kernel,
    initrd: Option<Module>,
}

impl GuestFiles {
    /// Reads the files into memory.
    pub(super) fn load(&mut self, ram: &GuestMemoryMmap) -> Result<Loaded, Error> {
        let kernel = self.kernel.load(ram)?;
        let initrd = self.initrd.as_mut();
        let initrd = initrd.map(|file| file.load(ram, &kernel)).transpose()?;
        Ok(Loaded { kernel, initrd })
    }
}

/// Where a guest's first processor starts.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) entry: Entry,
    pub(super) tables: Descriptors,
}

/// A guest's memory and all that it finds there.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) files: GuestFiles,
    pub(super) ram: GuestMemoryMmap,
    pub(super) cmdline: String,
    pub(super) platform: acpi::Platform,
}

impl Guest {
    /// Writes everything besides the kernel and initrd, which are loaded.
    pub(super) fn prepare(&self, loaded: &Loaded) -> Result<Start, Error> {
        let info = StartInfo {
            cmdline: &self.cmdline,
            initrd: loaded.initrd,
            rsdp: acpi::write(&self.ram, &self.platform)?,
        };
        let tables = boot::prepare(&self.ram, &loaded.kernel, &info)?;
        Ok(Start {
            entry: loaded.kernel.entry,
            tables,
        })
    }

    /// Clears the memory and puts everything there anew.
    pub(super) fn reload(&mut self) -> Result<Start, Error> {
        memory::clear(&self.ram)?;
        let loaded = self.files.load(&self.ram)?;
        self.prepare(&loaded)
    }
}
