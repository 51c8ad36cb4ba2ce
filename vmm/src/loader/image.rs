//! ELF headers, checked against the file and the VM's memory.
#![deny(unsafe_code)]

use std::ops::Range;

use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_INTERP, PT_LOAD, PT_NOTE};
use postern_abi::platform;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::error::ImageError;
use super::file::{Reader, Source};
use crate::layout;

/// The headers of an ELF file, found consistent with the file's size.
pub(super) struct Image {
    programs: Vec<Elf64_Phdr>,
}

impl Image {
    pub(super) fn parse<S: Source>(reader: &mut Reader<'_, S>) -> Result<Image, ImageError> {
        const WANTED: &str = "a statically linked ELF64 executable for x86-64";
        let header: Elf64_Ehdr = reader.header(0, || "the ELF header".to_owned())?;
        let wrong = |found: String| ImageError::WrongKind {
            found,
            wanted: WANTED,
        };
        match (header.e_ident[4], header.e_ident[5]) {
            (2, 1) => {}
            (1, _) => return Err(wrong("a 32-bit ELF file".to_owned())),
            (2, 2) => return Err(wrong("a big-endian ELF file".to_owned())),
            (class, data) => {
                return Err(wrong(format!("an ELF file of class {class}, data {data}")));
            }
        }
        const EM_X86_64: u16 = 62;
        if header.e_machine != EM_X86_64 {
            return Err(wrong(format!(
                "an ELF file for machine {}",
                header.e_machine
            )));
        }
        match header.e_type {
            2 => {}
            1 => return Err(wrong("an object file".to_owned())),
            3 => {
                return Err(wrong(
                    "position independent (rustc: -C relocation-model=static)".to_owned(),
                ));
            }
            other => return Err(wrong(format!("an ELF file of type {other}"))),
        }
        if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() {
            return Err(ImageError::Corrupt(format!(
                "program headers of {} bytes, not {}",
                header.e_phentsize,
                size_of::<Elf64_Phdr>()
            )));
        }
        if header.e_phoff < size_of::<Elf64_Ehdr>() as u64 {
            return Err(ImageError::Corrupt(format!(
                "program headers at byte {:#x}, inside the ELF header",
                header.e_phoff
            )));
        }
        let mut programs = Vec::with_capacity(usize::from(header.e_phnum));
        for number in 0..u64::from(header.e_phnum) {
            let offset = (number * size_of::<Elf64_Phdr>() as u64).checked_add(header.e_phoff);
            let program: Elf64_Phdr = reader.header(offset.unwrap_or(u64::MAX), || {
                format!("program header {number}")
            })?;
            if matches!(program.p_type, PT_LOAD | PT_NOTE) {
                reader.check(program.p_offset, program.p_filesz, || {
                    format!("segment {number}")
                })?;
            }
            if program.p_type == PT_INTERP {
                return Err(wrong("a program for a dynamic linker".to_owned()));
            }
            programs.push(program);
        }
        Ok(Image { programs })
    }

    /// Whether this is linked where x86-64 Linux is (`__START_KERNEL_map` of Linux's
    /// arch/x86/include/asm/page_64_types.h).
    pub(super) fn is_linked_as_linux(&self) -> bool {
        self.loaded_as_linux().next().is_some()
    }

    fn loaded_as_linux(&self) -> impl Iterator<Item = &Elf64_Phdr> {
        const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
        let programs = self.programs.iter();
        programs.filter(|one| one.p_type == PT_LOAD && one.p_vaddr >= START_KERNEL_MAP)
    }

    /// Whether this is Linux: linked so, with its banner (`linux_banner`).
    pub(super) fn is_linux<S: Source>(
        &self,
        reader: &mut Reader<'_, S>,
    ) -> Result<bool, ImageError> {
        const BANNER: &[u8] = b"Linux version ";
        for program in self.loaded_as_linux() {
            if reader.contains(program.p_offset, program.p_filesz, BANNER)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// First byte after the segments that can be in the low part of RAM, of which one ends at `end`.
    fn end_of_low(&self, end: u64) -> u64 {
        let loaded = self.programs.iter().filter(|one| one.p_type == PT_LOAD);
        let ends = loaded.filter_map(|one| one.p_paddr.checked_add(one.p_memsz));
        let low = ends.filter(|&end| end <= platform::NIC_GPA);
        low.max().map_or(end, |last| last.max(end))
    }

    /// The guest-physical ranges of all loaded segments, none of which overlap, and all of which
    /// lie in `ram` outside the boot structures.
    pub(super) fn segments(&self, ram: &GuestMemoryMmap) -> Result<Vec<Range<u64>>, ImageError> {
        let mut placed = vec![(
            "the boot structures".to_owned(),
            layout::BOOT_START.0..layout::BOOT_END.0,
        )];
        for (number, program) in self.programs.iter().enumerate() {
            // A segment without bytes in memory may still have some in the file: linux-loader
            // would copy them.
            if program.p_type != PT_LOAD || (program.p_memsz == 0 && program.p_filesz == 0) {
                continue;
            }
            let segment = format!("segment {number}");
            if program.p_filesz > program.p_memsz {
                return Err(ImageError::Corrupt(format!(
                    "{segment} has {:#x} bytes in the file, but only {:#x} in memory",
                    program.p_filesz, program.p_memsz
                )));
            }
            let start = program.p_paddr;
            let end = start.checked_add(program.p_memsz).ok_or_else(|| {
                ImageError::Corrupt(format!(
                    "{segment} at {start:#x} with {:#x} bytes wraps around",
                    program.p_memsz
                ))
            })?;
            let inside = ram.iter().any(|region| {
                let first = region.start_addr().0;
                first <= start && end <= first + region.len()
            });
            if !inside {
                return Err(outside(segment, start, end, self.end_of_low(end), ram));
            }
            if let Some((other, range)) = placed
                .iter()
                .find(|(_, range)| start < range.end && range.start < end)
            {
                return Err(ImageError::Overlap {
                    segment,
                    start,
                    end,
                    other: other.clone(),
                    other_start: range.start,
                    other_end: range.end,
                });
            }
            placed.push((segment, start..end));
        }
        if placed.len() == 1 {
            return Err(ImageError::Corrupt("it has nothing to load".to_owned()));
        }
        Ok(placed.into_iter().skip(1).map(|(_, range)| range).collect())
    }
}

/// That a segment is where the VM has no memory. All that are to be in the low part end at `all`.
fn outside(segment: String, start: u64, end: u64, all: u64, ram: &GuestMemoryMmap) -> ImageError {
    let ram = ram.iter().map(|region| region.len()).sum();
    let remedy = if end <= platform::NIC_GPA {
        super::more_memory(all)
    } else {
        format!(
            "link it below {:#x}, for example at {:#x}",
            platform::NIC_GPA,
            layout::KERNEL_START.0
        )
    };
    ImageError::OutsideMemory {
        segment,
        start,
        end,
        ram,
        remedy,
    }
}
