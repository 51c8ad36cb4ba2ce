//! Reading the memory of views from the default view, through page tables of the guest's own.

use core::ptr;

use postern_abi::PAGE_SIZE;
use postern_abi::platform::NIC_GPA;
use postern_abi::view::{DATA_GVA, IMAGE_GVA, LIST_GVA, RESERVED_GPA, RESERVED_GPA_SIZE};

use super::attacker::Attacker;
use super::verdict::{Verdict, repelled, succeeded};
use crate::exception::catch_exception;
use crate::syscall::{self, MAP_NOTHING, MAP_READ};

/// Value that a read of an address with no memory gives.
const NOTHING: u64 = u64::MAX;

/// Number of pages that are read from each address on.
const PAGES: u64 = 32;

/// Size of the range from [`NIC_GPA`] on in which other ports' windows are looked for, in bytes.
const REACH: u64 = 16 << 20;

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    // The addresses at which the parts of views begin, and the end of the range.
    let starts = [
        RESERVED_GPA,
        RESERVED_GPA + (1 << 30),
        RESERVED_GPA + RESERVED_GPA_SIZE / 2,
        RESERVED_GPA + RESERVED_GPA_SIZE - PAGES * PAGE_SIZE,
    ];
    let mut reader = Reader::default();
    for address in [DATA_GVA, IMAGE_GVA, LIST_GVA] {
        for physical in starts {
            for page in 0..PAGES {
                reader.read_page(address, physical + page * PAGE_SIZE, 512);
            }
        }
    }
    // The windows of other ports in the NIC's memory, around the guest's own window.
    let own = attacker.own_memory();
    for physical in (NIC_GPA..NIC_GPA + REACH).step_by(PAGE_SIZE as usize) {
        if !own.contains(&physical) {
            reader.read_page(DATA_GVA, physical, PAGE_SIZE as usize);
        }
    }
    match reader.found {
        Some((physical, value)) => succeeded!("{physical:#x} holds {value:#x}"),
        None => repelled!(
            "{} reads found nothing, {} raised exceptions",
            reader.nothing,
            reader.faults
        ),
    }
}

/// Reads memory and counts the outcomes.
#[derive(Default)]
struct Reader {
    nothing: u64,
    faults: u64,
    /// The first guest-physical address that holds something, and its value.
    found: Option<(u64, u64)>,
}

impl Reader {
    /// Maps a page at `address` and reads a word every `step` bytes.
    fn read_page(&mut self, address: u64, physical: u64, step: usize) {
        // SAFETY: nothing of the program's is mapped at the address, and nothing refers to it.
        unsafe { syscall::map(address, physical, PAGE_SIZE, MAP_READ) };
        for offset in (0..PAGE_SIZE).step_by(step) {
            let word = (address + offset) as *const u64;
            // SAFETY: the page is mapped, unless the host objects.
            match catch_exception(|| unsafe { ptr::read_volatile(word) }) {
                Ok(NOTHING) => self.nothing += 1,
                Ok(value) => {
                    self.found.get_or_insert((physical + offset, value));
                }
                Err(_) => self.faults += 1,
            }
        }
        // SAFETY: only this function uses the page, and it is done with it.
        unsafe { syscall::map(address, 0, PAGE_SIZE, MAP_NOTHING) };
    }
}
