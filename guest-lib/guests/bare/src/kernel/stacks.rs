//! The stacks that traps run on (Intel SDM volume 3, "Interrupt Stack Table").
#![deny(unsafe_code)]

use core::array;

use postern_abi::PAGE_SIZE;

use super::frames::Frames;
use super::paging::{AddressSpace, Rights};
use crate::layout;

/// Vectors with a stack of their own in the interrupt stack table (IST): NMI, double fault, machine
/// check.
pub const IST_VECTORS: [u8; 3] = [2, 8, 18];

/// The stacks that traps run on, mapped in both address spaces, a gap below each.
pub struct TrapStacks {
    /// Guest-physical address of each stack.
    frames: [u64; 1 + IST_VECTORS.len()],
}

impl TrapStacks {
    /// Size of a stack in bytes.
    const SIZE: u64 = 32 << 10;
    /// Distance of two stacks in bytes: a page between them is never mapped.
    const DISTANCE: u64 = Self::SIZE + PAGE_SIZE;

    /// Takes page frames for the stacks.
    pub fn new(frames: &mut Frames) -> TrapStacks {
        TrapStacks {
            frames: array::from_fn(|_| frames.allocate(Self::SIZE).start),
        }
    }

    /// First byte above the stack of this number.
    const fn top(number: usize) -> u64 {
        layout::KERNEL_STACKS + (number as u64 + 1) * Self::DISTANCE
    }

    /// First byte above the stack that traps from user mode run on.
    pub const fn trap_top(&self) -> u64 {
        Self::top(0)
    }

    /// First bytes above the stacks of [`IST_VECTORS`], in that order.
    pub fn ist_tops(&self) -> [u64; IST_VECTORS.len()] {
        array::from_fn(|number| Self::top(number + 1))
    }

    /// Maps the stacks for the kernel into an address space.
    pub fn map(&self, space: &mut AddressSpace, frames: &mut Frames) {
        for (number, &stack) in self.frames.iter().enumerate() {
            let top = Self::top(number);
            space.map(frames, top - Self::SIZE..top, stack, Rights::WRITE);
        }
    }
}
