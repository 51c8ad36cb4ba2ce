//! Exceptions of the CPU, and code that goes on after one. So a test sees that something is
//! refused.

use core::arch::naked_asm;
use core::fmt;
use core::mem::MaybeUninit;

use postern_guest::gate;

use crate::syscall;

/// An exception of the CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// The exception's vector.
    pub vector: u64,
    /// The exception's error code, 0 where it has none.
    pub error: u64,
    /// Address of the instruction that raised it.
    pub rip: u64,
    /// CR2: the address that the last page fault was about.
    pub cr2: u64,
}

impl Exception {
    /// Whether the exception reports an aborted call.
    pub fn is_abort(&self) -> bool {
        gate::is_abort(self.vector as u8, self.rip)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exception {
            vector,
            error,
            rip,
            cr2,
        } = *self;
        if self.is_abort() {
            return f.write_str("the host aborted a call through the gate");
        }
        write!(f, "exception {vector} at {rip:#x}, error code {error:#x}")?;
        if vector == 14 {
            write!(f, ", address {cr2:#x}")?;
        }
        Ok(())
    }
}

/// Runs `work` and gives its result.
///
/// The values in the work's stack frames are not dropped if an exception ends it.
///
/// # Errors
///
/// The exception that ended the work.
pub fn catch_exception<R, W: FnOnce() -> R>(work: W) -> Result<R, Exception> {
    struct Call<R, W> {
        work: Option<W>,
        result: Option<R>,
    }
    extern "sysv64" fn run<R, W: FnOnce() -> R>(call: &mut Call<R, W>) {
        call.result = call.work.take().map(|work| work());
    }
    let mut call = Call {
        work: Some(work),
        result: None,
    };
    let mut exception = MaybeUninit::uninit();
    // SAFETY: `run` gets the `Call` of its own types as argument; both pointers are valid during
    // the call.
    let failed = unsafe {
        let run: extern "sysv64" fn(&mut Call<R, W>) = run::<R, W>;
        call_with_fixup(run as usize, (&raw mut call).cast(), exception.as_mut_ptr())
    };
    match call.result {
        Some(result) if !failed => Ok(result),
        // SAFETY: `call_with_fixup` returned true, or the work left no result since an exception
        // ended it: in both cases it wrote the exception.
        _ => Err(unsafe { exception.assume_init() }),
    }
}

/// Calls a function with an argument. If an exception comes meanwhile, writes it to `exception` and
/// returns true.
#[unsafe(naked)]
unsafe extern "sysv64" fn call_with_fixup(
    function: usize,
    argument: *mut u8,
    exception: *mut Exception,
) -> bool {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdx",
        "mov rbx, rdi",
        "mov rbp, rsi",
        "mov eax, {set_fixup}",
        "lea rdi, [rip + 2f]",
        "mov rsi, rsp",
        "int {system_call}",
        "mov rdi, rbp",
        "call rbx",
        "mov eax, {set_fixup}",
        "xor edi, edi",
        "int {system_call}",
        "xor eax, eax",
        "jmp 3f",
        "2:",
        "mov rax, [rsp]",
        "mov [rax], rdi",
        "mov [rax + 8], rsi",
        "mov [rax + 16], rdx",
        "mov [rax + 24], rcx",
        "mov eax, 1",
        "3:",
        "pop rdx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        set_fixup = const syscall::SET_FIXUP,
        system_call = const syscall::VECTOR as u32,
    )
}
