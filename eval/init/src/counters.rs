//! The machine's exact counters, for people and tests.

use anyhow::{Context, Result, ensure};
use postern_abi::emulated::{
    MAGIC, PORT_COUNT, PORT_GUEST_INSTRUCTIONS, PORT_INSTRUCTIONS, PORT_LATCH, PORT_MAGIC,
    PORT_VM_ENTRIES, PORT_VM_EXITS, PORT_VMFUNCS,
};

use crate::ports::Ports;

/// Prints all counters on one line.
pub fn print() -> Result<()> {
    let mut ports = Ports::range(PORT_LATCH, PORT_COUNT).context("asking for I/O ports")?;
    ensure!(
        ports.read(PORT_MAGIC) == MAGIC,
        "this machine has no such counters"
    );
    ports.write(PORT_LATCH, 0);
    let mut counter = |port| u64::from(ports.read(port)) | u64::from(ports.read(port + 4)) << 32;
    println!(
        "instructions {} guest {} vmfuncs {} exits {} entries {}",
        counter(PORT_INSTRUCTIONS),
        counter(PORT_GUEST_INSTRUCTIONS),
        counter(PORT_VMFUNCS),
        counter(PORT_VM_EXITS),
        counter(PORT_VM_ENTRIES)
    );
    Ok(())
}
