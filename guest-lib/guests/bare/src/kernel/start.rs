//! The entry point: 64-bit mode, CPL 0, RDI = guest-physical address of an `hvm_start_info`, the
//! low 4 GiB mapped one to one for writing.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use postern_guest_bare::cmdline::GuestOptions;

use super::descriptors::DescriptorTables;
use super::fatal::fatal;
use super::frames::Frames;
use super::image::Image;
use super::pvh::StartInfo;
use super::stacks::TrapStacks;
use super::{cpu, kernel_space, launch, state, stubs};
use crate::arch::apic;

/// The stack until the program runs; traps have another.
#[repr(C, align(16))]
struct BootStack(UnsafeCell<[u8; 64 << 10]>);

// SAFETY: only the one CPU's RSP refers to it.
unsafe impl Sync for BootStack {}

static BOOT_STACK: BootStack = BootStack(UnsafeCell::new([0; 64 << 10]));

global_asm!(
    ".globl _start",
    "_start:",
    "cld",
    "xor ebp, ebp",
    "lea rsp, [rip + {stack} + {size}]",
    "call {main}",
    "ud2",
    stack = sym BOOT_STACK,
    size = const size_of::<BootStack>(),
    main = sym main,
);

/// Everything from the entry to the program.
///
/// # Safety
///
/// Called once, by `_start`, in the state that the module's documentation has.
unsafe extern "sysv64" fn main(address: u64) -> ! {
    // SAFETY: the VMM put a start info there, and nothing has written to RAM since.
    let start_info = match unsafe { StartInfo::read(address) } {
        Ok(start_info) => start_info,
        Err(error) => fatal(error),
    };
    let options = match GuestOptions::parse(start_info.cmdline) {
        Ok(options) => options,
        Err(error) => fatal(error),
    };
    cpu::check_features();
    if let Some(port_word) = options.nic {
        launch::check_window(&start_info, port_word);
    }

    let Some(free) = start_info.largest_gap(&[Image::own().range()]) else {
        fatal("the VM has no free memory; give it more");
    };
    let mut frames = Frames::new(free);
    // Before anything in the image changes.
    let copy = Image::own().duplicate(&mut frames);

    let stacks = TrapStacks::new(&mut frames);
    let tables = DescriptorTables::new(&mut frames, &stacks);
    let kernel = kernel_space::build(&mut frames, &start_info, &options, &stacks);
    let program = launch::Program::new(&mut frames, &start_info, &options, &copy, &stacks, &tables);

    stubs::set_kernel_space(kernel);
    state::init(kernel, program.space(), frames);
    cpu::enable(kernel.root());
    tables.load();
    if options.timer != 0 {
        apic::start_timer(options.timer);
    }
    program.enter(&stacks)
}
