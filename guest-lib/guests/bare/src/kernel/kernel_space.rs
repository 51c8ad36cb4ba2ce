//! The kernel's address space.
#![deny(unsafe_code)]

use postern_abi::PAGE_SIZE;
use postern_abi::port_word::PortWord;
use postern_guest_bare::cmdline::GuestOptions;

use super::frames::Frames;
use super::image::{self, Image};
use super::paging::{AddressSpace, Rights};
use super::pvh::StartInfo;
use super::stacks::TrapStacks;
use crate::arch::apic;

/// Builds the kernel's address space: RAM, the NIC and the local APIC one to one, nothing for user
/// mode.
pub fn build(
    frames: &mut Frames,
    start_info: &StartInfo,
    options: &GuestOptions<'_>,
    stacks: &TrapStacks,
) -> AddressSpace {
    let mut space = AddressSpace::new(frames);
    let image = Image::own().range();
    let ram_end = start_info.ram_end().next_multiple_of(PAGE_SIZE);
    space.map(frames, 0..image.start, 0, Rights::WRITE);
    image::map_trampoline(&mut space, frames);
    Image::own().map(&mut space, frames, false);
    space.map(frames, image.end..ram_end, image.end, Rights::WRITE);
    if let Some(PortWord { gpa, size, .. }) = options.nic {
        space.map(frames, gpa..gpa + size, gpa, Rights::WRITE);
    }
    let apic = apic::ADDRESS..apic::ADDRESS + PAGE_SIZE;
    space.map(frames, apic, apic::ADDRESS, Rights::DEVICE);
    stacks.map(&mut space, frames);
    space
}
