//! The guest's side of the gate: the two pages of the gate area that belong to it, and a call
//! through them.
//!
//! ```text
//!   GATE_AREA_GVA  page A   0xffb       xor eax, eax   EPTP switching, to the gate view
//!                           0xffd       vmfunc         whose index is in ECX
//!   GATE_GVA       page B   (not mapped by the guest: the gate, then the service's entry)
//!   LANDING_GVA    page C   0x000       ret            to the caller of page A
//! ```
//!
//! A VMFUNC changes what page B is, not where the CPU fetches next: the VMFUNC that ends page A
//! goes on at the first byte of page B, and the one that ends page B goes on in page C. To its
//! caller the whole is one function at [`ENTRY_GVA`], of four arguments in the registers of the
//! System V ABI; the last, in RCX, is the gate's index, and the result comes back in RDX.
//!
//! Each of the slots at which a service can be attached has a gate view of its own, with an index
//! of its own. They all lie at these addresses, so the two pages serve any number of services.
//!
//! The owner of the address space copies [`page_a`] and [`page_c`] into two pages of the guest,
//! maps them executable (for user space) at their addresses, and leaves page B unmapped. Both pages
//! are the guest's; only their code is fixed.
//!
//! # Vector registers
//!
//! A caller may lend a call its vector registers ([`Gate::lending_avx`]), with which the NIC copies
//! longer frames faster. They are then the call's, like those of a function of the System V ABI, and
//! come back with nothing of the service's in them. A call to which they are not lent keeps them.
//!
//! # A call that is aborted
//!
//! The host ends a call that breaks the rules, or whose NIC has gone, by resuming the guest at
//! [`VMFUNC_GVA`] with an invalid-opcode exception (vector 6) and all registers but RSP zero, the
//! vector registers too. RSP
//! is what it was there: the caller's return address lies on top. The operating system decides
//! about the caller, after [`is_abort`] has told it what happened; Linux sends SIGILL.

use core::arch::asm;

use postern_abi::PAGE_SIZE;
use postern_abi::view::{GATE_AREA_GVA, GATE_GVA, gate_index};

/// The bytes of a page of code.
pub type CodePage = [u8; PAGE_SIZE as usize];

/// Code of VMFUNC (Intel SDM volume 3, "VMFUNC - Invoke VM function").
const VMFUNC: [u8; 3] = [0x0f, 0x01, 0xd4];

/// Code of `xor eax, eax; vmfunc`: EPTP switching is VM function 0.
const ENTER: [u8; 5] = [0x31, 0xc0, VMFUNC[0], VMFUNC[1], VMFUNC[2]];

/// Code of `ret`.
const LEAVE: u8 = 0xc3;

/// Code of `int3`, which fills the rest of both pages.
const FILLER: u8 = 0xcc;

/// Address at which a call enters page A.
pub const ENTRY_GVA: u64 = GATE_GVA - ENTER.len() as u64;

/// Address of the VMFUNC in page A, where an aborted call raises its exception.
pub const VMFUNC_GVA: u64 = GATE_GVA - VMFUNC.len() as u64;

/// Vector of the exception that reports an aborted call: invalid opcode.
pub const ABORT_VECTOR: u8 = 6;

/// The bytes of page A.
pub const fn page_a() -> CodePage {
    let mut page = [FILLER; PAGE_SIZE as usize];
    let start = (ENTRY_GVA - GATE_AREA_GVA) as usize;
    let mut i = 0;
    while i < ENTER.len() {
        page[start + i] = ENTER[i];
        i += 1;
    }
    page
}

/// The bytes of page C.
pub const fn page_c() -> CodePage {
    let mut page = [FILLER; PAGE_SIZE as usize];
    page[0] = LEAVE;
    page
}

/// Whether an exception of this vector, raised at address `rip`, is an aborted call.
pub const fn is_abort(vector: u8, rip: u64) -> bool {
    vector == ABORT_VECTOR && rip == VMFUNC_GVA
}

/// The right to call the service at one slot through its gate.
///
/// Any thread on any virtual CPU may call, with no lock: a call is not preempted by the guest.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// EPTP-list index of the gate view.
    index: u32,
    /// Whether requests may lend vector registers.
    lends_avx: bool,
}

impl Gate {
    /// Takes the gate area into use, for the service at this slot.
    ///
    /// # Safety
    ///
    /// As long as the value or a copy of it is used, the current address space has [`page_a`] and
    /// [`page_c`] at their addresses, executable at the current privilege level, and page B is not
    /// mapped. The current privilege level is 3, and each virtual CPU this runs on has a view in
    /// the slot (otherwise calls raise the exception of an aborted call).
    pub const unsafe fn new(slot: u32) -> Gate {
        Gate {
            index: gate_index(slot),
            lends_avx: false,
        }
    }

    /// The same gate for a system with AVX: requests through it lend their vector registers.
    ///
    /// # Safety
    ///
    /// As long as the value or a copy of it is used, the operating system has AVX on: CR4.OSXSAVE is
    /// set, XCR0 has SSE and AVX, and CR0.TS is clear whenever a call is made (otherwise calls raise the
    /// exception of an aborted call). It keeps the vector registers of each thread.
    #[must_use]
    pub const unsafe fn lending_avx(self) -> Gate {
        Gate {
            lends_avx: true,
            ..self
        }
    }

    /// Whether requests through this gate lend their vector registers.
    pub const fn lends_avx(self) -> bool {
        self.lends_avx
    }

    /// Calls the service with the number of a request and two arguments; gives its result.
    #[inline(always)]
    pub fn call(self, op: u64, a: u64, b: u64) -> u64 {
        /// The address in memory, so that a call is one instruction from any address.
        static ENTRY: u64 = ENTRY_GVA;
        let result;
        // SAFETY: `new` was promised that page A is at that address. The call convention keeps the
        // registers that are not listed here. Those of the vector registers that a request lends are
        // listed by their lower parts, whatever their width. The service writes
        // the guest's window alone, which Rust code reaches by raw pointers.
        unsafe {
            asm!(
                "call qword ptr [rip + {entry}]",
                entry = sym ENTRY,
                lateout("rax") _,
                inlateout("ecx") self.index => _,
                inlateout("rdi") op => _,
                inlateout("rsi") a => _,
                inlateout("rdx") b => result,
                lateout("r8") _,
                lateout("r9") _,
                lateout("r10") _,
                lateout("r11") _,
                lateout("xmm0") _,
                lateout("xmm1") _,
                lateout("xmm2") _,
                lateout("xmm3") _,
                lateout("xmm4") _,
                lateout("xmm5") _,
                lateout("xmm6") _,
                lateout("xmm7") _,
                lateout("xmm8") _,
                lateout("xmm9") _,
                lateout("xmm10") _,
                lateout("xmm11") _,
                lateout("xmm12") _,
                lateout("xmm13") _,
                lateout("xmm14") _,
                lateout("xmm15") _,
            );
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};
    use postern_abi::view::LANDING_GVA;

    use super::*;

    /// Decodes `count` instructions of a page from an address on.
    fn decode<const N: usize>(page: &CodePage, base: u64, at: u64) -> [Instruction; N] {
        let bytes = &page[(at - base) as usize..];
        let mut decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
        core::array::from_fn(|_| decoder.decode())
    }

    #[test]
    fn page_a_enters_the_gate_view_with_its_last_instruction() {
        let [zero, vmfunc] = decode(&page_a(), GATE_AREA_GVA, ENTRY_GVA);
        assert_eq!(zero.code(), Code::Xor_rm32_r32);
        assert_eq!(
            (zero.op0_register(), zero.op1_register()),
            (Register::EAX, Register::EAX)
        );
        assert_eq!(vmfunc.code(), Code::Vmfunc);
        assert_eq!(vmfunc.ip(), VMFUNC_GVA);
        assert_eq!(vmfunc.next_ip(), GATE_GVA);
    }

    #[test]
    fn page_c_returns() {
        let [ret] = decode(&page_c(), LANDING_GVA, LANDING_GVA);
        assert_eq!(ret.code(), Code::Retnq);
    }

    #[test]
    fn the_rest_of_both_pages_traps() {
        let code = ENTER.len();
        assert!(
            page_a()[..PAGE_SIZE as usize - code]
                .iter()
                .all(|&byte| byte == FILLER)
        );
        assert!(page_c()[1..].iter().all(|&byte| byte == FILLER));
    }

    #[test]
    fn only_the_exception_at_the_vmfunc_is_an_abort() {
        assert!(is_abort(6, VMFUNC_GVA));
        assert!(!is_abort(6, GATE_GVA));
        assert!(!is_abort(13, VMFUNC_GVA));
    }
}
