//! The start info of the x86/HVM direct boot ABI (Xen: `docs/misc/pvh.pandoc`,
//! `public/arch-x86/hvm/start_info.h`): the VMM's description of the VM.

use core::ffi::CStr;
use core::fmt;
use core::ops::Range;
use core::slice;

use postern_abi::PAGE_SIZE;
use postern_abi::platform::NIC_GPA;
use postern_guest_bare::memory_map;

/// Value of [`Header::magic`].
const MAGIC: u32 = 0x336e_c578;

/// Value of [`MapEntry::kind`] for RAM.
const RAM: u32 = 1;

/// Most entries of a memory map that is read.
const MAX_MAP_ENTRIES: usize = 32;

/// Guest-physical address of the first byte above boot structures and legacy devices.
const LOW_END: u64 = 0x10_0000;

/// `struct hvm_start_info`.
#[repr(C)]
struct Header {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    cmdline: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `struct hvm_modlist_entry`.
#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    cmdline: u64,
    reserved: u64,
}

/// `struct hvm_memmap_table_entry`.
#[repr(C)]
struct MapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Header>() == 56);
const _: () = assert!(size_of::<Module>() == 32);
const _: () = assert!(size_of::<MapEntry>() == 24);

/// The parts of the start info that this guest uses.
pub struct StartInfo {
    /// The command line.
    pub cmdline: &'static str,
    /// The guest-physical range of the first module, if there is one.
    pub initrd: Option<Range<u64>>,
    map: &'static [MapEntry],
}

/// A start info that [`StartInfo::read`] refuses.
pub enum StartInfoError {
    /// RDI points at something else, which begins with this word.
    Magic(u32),
    /// The version has no memory map, or the map is empty or too long.
    NoMemoryMap,
    /// There is no command line, or it is not UTF-8.
    Cmdline,
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartInfoError::Magic(magic) => write!(
                f,
                "no start info at the address in RDI (it begins with {magic:#x}): \
                 boot this guest as the PVH boot ABI has it, in 64-bit mode"
            ),
            StartInfoError::NoMemoryMap => f.write_str("the start info has no usable memory map"),
            StartInfoError::Cmdline => f.write_str("the command line is missing or not UTF-8"),
        }
    }
}

impl StartInfo {
    /// Reads the start info at a guest-physical address.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    ///
    /// # Safety
    ///
    /// The low 4 GiB are mapped one to one. If there is a start info at that address, what it
    /// points to is as the ABI has it, and stays unchanged for ever.
    pub unsafe fn read(address: u64) -> Result<StartInfo, StartInfoError> {
        // SAFETY: RAM is mapped; the fields are plain numbers.
        let header = unsafe { &*(address as *const Header) };
        if header.magic != MAGIC {
            return Err(StartInfoError::Magic(header.magic));
        }
        let entries = header.memory_map_entries as usize;
        if header.version < 1 || header.memory_map == 0 || entries == 0 || entries > MAX_MAP_ENTRIES
        {
            return Err(StartInfoError::NoMemoryMap);
        }
        if header.cmdline == 0 {
            return Err(StartInfoError::Cmdline);
        }
        // SAFETY: the header is a start info, so these are a memory map, modules and a string.
        unsafe {
            let map = slice::from_raw_parts(header.memory_map as *const MapEntry, entries);
            let cmdline = CStr::from_ptr(header.cmdline as *const _);
            let initrd = (header.modules != 0).then(|| {
                let module = &*(header.module_list as *const Module);
                module.address..module.address + module.size
            });
            Ok(StartInfo {
                cmdline: cmdline.to_str().map_err(|_| StartInfoError::Cmdline)?,
                initrd,
                map,
            })
        }
    }

    /// The ranges of RAM below the NIC's memory.
    fn ram(&self) -> impl Iterator<Item = Range<u64>> {
        let ram = self.map.iter().filter(|entry| entry.kind == RAM);
        ram.map(|entry| {
            let end = entry.address.saturating_add(entry.size);
            entry.address.min(NIC_GPA)..end.min(NIC_GPA)
        })
    }

    /// First byte above all RAM below the NIC's memory.
    pub fn ram_end(&self) -> u64 {
        self.ram().map(|range| range.end).max().unwrap_or(0)
    }

    /// The largest free piece of RAM: whole pages, touching neither the low 1 MiB nor the initrd
    /// nor the `taken` ranges.
    pub fn largest_gap(&self, taken: &[Range<u64>]) -> Option<Range<u64>> {
        const NOTHING: Range<u64> = 0..0;
        let mut ram = [NOTHING; MAX_MAP_ENTRIES];
        for (slot, range) in ram.iter_mut().zip(self.ram()) {
            *slot = range;
        }
        let mut all_taken = [NOTHING; 8];
        let initrd = self.initrd.clone().unwrap_or(NOTHING);
        let ranges = [0..LOW_END, initrd].into_iter();
        for (slot, range) in all_taken
            .iter_mut()
            .zip(ranges.chain(taken.iter().cloned()))
        {
            *slot = range;
        }
        memory_map::largest_gap(&ram, &all_taken, PAGE_SIZE)
    }
}
