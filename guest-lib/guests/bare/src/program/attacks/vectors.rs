//! What calls leave in vector registers, and calls that lend registers that are off.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use postern_abi::service::TX_AVX;
use x86_64::registers::control::{Cr4, Cr4Flags};

use super::attacker::Attacker;
use super::state::{Registers, State, exchange};
use super::verdict::{Verdict, repelled, succeeded};
use crate::syscall;

/// The bytes in the attacker's own vector registers.
const OWN: Registers = [[0xa5; 32]; 16];

/// CPUID.1:ECX: XSAVE and AVX.
const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;

/// XCR0: x87, SSE and AVX.
const XCR0: u32 = 7;

/// At CPL 0: turns AVX on (1), or SSE and AVX off (0).
extern "sysv64" fn set_registers(on: u64) -> u64 {
    // SAFETY: neither kernel nor program use such registers, but for this attack.
    unsafe {
        let flags = Cr4Flags::OSFXSR | Cr4Flags::OSXSAVE;
        Cr4::update(|cr4| cr4.set(flags, on != 0));
        if on != 0 {
            asm!("xsetbv", in("ecx") 0, in("eax") XCR0, in("edx") 0, options(nostack));
        }
    }
    0
}

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    // SAFETY: the attack is the only code with vector registers, and turns them on before.
    unsafe { syscall::privileged(set_registers, 0) };
    let mut none = State::default();
    let mut lie = State {
        flags: TX_AVX,
        ..none
    };
    // A guest without such registers is served, and one that lends them nevertheless ends its own
    // call.
    match exchange(attacker, &mut none) {
        Ok(true) => {}
        other => return succeeded!("without SSE there is no service: {other:?}"),
    }
    match exchange(attacker, &mut lie) {
        Err(exception) if exception.is_abort() => {}
        other => return succeeded!("registers that are off were used: {other:?}"),
    }
    if __cpuid(1).ecx & XSAVE_AND_AVX != XSAVE_AND_AVX {
        return repelled!("a call that lends what this CPU does not have is aborted");
    }
    // SAFETY: as above.
    unsafe { syscall::privileged(set_registers, 1) };
    let own = State {
        registers: Some(OWN),
        ..none
    };
    // The frame that was not sent goes before the others.
    for flags in [0, TX_AVX, 0] {
        let mut state = State { flags, ..own };
        match exchange(attacker, &mut state) {
            Ok(true) => {}
            other => {
                return succeeded!("with flags {flags}, the frame does not come back: {other:?}");
            }
        }
        let registers = state.registers.unwrap_or_default();
        for (number, bytes) in registers.iter().enumerate() {
            let expected = |byte: usize| match flags {
                0 => 0xa5,
                _ if number < 4 || byte >= 16 => 0,
                _ => 0xa5,
            };
            if let Some(byte) = (0..32).find(|&byte| bytes[byte] != expected(byte)) {
                let found = bytes[byte];
                return succeeded!(
                    "with flags {flags}, register {number} has {found:#x} at {byte}"
                );
            }
        }
    }
    repelled!("registers come back empty where they are lent, and as they were where not")
}
