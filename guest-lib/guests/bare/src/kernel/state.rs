//! The state that system calls and exceptions share.

use core::cell::RefCell;

use super::frames::Frames;
use super::paging::AddressSpace;

/// The place at which code of one privilege level goes on after its next exception.
#[derive(Clone, Copy)]
pub struct Fixup {
    /// The value of RIP.
    pub rip: u64,
    /// The value of RSP.
    pub rsp: u64,
}

/// The address spaces, free page frames and fixups that system calls and exceptions change.
pub struct State {
    /// Page frames for page tables.
    pub frames: Frames,
    /// The kernel's address space.
    pub kernel: AddressSpace,
    /// The program's address space.
    pub program: AddressSpace,
    /// Fixups of the kernel and of the program, by [`TrapFrame::level`].
    ///
    /// [`TrapFrame::level`]: super::trap_frame::TrapFrame::level
    pub fixups: [Option<Fixup>; 2],
}

/// A cell for a VM of one virtual CPU, whose interrupt handlers leave it alone.
struct OneCpu<T>(RefCell<T>);

// SAFETY: there is one CPU, and only system calls and exceptions use the cell: not interrupts.
unsafe impl<T> Sync for OneCpu<T> {}

static STATE: OneCpu<Option<State>> = OneCpu(RefCell::new(None));

/// Makes the state; to be called before the first trap.
pub fn init(kernel: AddressSpace, program: AddressSpace, frames: Frames) {
    *STATE.0.borrow_mut() = Some(State {
        frames,
        kernel,
        program,
        fixups: [None; 2],
    });
}

/// Runs `work` on the state. Not for interrupts, which may come while it is borrowed.
pub fn with_state<R>(work: impl FnOnce(&mut State) -> R) -> R {
    let mut state = STATE.0.borrow_mut();
    work(state.as_mut().expect("`init` comes before the first trap"))
}
