//! The program's address space, and its start.

use core::ptr;

use postern_abi::PAGE_SIZE;
use postern_abi::platform::CallPath;
use postern_abi::port_word::PortWord;
use postern_abi::view::{GATE_AREA_GVA, LANDING_GVA};
use postern_guest::gate::{self, CodePage};
use postern_guest_bare::cmdline::GuestOptions;
use x86_64::registers::rflags::RFlags;

use super::descriptors::DescriptorTables;
use super::fatal::fatal;
use super::frames::Frames;
use super::image::{self, Image};
use super::paging::{AddressSpace, Rights};
use super::pvh::StartInfo;
use super::stacks::TrapStacks;
use super::stubs;
use crate::layout;
use crate::program;
use crate::program::arguments::Arguments;

/// Offset of the command line in the page of arguments, in bytes.
const CMDLINE_OFFSET: u64 = 256;

const _: () = assert!(size_of::<Arguments>() as u64 <= CMDLINE_OFFSET);

/// The program, ready to run.
pub struct Program {
    space: AddressSpace,
}

impl Program {
    /// Builds the address space and fills in the arguments. The program gets all RAM that is left.
    pub fn new(
        frames: &mut Frames,
        start_info: &StartInfo,
        options: &GuestOptions<'_>,
        copy: &Image,
        stacks: &TrapStacks,
        tables: &DescriptorTables,
    ) -> Program {
        let mut space = AddressSpace::new(frames);
        image::map_trampoline(&mut space, frames);
        copy.map(&mut space, frames, true);
        stacks.map(&mut space, frames);
        tables.map(&mut space, frames);

        let stack = frames.allocate(layout::STACK_SIZE);
        let range = layout::STACK_TOP - layout::STACK_SIZE..layout::STACK_TOP;
        space.map(frames, range, stack.start, Rights::USER_WRITE);

        let mut arguments = Arguments {
            cmdline: layout::ARGUMENTS + CMDLINE_OFFSET,
            cmdline_size: start_info.cmdline.len() as u64,
            ..Arguments::default()
        };
        if let Some(initrd) = &start_info.initrd {
            if !initrd.start.is_multiple_of(PAGE_SIZE) {
                fatal("the initrd does not begin on a page");
            }
            arguments.initrd_size = initrd.end - initrd.start;
            let size = arguments.initrd_size.next_multiple_of(PAGE_SIZE);
            let range = layout::INITRD..layout::INITRD + size;
            space.map(frames, range, initrd.start, Rights::USER_READ);
        }
        if let Some(PortWord {
            path, gpa, size, ..
        }) = options.nic
        {
            let range = layout::WINDOW..layout::WINDOW + size;
            space.map(frames, range, gpa, Rights::USER_WRITE);
            arguments.window_size = size;
            if matches!(path, CallPath::Elisa | CallPath::ElisaStrict) {
                map_code(&mut space, frames, GATE_AREA_GVA, &gate::page_a());
                map_code(&mut space, frames, LANDING_GVA, &gate::page_c());
            }
        }

        let page = frames
            .allocate(CMDLINE_OFFSET + arguments.cmdline_size)
            .clone();
        let range = layout::ARGUMENTS..layout::ARGUMENTS + (page.end - page.start);
        space.map(frames, range, page.start, Rights::USER_READ);

        let arena = frames.take_rest();
        arguments.arena_physical = arena.start;
        arguments.arena_size = arena.end - arena.start;
        let range = layout::ARENA..layout::ARENA + arguments.arena_size;
        space.map(frames, range, arena.start, Rights::USER_WRITE);

        // SAFETY: the frames are new, mapped one to one, and hold both.
        unsafe {
            let cmdline = (page.start + CMDLINE_OFFSET) as *mut u8;
            let source = start_info.cmdline;
            ptr::copy_nonoverlapping(source.as_ptr(), cmdline, source.len());
            (page.start as *mut Arguments).write(arguments);
        }
        Program { space }
    }

    /// The program's address space.
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// Runs the program, at CPL 3, with interrupts, and with the right to use I/O ports.
    pub fn enter(self, stacks: &TrapStacks) -> ! {
        let flags = RFlags::INTERRUPT_FLAG | RFlags::IOPL_LOW | RFlags::IOPL_HIGH;
        // SAFETY: the program's address space has the trampoline, the trap stack, the program's
        // code at the address that it has here, too, and its stack. A function expects a return
        // address on the stack, so RSP is 8 bytes off.
        unsafe {
            stubs::enter_user(
                self.space.root().start_address().as_u64(),
                program::main as *const () as u64,
                layout::STACK_TOP - 8,
                flags.bits(),
                layout::ARGUMENTS,
                stacks.trap_top(),
            )
        }
    }
}

/// Ends the VM unless the window is whole pages that are not RAM.
pub fn check_window(start_info: &StartInfo, port_word: PortWord) {
    let PortWord { gpa, size, .. } = port_word;
    let end = gpa.checked_add(size).filter(|&end| end < 1 << 46);
    let pages = (gpa | size).is_multiple_of(PAGE_SIZE) && size != 0;
    if end.is_none() || !pages || gpa < start_info.ram_end() {
        fatal(format_args!(
            "the NIC at {gpa:#x} with {size:#x} bytes is not made of whole pages beyond RAM"
        ));
    }
}

/// Maps a copy of a page of code for the program.
fn map_code(space: &mut AddressSpace, frames: &mut Frames, at: u64, code: &CodePage) {
    let frame = frames.allocate(PAGE_SIZE);
    // SAFETY: the frame is new and mapped one to one.
    unsafe { (frame.start as *mut CodePage).write(*code) };
    space.map(frames, at..at + PAGE_SIZE, frame.start, Rights::USER_CODE);
}
