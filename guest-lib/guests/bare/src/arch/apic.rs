//! The local APIC's timer (Intel SDM volume 3, "Advanced Programmable Interrupt Controller
//! (APIC)").

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::PortWriteOnly;

/// Guest-physical address of the registers, which the kernel maps at the same virtual address.
pub const ADDRESS: u64 = 0xfee0_0000;

/// Vector of the timer's interrupt.
pub const TIMER: u8 = 0x20;

/// Vector of spurious interrupts.
pub const SPURIOUS: u8 = 0xff;

/// Input of the timer, in hertz: KVM's local APIC counts nanoseconds.
const FREQUENCY: u32 = 1_000_000_000;

/// Offset of a register: a write ends the handling of an interrupt.
const END_OF_INTERRUPT: u64 = 0xb0;
/// Offset of a register: the vector of spurious interrupts, and [`ENABLE`].
const SPURIOUS_VECTOR: u64 = 0xf0;
/// Offset of a register: the timer's vector and mode.
const TIMER_ENTRY: u64 = 0x320;
/// Offset of a register: the timer's period, in ticks of its divided input.
const INITIAL_COUNT: u64 = 0x380;
/// Offset of a register: the divisor of the timer's input.
const DIVIDE: u64 = 0x3e0;

/// Bit of [`SPURIOUS_VECTOR`]: the APIC is on.
const ENABLE: u32 = 1 << 8;
/// Bit of [`TIMER_ENTRY`]: the timer starts again each time.
const PERIODIC: u32 = 1 << 17;
/// Value of [`DIVIDE`]: the input is divided by one.
const DIVIDE_BY_1: u32 = 0b1011;

/// I/O ports of the interrupt masks of the two legacy controllers.
const LEGACY_MASKS: [u16; 2] = [0x21, 0xa1];

fn write(register: u64, value: u32) {
    // SAFETY: the kernel's address space has the registers there; none of those written here makes
    // the APIC touch memory.
    unsafe { ptr::write_volatile((ADDRESS + register) as *mut u32, value) }
}

/// Starts the timer, with `hertz` interrupts a second, not zero. No other interrupt will come.
pub fn start_timer(hertz: u32) {
    for port in LEGACY_MASKS {
        // SAFETY: this masks interrupts; it changes no memory.
        unsafe { PortWriteOnly::<u8>::new(port).write(0xff) };
    }
    write(SPURIOUS_VECTOR, ENABLE | u32::from(SPURIOUS));
    write(DIVIDE, DIVIDE_BY_1);
    write(TIMER_ENTRY, PERIODIC | u32::from(TIMER));
    write(INITIAL_COUNT, FREQUENCY / hertz);
}

/// Ends the handling of an interrupt.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Interrupts of the timer so far.
static TICKS: AtomicU64 = AtomicU64::new(0);

/// Counts an interrupt of the timer.
pub fn count_tick() {
    TICKS.fetch_add(1, Ordering::Relaxed);
}

/// Interrupts of the timer so far, in the kernel's copy of the image.
pub fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}
