//! Reading the memory of views from the default view, through page tables of the guest's own.

use core::ptr;

use postern_abi::PAGE_SIZE;
use postern_abi::view::{DATA_GVA, IMAGE_GVA, LIST_GVA, RESERVED_GPA, RESERVED_GPA_SIZE};

use super::ground::Ground;
use super::verdict::{Verdict, repelled, succeeded};
use crate::catch::catch;
use crate::syscall::{self, MAP_NOTHING, MAP_READ};

/// What a bus with nothing on it reads as.
const NOTHING: u64 = u64::MAX;

/// Pages that are read at each place.
const PAGES: u64 = 32;

/// Runs the attack.
pub fn run(_: &mut Ground) -> Verdict {
    // Where the parts of views begin, and the ends of the range.
    let places = [
        RESERVED_GPA,
        RESERVED_GPA + (1 << 30),
        RESERVED_GPA + RESERVED_GPA_SIZE / 2,
        RESERVED_GPA + RESERVED_GPA_SIZE - PAGES * PAGE_SIZE,
    ];
    let (mut nothing, mut faults) = (0, 0);
    for address in [DATA_GVA, IMAGE_GVA, LIST_GVA] {
        for physical in places {
            for page in 0..PAGES {
                let physical = physical + page * PAGE_SIZE;
                // SAFETY: nothing is mapped there, and nothing refers to it.
                unsafe { syscall::map(address, physical, PAGE_SIZE, MAP_READ) };
                for offset in (0..PAGE_SIZE).step_by(512) {
                    let word = (address + offset) as *const u64;
                    // SAFETY: the page is mapped, unless the host objects.
                    match catch(|| unsafe { ptr::read_volatile(word) }) {
                        Ok(NOTHING) => nothing += 1,
                        Ok(value) => {
                            return succeeded!("{:#x} holds {value:#x}", physical + offset);
                        }
                        Err(_) => faults += 1,
                    }
                }
                // SAFETY: as above.
                unsafe { syscall::map(address, 0, PAGE_SIZE, MAP_NOTHING) };
            }
        }
    }
    repelled!("{nothing} reads found nothing, {faults} raised exceptions")
}
