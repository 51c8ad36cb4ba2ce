//! The gate area in this process: pages A and C, and page B kept free between them.

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::Mutex;

use postern_abi::PAGE_SIZE;
use postern_abi::view::{GATE_AREA_GVA, GATE_GVA, LANDING_GVA};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::error::Error;
use crate::gate::{Gate, page_a, page_c};

/// Size of the gate area in bytes.
const SIZE: usize = 3 * PAGE_SIZE as usize;

/// Whether this process has a gate area. Once made it stays.
static MADE: Mutex<bool> = Mutex::new(false);

/// Makes the gate area, unless that was done before, and gives the gate of a slot. It stays until
/// the process ends, and its children inherit it.
///
/// # Errors
///
/// The addresses are in use, or the memory may not be executable.
pub fn gate(slot: u32) -> Result<Gate, Error> {
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !*made {
        make()?;
        *made = true;
    }
    // SAFETY: `make` mapped both pages for good. The process runs at CPL 3. Whether each virtual CPU
    // has a view decides about exceptions alone.
    let gate = unsafe { Gate::new(slot) };
    Ok(match std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: Linux has AVX on, on all CPUs: XGETBV says so, too. It keeps the registers of each
        // thread.
        true => unsafe { gate.lending_avx() },
        false => gate,
    })
}

fn address(gva: u64) -> *mut c_void {
    ptr::without_provenance_mut(gva as usize)
}

fn make() -> Result<(), Error> {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: with this flag nothing that is mapped already is replaced.
    let mapped = unsafe { mmap_anonymous(address(GATE_AREA_GVA), SIZE, rights, flags) };
    let base = mapped.map_err(|error| match error {
        Errno::EXIST => Error::GateAddress,
        error => Error::GateCode(error.into()),
    })?;
    // Kernels before 4.17 take the flag for a hint.
    let result = match base.addr() as u64 {
        GATE_AREA_GVA => fill(base.cast()).map_err(Error::GateCode),
        _ => Err(Error::GateAddress),
    };
    if result.is_err() {
        // SAFETY: these pages were mapped just now, and nobody knows of them.
        let unmapped = unsafe { munmap(base, SIZE) };
        debug_assert!(unmapped.is_ok());
    }
    result
}

/// Writes the code into pages A and C and gives the three pages their rights. Page B has none: a
/// fetch there in the default view is a fault, and nothing else can be mapped there.
fn fill(base: *mut u8) -> Result<(), io::Error> {
    let page = PAGE_SIZE as usize;
    let code = MprotectFlags::READ | MprotectFlags::EXEC;
    // SAFETY: the three pages were mapped just now, for writing, and nobody else knows of them.
    unsafe {
        ptr::copy_nonoverlapping(page_a().as_ptr(), base, page);
        let landing = base.add((LANDING_GVA - GATE_AREA_GVA) as usize);
        ptr::copy_nonoverlapping(page_c().as_ptr(), landing, page);
        mprotect(address(GATE_AREA_GVA), page, code)?;
        mprotect(address(GATE_GVA), page, MprotectFlags::empty())?;
        mprotect(address(LANDING_GVA), page, code)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_made_once_and_only_where_nothing_is() {
        assert!(gate(0).is_ok());
        assert!(gate(1).is_ok(), "of another slot in the same area");
        assert!(matches!(make(), Err(Error::GateAddress)));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let rights = |gva: u64| {
            let line = maps
                .lines()
                .find(|line| line.starts_with(&format!("{gva:x}-")));
            line.and_then(|line| line.split(' ').nth(1))
                .unwrap_or("none")
        };
        assert_eq!(rights(GATE_AREA_GVA), "r-xp");
        assert_eq!(rights(GATE_GVA), "---p");
        assert_eq!(rights(LANDING_GVA), "r-xp");
        let page = |gva: u64| {
            // SAFETY: the page is mapped for reading, and never changes.
            unsafe { address(gva).cast::<crate::gate::CodePage>().read() }
        };
        assert_eq!(page(GATE_AREA_GVA), page_a());
        assert_eq!(page(LANDING_GVA), page_c());
    }
}
