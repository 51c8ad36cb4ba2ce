//! What runs in the self-test's VM: a service for views, and a guest that calls it, in assembly.
//!
//! Nothing of it runs in this process: the bytes lie in read-only data and are copied, the
//! service's into a template, the guest's into the VM's memory. All of it works at any address.
//! Labels are global because Rust puts the assembly into an object file of its own.

use std::arch::global_asm;

use postern_abi::view::{CallPage, DATA_GVA, GATE_GVA, LIST_GVA, SERVICE_INDICES, gate_index};

/// The slot that the self-test attaches at.
pub const SLOT: u32 = 0;

/// Where a call begins: page A ends in [`page_a`].
pub const CALL_GVA: u64 = VMFUNC_GVA - 7;

/// Address of the VMFUNC at the end of page A.
pub const VMFUNC_GVA: u64 = GATE_GVA - 3;

/// Pages of a service's data whose first words [`READ`] reads.
pub const READ_PAGES: u64 = 64;

/// Pages of a service's data. The last two are for what [`ARM`] and [`DISARM`] write.
pub const DATA_PAGES: u64 = READ_PAGES + 2;

/// Offset in the service's data of the number of rounds that [`ARM`] had left.
pub const ROUNDS_LEFT: u64 = READ_PAGES * postern_abi::PAGE_SIZE;

/// Offset in the service's data of the lines that are written before an entry is, of which
/// [`STORES`] are.
pub const STORE_LINES: u64 = (READ_PAGES + 1) * postern_abi::PAGE_SIZE;

/// Number of stores that miss: about as many as store buffers hold.
pub const STORES: u64 = 48;

/// Request to the service: do nothing.
pub const NOTHING: u64 = 0;
/// Request to the service: the first word of the data, if each page begins with it, else all ones.
pub const READ: u64 = 1;
/// Request to the service, of as many rounds as the first argument says: make the own entry of the
/// EPTP list valid, VMFUNC to it, make it invalid. Needs the list, so the right `fast`. Gives
/// [`DONE`].
pub const ARM: u64 = 2;
/// Request to the service: the same once, then VMFUNC to the invalid entry. Does not come back;
/// gives [`NOT_REFUSED`] if it does.
pub const DISARM: u64 = 3;

/// Result of [`ARM`].
pub const DONE: u64 = 1;
/// Result of [`DISARM`] where a VMFUNC went on.
pub const NOT_REFUSED: u64 = 2;

/// Bit of the second argument of [`ARM`] and [`DISARM`]: the entry's cache line is flushed before
/// it is written.
pub const FLUSH_BEFORE: u64 = 1;
/// The same: the line is flushed between the store and the VMFUNC.
pub const FLUSH_BETWEEN: u64 = 2;
/// The same: as many stores as a store buffer holds, all to lines that were flushed, come before.
pub const BEHIND_MISSES: u64 = 4;

/// I/O port that the guest writes at the end of a piece of work.
pub const PORT_DONE: u8 = 0x10;
/// I/O port that the guest writes what the service has read.
pub const PORT_SERVICE: u8 = 0x11;
/// I/O port that the guest writes what it has read itself, at the address that depends on CR3.
pub const PORT_CR3: u8 = 0x12;
/// I/O port that the guest writes what it has read itself, in the memory slot.
pub const PORT_SLOT: u8 = 0x13;
/// I/O port that the guest writes to have the time of an OUT taken.
pub const PORT_TIMED: u8 = 0x14;

/// What the first bytes of the pages are that [`Work::Cr3`] expects: of the service's data, of the
/// page under the one root, of that under the other.
pub const MARKS: [u8; 3] = [0x11, 0xa1, 0xb2];

/// A VMCALL that KVM answers with an error: no hypercall has this number.
const NO_HYPERCALL: u32 = u32::MAX;

const INDEX: u32 = SERVICE_INDICES[SLOT as usize];

// The top byte of the entry, whose top bit makes it invalid.
const ENTRY_BYTE: u64 = LIST_GVA + INDEX as u64 * 8 + 7;

const _: () = assert!(size_of::<CallPage>() == 128);

global_asm!(
    ".pushsection .rodata.postern_self_test, \"a\"",
    // The service: requests in RDI, arguments in RSI and RDX, result in RAX.
    ".globl postern_self_test_service",
    "postern_self_test_service:",
    "    test edi, edi",
    "    jnz 2f",
    "    ret",
    "2:  cmp edi, {read}",
    "    je 3f",
    "    cmp edi, {arm}",
    "    je 10f",
    "    cmp edi, {disarm}",
    "    je 20f",
    "9:  mov rax, -1",
    "    ret",
    // READ: RSI is the number of pages.
    "3:  movabs r8, {data}",
    "    mov rax, [r8]",
    "4:  cmp [r8], rax",
    "    jne 9b",
    "    add r8, 4096",
    "    dec rsi",
    "    jnz 4b",
    "    ret",
    // ARM: RSI is the number of rounds, RDX the variant. EAX and ECX are those of VMFUNC before the
    // store, so that nothing is between the two.
    "10: movabs r9, {entry}",
    "    movabs r10, {left}",
    "11: call 30f",
    "    xor eax, eax",
    "    mov ecx, {index}",
    "    test edx, {between}",
    "    jnz 12f",
    "    and byte ptr [r9], 0x7f",
    "    vmfunc",
    "    jmp 13f",
    "12: and byte ptr [r9], 0x7f",
    "    clflush [r9]",
    "    vmfunc",
    "13: or byte ptr [r9], 0x80",
    "    dec rsi",
    "    mov [r10], rsi",
    "    jnz 11b",
    "    mov eax, {done}",
    "    ret",
    // DISARM: RDX is the variant.
    "20: movabs r9, {entry}",
    "    xor eax, eax",
    "    mov ecx, {index}",
    "    and byte ptr [r9], 0x7f",
    "    vmfunc",
    "    call 30f",
    "    xor eax, eax",
    "    mov ecx, {index}",
    "    test edx, {between}",
    "    jnz 21f",
    "    or byte ptr [r9], 0x80",
    ".globl postern_self_test_refused",
    "postern_self_test_refused:",
    "    vmfunc",
    "    jmp 22f",
    "21: or byte ptr [r9], 0x80",
    "    clflush [r9]",
    ".globl postern_self_test_refused_flushed",
    "postern_self_test_refused_flushed:",
    "    vmfunc",
    "22: or byte ptr [r9], 0x80",
    "    mov eax, {not_refused}",
    "    ret",
    // What comes before the store, by the variant in RDX; R9 is the entry. Uses RAX, RCX, RDI, R8.
    "30: test edx, {before}",
    "    jz 31f",
    "    clflush [r9]",
    "    mfence",
    "31: test edx, {misses}",
    "    jz 34f",
    "    movabs r8, {lines}",
    "    mov rdi, r8",
    "    mov ecx, {stores}",
    "32: clflush [rdi]",
    "    add rdi, 64",
    "    dec ecx",
    "    jnz 32b",
    "    mfence",
    "    mov ecx, {stores}",
    "33: mov [r8], rsi",
    "    add r8, 64",
    "    dec ecx",
    "    jnz 33b",
    "34: ret",
    ".globl postern_self_test_service_end",
    "postern_self_test_service_end:",
    // Page A's last instructions, and page C's only one.
    ".globl postern_self_test_page_a",
    "postern_self_test_page_a:",
    "    mov ecx, {gate}",
    "    xor eax, eax",
    "    vmfunc",
    ".globl postern_self_test_page_a_end",
    "postern_self_test_page_a_end:",
    // The guest, at CPL 3. RBP is the address of a call, which keeps RBX, RBP, R12 to R15.
    ".globl postern_self_test_guest",
    "postern_self_test_guest:",
    // CALLS: R12 calls of the request R13 with the arguments R14, R15; RBX is the sum of results.
    ".globl postern_self_test_calls",
    "postern_self_test_calls:",
    "2:  mov rdi, r13",
    "    mov rsi, r14",
    "    mov rdx, r15",
    "    call rbp",
    "    add rbx, rdx",
    "    dec r12",
    "    jnz 2b",
    "    out {port_done}, al",
    // CALLS_THEN_STRAIGHT: R12 calls, then VMFUNC to the service itself, which no gate has armed.
    ".globl postern_self_test_straight",
    "postern_self_test_straight:",
    "2:  test r12, r12",
    "    jz 3f",
    "    xor edi, edi",
    "    call rbp",
    "    dec r12",
    "    jmp 2b",
    "3:  mov ecx, {index}",
    "    xor eax, eax",
    "    movabs rdx, {vmfunc}",
    "    jmp rdx",
    // PROBE: for ever, tells what the service reads and what it reads itself at R12 and R13.
    ".globl postern_self_test_probe",
    "postern_self_test_probe:",
    "2:  mov edi, {read}",
    "    mov esi, {read_pages}",
    "    call rbp",
    "    mov eax, edx",
    "    out {port_service}, al",
    "    mov al, [r12]",
    "    out {port_cr3}, al",
    "    mov al, [r13]",
    "    out {port_slot}, al",
    "    jmp 2b",
    // CR3: R12 times to the root R14 and back to R13, reading at R15; RBX counts wrong bytes.
    ".globl postern_self_test_cr3",
    "postern_self_test_cr3:",
    "2:  mov rdi, r14",
    "    syscall",
    "    mov dl, {mark_b}",
    "    call 3f",
    "    mov rdi, r13",
    "    syscall",
    "    mov dl, {mark_a}",
    "    call 3f",
    "    dec r12",
    "    jnz 2b",
    "    out {port_done}, al",
    "3:  xor eax, eax",
    "    cmp [r15], dl",
    "    setne al",
    "    add rbx, rax",
    "    mov edi, {read}",
    "    mov esi, {read_pages}",
    "    call rbp",
    "    xor eax, eax",
    "    cmp dl, {mark_service}",
    "    setne al",
    "    add rbx, rax",
    "    ret",
    // TIME_...: R12 times something, with the differences of the time-stamp counter to RBX.
    ".macro postern_self_test_begin",
    "2:  lfence",
    "    rdtsc",
    "    lfence",
    "    shl rdx, 32",
    "    lea r13, [rax + rdx]",
    ".endm",
    ".macro postern_self_test_end",
    "    lfence",
    "    rdtsc",
    "    lfence",
    "    shl rdx, 32",
    "    add rax, rdx",
    "    sub rax, r13",
    "    mov [rbx], eax",
    "    add rbx, 4",
    "    dec r12",
    "    jnz 2b",
    "    out {port_done}, al",
    ".endm",
    ".globl postern_self_test_time_nothing",
    "postern_self_test_time_nothing:",
    "postern_self_test_begin",
    "postern_self_test_end",
    ".globl postern_self_test_time_vmfunc",
    "postern_self_test_time_vmfunc:",
    "postern_self_test_begin",
    "    xor eax, eax",
    "    xor ecx, ecx",
    "    vmfunc",
    "postern_self_test_end",
    ".globl postern_self_test_time_call",
    "postern_self_test_time_call:",
    "postern_self_test_begin",
    "    xor edi, edi",
    "    call rbp",
    "postern_self_test_end",
    ".globl postern_self_test_time_vmcall",
    "postern_self_test_time_vmcall:",
    "postern_self_test_begin",
    "    mov eax, {no_hypercall}",
    "    vmcall",
    "postern_self_test_end",
    ".globl postern_self_test_time_out",
    "postern_self_test_time_out:",
    "postern_self_test_begin",
    "    out {port_timed}, al",
    "postern_self_test_end",
    ".purgem postern_self_test_begin",
    ".purgem postern_self_test_end",
    ".globl postern_self_test_guest_end",
    "postern_self_test_guest_end:",
    // The guest's kernel: SYSCALL loads CR3 with RDI.
    ".globl postern_self_test_kernel",
    "postern_self_test_kernel:",
    "    mov cr3, rdi",
    "    sysretq",
    ".globl postern_self_test_kernel_end",
    "postern_self_test_kernel_end:",
    ".popsection",
    read = const READ,
    arm = const ARM,
    disarm = const DISARM,
    done = const DONE,
    not_refused = const NOT_REFUSED,
    data = const DATA_GVA,
    entry = const ENTRY_BYTE,
    left = const DATA_GVA + ROUNDS_LEFT,
    lines = const DATA_GVA + STORE_LINES,
    stores = const STORES,
    index = const INDEX,
    gate = const gate_index(SLOT),
    before = const FLUSH_BEFORE,
    between = const FLUSH_BETWEEN,
    misses = const BEHIND_MISSES,
    vmfunc = const VMFUNC_GVA,
    read_pages = const READ_PAGES,
    port_done = const PORT_DONE,
    port_service = const PORT_SERVICE,
    port_cr3 = const PORT_CR3,
    port_slot = const PORT_SLOT,
    port_timed = const PORT_TIMED,
    mark_service = const MARKS[0],
    mark_a = const MARKS[1],
    mark_b = const MARKS[2],
    no_hypercall = const NO_HYPERCALL,
);

macro_rules! labels {
    ($($label:ident)*) => {
        unsafe extern "C" {
            $(static $label: u8;)*
        }
    };
}

labels! {
    postern_self_test_service
    postern_self_test_service_end
    postern_self_test_refused
    postern_self_test_refused_flushed
    postern_self_test_page_a
    postern_self_test_page_a_end
    postern_self_test_guest
    postern_self_test_guest_end
    postern_self_test_calls
    postern_self_test_straight
    postern_self_test_probe
    postern_self_test_cr3
    postern_self_test_time_nothing
    postern_self_test_time_vmfunc
    postern_self_test_time_call
    postern_self_test_time_vmcall
    postern_self_test_time_out
    postern_self_test_kernel
    postern_self_test_kernel_end
}

macro_rules! piece {
    ($(#[$doc:meta])* $name:ident, $start:ident, $end:ident) => {
        $(#[$doc])*
        pub fn $name() -> &'static [u8] {
            let (start, end) = (&raw const $start, &raw const $end);
            // SAFETY: both are labels of the read-only data above, the second behind the first.
            unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
        }
    };
}

piece!(
    /// The service.
    service, postern_self_test_service, postern_self_test_service_end
);
piece!(
    /// The instructions that page A ends in.
    page_a, postern_self_test_page_a, postern_self_test_page_a_end
);
piece!(
    /// The guest.
    guest, postern_self_test_guest, postern_self_test_guest_end
);
piece!(
    /// The guest's kernel, which SYSCALL enters.
    kernel, postern_self_test_kernel, postern_self_test_kernel_end
);

/// Page C's instruction, RET.
pub const PAGE_C: [u8; 1] = [0xc3];

/// Offsets in the service of the VMFUNCs of [`DISARM`] that must be refused: without and with
/// [`FLUSH_BETWEEN`].
pub fn refused_offsets() -> [u64; 2] {
    let start = (&raw const postern_self_test_service).addr();
    [
        (&raw const postern_self_test_refused).addr(),
        (&raw const postern_self_test_refused_flushed).addr(),
    ]
    .map(|label| (label - start) as u64)
}

/// A piece of the guest's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// R12 calls of the request R13 with arguments R14 and R15; RBX adds their results.
    Calls,
    /// R12 empty calls, then VMFUNC to the service without the gate.
    CallsThenStraight,
    /// For ever: what the service reads, what the guest reads at R12, and at R13, each to a port.
    Probe,
    /// R12 times to the page tables R14 and back to R13; RBX counts wrong bytes.
    Cr3,
    /// R12 times nothing, between two readings of the time-stamp counter.
    TimeNothing,
    /// A VMFUNC from the default view to the default view.
    TimeVmfunc,
    /// An empty call.
    TimeCall,
    /// A VMCALL that KVM answers with an error.
    TimeVmcall,
    /// An OUT that this process answers.
    TimeOut,
}

impl Work {
    /// Where it begins, as an offset in the guest.
    pub fn offset(self) -> u64 {
        let label = match self {
            Work::Calls => &raw const postern_self_test_calls,
            Work::CallsThenStraight => &raw const postern_self_test_straight,
            Work::Probe => &raw const postern_self_test_probe,
            Work::Cr3 => &raw const postern_self_test_cr3,
            Work::TimeNothing => &raw const postern_self_test_time_nothing,
            Work::TimeVmfunc => &raw const postern_self_test_time_vmfunc,
            Work::TimeCall => &raw const postern_self_test_time_call,
            Work::TimeVmcall => &raw const postern_self_test_time_vmcall,
            Work::TimeOut => &raw const postern_self_test_time_out,
        };
        (label.addr() - (&raw const postern_self_test_guest).addr()) as u64
    }
}

#[cfg(test)]
mod tests {
    use postern_abi::PAGE_SIZE;

    use super::*;

    #[test]
    fn each_piece_fits_its_page() {
        let page = PAGE_SIZE as usize;
        for piece in [service(), guest(), kernel()] {
            assert!(!piece.is_empty() && piece.len() <= page);
        }
        // `mov ecx, imm32; xor eax, eax; vmfunc`.
        assert_eq!(page_a().len() as u64, GATE_GVA - CALL_GVA);
        assert!(page_a().ends_with(&[0x0f, 0x01, 0xd4]));
        assert_eq!(kernel(), [0x0f, 0x22, 0xdf, 0x48, 0x0f, 0x07]);
    }

    #[test]
    fn labels_point_at_instructions() {
        for offset in refused_offsets() {
            let at = offset as usize;
            assert_eq!(service()[at..at + 3], [0x0f, 0x01, 0xd4]);
        }
        let all = [
            Work::Calls,
            Work::CallsThenStraight,
            Work::Probe,
            Work::Cr3,
            Work::TimeNothing,
            Work::TimeVmfunc,
            Work::TimeCall,
            Work::TimeVmcall,
            Work::TimeOut,
        ];
        let offsets = all.map(Work::offset);
        assert!(offsets.is_sorted() && offsets[0] == 0);
        assert!(offsets[8] < guest().len() as u64);
    }
}
