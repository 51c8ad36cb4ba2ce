//! Interrupts, exceptions and system calls.
//!
//! Each vector has a stub in the trampoline, the one page of code that both address spaces have. It
//! saves all registers on a stack that both have, changes to the kernel's address space, calls
//! [`handle`], and goes back to the address space, and the registers, that it finds in the frame.

use core::arch::{global_asm, naked_asm};
use core::array;
use core::cell::RefCell;
use core::mem;
use core::sync::atomic::{AtomicU64, Ordering};

use postern_abi::PAGE_SIZE;
use postern_guest_bare::status;
use x86_64::instructions::{interrupts, tlb};
use x86_64::registers::control::Cr2;
use x86_64::registers::rflags::RFlags;

use super::apic;
use super::frames::Frames;
use super::space::{AddressSpace, Rights};
use crate::catch::{Exception, catch};
use crate::console::{exit, println};
use crate::{layout, syscall};

/// What a stub saves.
#[repr(C)]
#[derive(Default)]
struct Frame {
    /// CR3.
    root: u64,
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl Frame {
    /// Whose code was interrupted: 0 the kernel's, 1 the program's.
    fn level(&self) -> usize {
        usize::from(self.cs & 3 != 0)
    }
}

/// Exceptions that push an error code (Intel SDM volume 3, "Exceptions and Interrupts").
const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

#[unsafe(naked)]
#[unsafe(link_section = ".trampoline")]
extern "sysv64" fn stub<const VECTOR: u8>() {
    naked_asm!(
        ".if {no_code}",
        "push 0",
        ".endif",
        "push {vector}",
        "jmp {common}",
        no_code = const !has_error_code(VECTOR) as u32,
        vector = const VECTOR as u32,
        common = sym trap_common,
    )
}

unsafe extern "C" {
    fn trap_common();
    /// Leaves the kernel for good: root of the address space, RIP, RSP, RFLAGS, first argument, top
    /// of the trap stack.
    pub fn enter_user(root: u64, rip: u64, rsp: u64, rflags: u64, rdi: u64, stack: u64) -> !;
    /// The kernel's CR3, in the trampoline.
    static mut trap_root: u64;
}

// On entry, the CPU has aligned RSP to 16 bytes before it pushed 5 words; with error code, vector
// and the 16 words of `Frame` above them that makes 23, and one more aligns it again.
global_asm!(
    ".pushsection .trampoline, \"ax\"",
    "trap_common:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rax, cr3",
    "push rax",
    "mov rax, [rip + trap_root]",
    "mov cr3, rax",
    "cld",
    "mov rdi, rsp",
    "sub rsp, 8",
    "call {handle}",
    "add rsp, 8",
    "pop rax",
    "mov cr3, rax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    "enter_user:",
    "mov rsp, r9",
    "push {user_data}",
    "push rdx",
    "push rcx",
    "push {user_code}",
    "push rsi",
    "mov cr3, rdi",
    "mov rdi, r8",
    "iretq",
    ".balign 8",
    "trap_root: .quad 0",
    ".popsection",
    handle = sym handle,
    user_data = const super::cpu::USER_DATA.0,
    user_code = const super::cpu::USER_CODE.0,
);

/// One gate of the interrupt descriptor table.
pub struct Gate {
    /// Its number.
    pub vector: u8,
    /// Address of its stub.
    pub stub: u64,
    /// Whether user mode may use it.
    pub user: bool,
    /// Its entry in [`Stacks::special_tops`], for those that may come at any time.
    pub special_stack: Option<u16>,
}

/// All gates.
pub fn gates() -> impl Iterator<Item = Gate> {
    macro_rules! stubs {
        ($($vector:literal)*) => { [$(($vector, stub::<$vector> as extern "sysv64" fn())),*] };
    }
    let exceptions = stubs!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    );
    let others = [
        (apic::TIMER, stub::<{ apic::TIMER }> as extern "sysv64" fn()),
        (apic::SPURIOUS, stub::<{ apic::SPURIOUS }>),
        (syscall::VECTOR, stub::<{ syscall::VECTOR }>),
    ];
    exceptions
        .into_iter()
        .chain(others)
        .map(|(vector, stub)| Gate {
            vector,
            stub: stub as usize as u64,
            user: matches!(vector, 3 | 4 | syscall::VECTOR),
            special_stack: SPECIAL
                .iter()
                .position(|&it| it == vector)
                .map(|it| it as u16),
        })
}

/// Vectors with a stack of their own: NMI, double fault, machine check.
const SPECIAL: [u8; 3] = [2, 8, 18];

/// The stacks that traps run on, mapped in both address spaces, a gap below each.
pub struct Stacks {
    frames: [u64; 1 + SPECIAL.len()],
}

impl Stacks {
    const SIZE: u64 = 32 << 10;
    const DISTANCE: u64 = Self::SIZE + PAGE_SIZE;

    /// Makes them.
    pub fn new(frames: &mut Frames) -> Stacks {
        Stacks {
            frames: array::from_fn(|_| frames.allocate(Self::SIZE).start),
        }
    }

    const fn top(number: usize) -> u64 {
        layout::KERNEL_STACKS + (number as u64 + 1) * Self::DISTANCE
    }

    /// First byte above the stack that traps from user mode run on.
    pub const fn trap_top(&self) -> u64 {
        Self::top(0)
    }

    /// First bytes above the other stacks.
    pub fn special_tops(&self) -> [u64; SPECIAL.len()] {
        array::from_fn(|number| Self::top(number + 1))
    }

    /// Maps them for the kernel.
    pub fn map(&self, space: &mut AddressSpace, frames: &mut Frames) {
        for (number, &stack) in self.frames.iter().enumerate() {
            let top = Self::top(number);
            space.map(frames, top - Self::SIZE..top, stack, Rights::WRITE);
        }
    }
}

/// Where code of one privilege level goes on after its next exception.
#[derive(Clone, Copy)]
struct Recovery {
    rip: u64,
    rsp: u64,
}

/// What system calls work on.
struct State {
    frames: Frames,
    kernel: AddressSpace,
    program: AddressSpace,
    /// Of the kernel and of the program.
    recovery: [Option<Recovery>; 2],
}

/// A cell for a machine of one CPU, whose interrupt handlers leave it alone.
struct OneCpu<T>(RefCell<T>);

// SAFETY: there is one CPU, and only system calls and exceptions use the cell: not interrupts.
unsafe impl<T> Sync for OneCpu<T> {}

static STATE: OneCpu<Option<State>> = OneCpu(RefCell::new(None));

/// Interrupts of the timer so far.
static TICKS: AtomicU64 = AtomicU64::new(0);

/// Gets ready for traps, while the trampoline can still be written: before [`super::cpu::enable`].
pub fn start(kernel: AddressSpace, program: AddressSpace, frames: Frames) {
    let root = kernel.root().start_address();
    // SAFETY: one CPU, and no stub has run yet; the boot page tables allow it.
    unsafe { (&raw mut trap_root).write(root.as_u64()) };
    *STATE.0.borrow_mut() = Some(State {
        frames,
        kernel,
        program,
        recovery: [None; 2],
    });
}

/// Does something with the state; not for interrupts.
fn with_state<R>(work: impl FnOnce(&mut State) -> R) -> R {
    let mut state = STATE.0.borrow_mut();
    work(state.as_mut().expect("`start` comes before the first trap"))
}

/// Where all stubs lead, on a trap stack and in the kernel's address space.
extern "sysv64" fn handle(frame: &mut Frame) {
    match frame.vector as u8 {
        apic::TIMER => {
            TICKS.fetch_add(1, Ordering::Relaxed);
            apic::end_of_interrupt();
        }
        apic::SPURIOUS => {}
        syscall::VECTOR => frame.rax = system_call(frame),
        vector => {
            let exception = Exception {
                vector: vector.into(),
                error: frame.error,
                rip: frame.rip,
                cr2: Cr2::read_raw(),
            };
            raise(frame, exception);
        }
    }
}

/// Lets the interrupted code go on where it wants to after an exception, or ends the VM.
fn raise(frame: &mut Frame, exception: Exception) {
    let level = frame.level();
    let Some(recovery) = with_state(|state| state.recovery[level].take()) else {
        if exception.is_abort() && level == 0 {
            // The kernel has made no call: CPL 0 came about in a view, as the attack `idt` wants.
            println!(
                "attack idt: succeeded: a call ended at CPL 0: an event was delivered in a view"
            );
            exit(status::FAILED);
        }
        let cpl = frame.cs & 3;
        println!("error: unexpected at CPL {cpl}: {exception}");
        exit(status::CRASHED);
    };
    *frame = Frame {
        rip: recovery.rip,
        rsp: recovery.rsp,
        rdi: exception.vector,
        rsi: exception.error,
        rdx: exception.rip,
        rcx: exception.cr2,
        root: frame.root,
        cs: frame.cs,
        ss: frame.ss,
        rflags: frame.rflags & !(RFlags::TRAP_FLAG | RFlags::DIRECTION_FLAG).bits(),
        ..Frame::default()
    };
}

fn system_call(frame: &mut Frame) -> u64 {
    match frame.rax {
        syscall::WAIT => {
            interrupts::enable_and_hlt();
            interrupts::disable();
            TICKS.load(Ordering::Relaxed)
        }
        syscall::CATCH => {
            let recovery = Recovery {
                rip: frame.rdi,
                rsp: frame.rsi,
            };
            let level = frame.level();
            with_state(|state| state.recovery[level] = (recovery.rip != 0).then_some(recovery));
            0
        }
        syscall::PRIVILEGED => {
            // SAFETY: the program asks for one of this image's functions of that type, which has
            // the same address in the kernel's copy.
            let work = unsafe {
                mem::transmute::<usize, extern "sysv64" fn(u64) -> u64>(frame.rdi as usize)
            };
            let argument = frame.rsi;
            match catch(|| work(argument)) {
                Ok(result) => result,
                Err(exception) => {
                    raise(frame, exception);
                    frame.rax
                }
            }
        }
        syscall::MAP => {
            let range = frame.rdi..frame.rdi + frame.rdx;
            let (rights, kernel_too) = match frame.r10 {
                syscall::MAP_READ => (Some(Rights::USER_READ), false),
                syscall::MAP_WRITE => (Some(Rights::USER_WRITE), false),
                syscall::MAP_EXECUTE => (Some(Rights::USER_CODE), false),
                syscall::MAP_KERNEL_WRITE => (Some(Rights::WRITE), true),
                syscall::MAP_KERNEL_EXECUTE => (Some(Rights::CODE), true),
                _ => (None, true),
            };
            with_state(|state| {
                state.kernel.unmap(range.clone());
                state.program.unmap(range.clone());
                if let Some(rights) = rights {
                    let spaces = [
                        Some(&mut state.program),
                        kernel_too.then_some(&mut state.kernel),
                    ];
                    for space in spaces.into_iter().flatten() {
                        space.map(&mut state.frames, range.clone(), frame.rsi, rights);
                    }
                }
            });
            // The program's translations go when it resumes.
            tlb::flush_all();
            0
        }
        syscall::SET_ROOT => {
            let own = with_state(|state| state.program.root().start_address().as_u64());
            let root = if frame.rdi == 0 { own } else { frame.rdi };
            mem::replace(&mut frame.root, root)
        }
        number => {
            println!("error: there is no system call {number}");
            exit(status::CRASHED);
        }
    }
}
