//! The code at the reset vector, the only firmware that a VM has.
//!
//! Linux with CONFIG_EFI takes a hardware-reduced platform for one with EFI, and where there is none
//! jumps to the reset vector to reset itself (`reboot_init` and `native_machine_emergency_restart` in
//! arch/x86/kernel/reboot.c).
#![deny(unsafe_code)]

use vm_memory::{Bytes, GuestMemoryMmap};

use super::error::Error;
use crate::devices::PowerPorts;
use crate::layout;

/// Real-mode code that writes the reset register.
const fn code() -> [u8; 9] {
    let [low, high] = PowerPorts::RESET.to_le_bytes();
    [
        0xb0,
        PowerPorts::RESET_VALUE, // mov al, RESET_VALUE
        0xba,
        low,
        high, // mov dx, RESET
        0xee, // out dx, al
        0xf4, // hlt
        0xeb,
        0xfd, // jmp to the hlt
    ]
}

/// Writes the code to [`layout::RESET_VECTOR`].
///
/// # Errors
///
/// When RAM does not hold it.
pub fn write_reset_vector(ram: &GuestMemoryMmap) -> Result<(), Error> {
    ram.write_slice(&code(), layout::RESET_VECTOR)
        .map_err(|source| Error::Write {
            what: "reset vector",
            source,
        })
}

const _: () = assert!(layout::RESET_VECTOR.0 + code().len() as u64 <= layout::KERNEL_START.0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve_ram;

    #[test]
    fn the_code_writes_the_reset_register() {
        let ram = reserve_ram(layout::MIN_RAM).unwrap();
        write_reset_vector(&ram).unwrap();
        let mut found = [0; 9];
        ram.read_slice(&mut found, layout::RESET_VECTOR).unwrap();
        assert_eq!(found, *b"\xb0\x06\xba\xf9\x0c\xee\xf4\xeb\xfd");
    }
}
