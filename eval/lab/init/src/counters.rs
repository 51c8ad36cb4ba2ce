//! The machine's exact counters, for people and tests.

use std::arch::asm;

use anyhow::{Context, Result, ensure};
use postern_abi::emulated::{
    MAGIC, PORT_COUNT, PORT_GUEST_INSTRUCTIONS, PORT_INSTRUCTIONS, PORT_LATCH, PORT_MAGIC,
    PORT_VM_ENTRIES, PORT_VM_EXITS, PORT_VMFUNCS,
};

use postern_abi::platform::{PORT_EXIT, PORT_SNAPSHOT};

use crate::ports::Ports;

/// Prints all counters on one line.
pub fn print() -> Result<()> {
    let mut ports = open()?;
    ports.write(PORT_LATCH, 0);
    let mut counter = |port| counter(&mut ports, port);
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

/// A counter as of the last snapshot, whose low half is at this port.
fn counter(ports: &mut Ports, port: u16) -> u64 {
    u64::from(ports.read(port)) | u64::from(ports.read(port + 4)) << 32
}

/// Says that boots are counted, among the arguments of the first process.
pub const COUNT_BOOT: &str = "count-boot";

/// File in which [`boot`]'s line is put.
pub const BOOT: &str = "/run/boot-counters";

/// Counts a boot, as the first thing that the first process does. In the machine, a line with the
/// instructions before the kernel, if that took a snapshot when it began, and before this process. In
/// a VM, its VMM takes a snapshot of its counters, and ends it.
pub fn boot() -> Result<String> {
    let Ok(mut ports) = open() else {
        let count = PORT_SNAPSHOT + 4 - PORT_EXIT;
        let mut ports = Ports::range(PORT_EXIT, count).context("asking for I/O ports")?;
        ports.write(PORT_SNAPSHOT, 0);
        ports.write(PORT_EXIT, 0);
        anyhow::bail!("boots cannot be counted here");
    };
    let kernel = counter(&mut ports, PORT_INSTRUCTIONS);
    ports.write(PORT_LATCH, 0);
    let process = counter(&mut ports, PORT_INSTRUCTIONS);
    Ok(format!("kernel {kernel} process {process}\n"))
}

fn open() -> Result<Ports> {
    let mut ports = Ports::range(PORT_LATCH, PORT_COUNT).context("asking for I/O ports")?;
    ensure!(
        ports.read(PORT_MAGIC) == MAGIC,
        "this machine has no such counters"
    );
    Ok(ports)
}

/// Instructions between the two snapshots of [`count!`], besides those that are counted: the OUT
/// that takes the first, and what reads it.
const OWN: u32 = 5;

/// Counts instructions; they must leave RDX and R8 alone. It needs the right to the ports, which
/// this function's caller has.
macro_rules! count {
    ($($instruction:literal),*; $($operands:tt)*) => {{
        let (before, after): (u32, u32);
        // SAFETY: the ports change no memory; what the instructions do is said where they are.
        unsafe {
            asm!(
                "mov edx, {latch}",
                "out dx, eax",
                "mov edx, {low}",
                "in eax, dx",
                "mov r8d, eax",
                "mov edx, {latch}",
                $($instruction,)*
                "out dx, eax",
                "mov edx, {low}",
                "in eax, dx",
                latch = const PORT_LATCH,
                low = const PORT_INSTRUCTIONS,
                out("eax") after,
                out("edx") _,
                out("r8") before,
                $($operands)*
            );
        }
        after.wrapping_sub(before).wrapping_sub(OWN)
    }};
}

/// Counts code whose number of instructions is known, and prints `ok NAME` or `FAILED NAME:
/// reason`.
pub fn check() -> Result<()> {
    let _ports = open()?;
    report("nothing counts nothing", 0, || count!(; ));
    report(
        "an instruction counts once",
        100,
        || count!(".rept 100", "nop", ".endr"; ),
    );
    report(
        "a loop counts each of its rounds",
        2001,
        || count!("mov ecx, 1000", "2: dec ecx", "jnz 2b"; out("ecx") _),
    );
    // More than a page, so that the processor stops in between.
    let from = [7u8; 10_000];
    let mut to = [0u8; 10_000];
    report("a repeated string instruction counts once", 1, || {
        // The operands are two arrays of that length; the direction flag is clear by the ABI.
        count!("rep movsb"; inout("rsi") from.as_ptr() => _, inout("rdi") to.as_mut_ptr() => _,
               inout("rcx") from.len() => _)
    });
    ensure!(
        from == to,
        "the string instruction has not moved its string"
    );
    Ok(())
}

/// An interrupt in between adds its own instructions, but it does not come each time.
fn report(name: &str, expected: u32, mut count: impl FnMut() -> u32) {
    let counted = (0..20).map(|_| count()).min().unwrap_or(0);
    match counted == expected {
        true => println!("ok {name}"),
        false => println!("FAILED {name}: {counted} instructions, not {expected}"),
    }
}
