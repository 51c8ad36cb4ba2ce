//! Guests of a few instructions, run for real: what a VM finds at its start, and how its end is
//! told.
//!
//! They need a KVM that runs guest kernel code: hardware, or the emulated machine. `POSTERN` names
//! the program to test where the build's own path does not exist.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::process::Output;

use common::elf::{Elf, Segment};
use common::{guest, postern, skip_without_vmx, sleeper, stderr};
use serde_json::Value;
use tempfile::TempDir;

// Ends with status 42.
guest!(
    exit_42,
    "postern_test_exit",
    "postern_test_exit_end",
    "mov dx, 0xce0",
    "mov eax, 42",
    "out dx, eax",
    "2: hlt",
    "jmp 2b",
);

// Writes the command line to COM1 and ends with the low byte of the magic number (0x78 & 63 = 56).
guest!(
    hello,
    "postern_test_hello",
    "postern_test_hello_end",
    // hvm_start_info: magic at 0, address of the command line at 24.
    "mov rsi, [rdi + 24]",
    "mov dx, 0x3f8",
    "2: lodsb",
    "test al, al",
    "jz 3f",
    "out dx, al",
    "jmp 2b",
    // The stack works, and the page tables map the last page of the low 4 GiB.
    "3: push rdi",
    "pop rdi",
    "mov rax, 0xfffff000",
    "mov rax, [rax]",
    "mov eax, [rdi]",
    "and eax, 63",
    "mov dx, 0xce0",
    "out dx, eax",
    "4: hlt",
    "jmp 4b",
);

// Sets the marks 1, 2, 2, and reads a port where nothing is.
guest!(
    marks,
    "postern_test_marks",
    "postern_test_marks_end",
    "mov dx, 0xce4",
    "mov eax, 1",
    "out dx, eax",
    "mov eax, 2",
    "out dx, eax",
    "out dx, eax",
    "mov dx, 0x1234",
    "in eax, dx",
    "add eax, 1",
    "mov dx, 0xce0",
    "out dx, eax",
    "4: hlt",
    "jmp 4b",
);

// Puts the first 8 bytes of its own code in the outbox, then a range that is not RAM.
guest!(
    outbox,
    "postern_test_outbox",
    "postern_test_outbox_end",
    "mov rbx, 0x200000",
    "mov qword ptr [rbx], 0x100000",
    "mov qword ptr [rbx + 8], 8",
    "mov eax, ebx",
    "mov dx, 0xcec",
    "out dx, eax",
    "mov qword ptr [rbx + 8], -1",
    "out dx, eax",
    "mov dx, 0xce0",
    "xor eax, eax",
    "out dx, eax",
    "4: hlt",
    "jmp 4b",
);

// Dies: no gate of the IDT is present.
guest!(
    triple_fault,
    "postern_test_fault",
    "postern_test_fault_end",
    "mov rax, 0x123456789000",
    "mov rax, [rax]",
);

// Jumps to where no memory is: KVM cannot fetch the instruction.
guest!(
    off_the_map,
    "postern_test_off",
    "postern_test_off_end",
    "mov eax, 0xd0000000",
    "jmp rax",
);

// Reads memory where none is, and ends with 5 if it reads as ones.
guest!(
    nobody_home,
    "postern_test_nobody",
    "postern_test_nobody_end",
    "mov eax, 0xd0000000",
    "mov qword ptr [rax], 0",
    "mov rax, [rax]",
    "add rax, 6",
    "mov dx, 0xce0",
    "out dx, eax",
    "4: hlt",
    "jmp 4b",
);

// Entered by PVH, in 32-bit mode: EBX has the start information. Ends with 7 if CR0.PG is clear
// and the magic number is right.
guest!(
    pvh,
    "postern_test_pvh",
    "postern_test_pvh_end",
    ".code32",
    "mov eax, cr0",
    "test eax, eax",
    "js 2f",
    "cmp dword ptr [ebx], 0x336ec578",
    "jne 2f",
    "mov eax, 7",
    "jmp 3f",
    "2: mov eax, 8",
    "3: mov dx, 0xce0",
    "out dx, eax",
    "4: hlt",
    "jmp 4b",
    ".code64",
);

// CPU 0 starts CPU 1 at 0x8000 by INIT and SIPI; CPU 1 ends the VM with 9.
guest!(
    two_cpus,
    "postern_test_two",
    "postern_test_two_end",
    // The real-mode code: mov dx, 0xce0; mov eax, 9; out dx, eax; hlt.
    "mov rdi, 0x8000",
    "mov rax, 0x0009b8660ce0ba",
    "mov [rdi], rax",
    "mov rax, 0xf4ef660000",
    "mov [rdi + 7], rax",
    // The local APIC: ICR high at 0x310, ICR low at 0x300.
    "mov rbx, 0xfee00000",
    "mov dword ptr [rbx + 0x310], 0x01000000",
    "mov dword ptr [rbx + 0x300], 0x00004500",
    "mov dword ptr [rbx + 0x300], 0x00004608",
    "4: pause",
    "jmp 4b",
);

/// A directory with a guest in it.
struct TestDirectory {
    dir: TempDir,
}

impl TestDirectory {
    /// Nothing, with a reason, where KVM does not run guests.
    fn new(elf: &Elf) -> Option<TestDirectory> {
        if skip_without_vmx() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kernel"), elf.bytes()).unwrap();
        Some(TestDirectory { dir })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, more: &[&str]) -> Output {
        let kernel = self.path("kernel");
        let args = [&["run", "--memory", "16M", "--kernel", &kernel], more].concat();
        postern(&args)
    }

    fn stats(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("stats")).unwrap()).unwrap()
    }
}

#[test]
fn the_guests_status_is_passed_on() {
    let Some(directory) = TestDirectory::new(&Elf::kernel(exit_42())) else {
        return;
    };
    let output = directory.run(&[]);
    assert_eq!(output.status.code(), Some(42), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn the_command_line_reaches_the_guest_and_comes_back() {
    let Some(directory) = TestDirectory::new(&Elf::kernel(hello())) else {
        return;
    };
    let output = directory.run(&["--cmdline", "Hello from the guest"]);
    assert_eq!(output.status.code(), Some(56), "{}", stderr(&output));
    assert_eq!(output.stdout, b"Hello from the guest");

    let file = directory.path("serial");
    let output = directory.run(&["--cmdline", "to a file", "--serial", &file]);
    assert_eq!(output.status.code(), Some(56), "{}", stderr(&output));
    assert_eq!(output.stdout, b"");
    assert_eq!(fs::read(file).unwrap(), b"to a file");
}

#[test]
fn marks_are_recorded_with_statistics() {
    let Some(directory) = TestDirectory::new(&Elf::kernel(marks())) else {
        return;
    };
    let file = directory.path("stats");
    let output = directory.run(&["--stats", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let stats = directory.stats();
    assert_eq!(stats["exit"]["kind"], "guest");
    let marks = stats["marks"].as_array().unwrap();
    let labels: Vec<_> = marks.iter().map(|mark| &mark["label"]).collect();
    assert_eq!(labels, [1, 2, 2]);
    let io_exits: Vec<u64> = marks
        .iter()
        .map(|mark| mark["statistics"]["vcpus"][0]["io_exits"].as_u64().unwrap())
        .collect();
    assert_eq!(io_exits, [1, 2, 3], "one exit a mark");
    let last = &stats["final"];
    assert_eq!(last["statistics"]["vcpus"][0]["io_exits"], 5);
    assert_eq!(last["stray_accesses"], 1);
}

#[test]
fn emulated_counters_are_exact() {
    let Some(directory) = TestDirectory::new(&Elf::kernel(marks())) else {
        return;
    };
    let file = directory.path("stats");
    let output = directory.run(&["--stats", &file, "--counters", "emulated"]);
    if output.status.code() == Some(64) && stderr(&output).contains("no emulated counters") {
        return println!("SKIP: {}", stderr(&output));
    }
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let stats = directory.stats();
    let counter =
        |mark: usize, name: &str| stats["marks"][mark]["counters"][name].as_u64().unwrap();
    // Between two marks the guest runs `mov` and `out`, or `out` alone; the OUT exits and so is
    // not counted.
    assert_eq!(counter(1, "vm_exits") - counter(0, "vm_exits"), 1);
    assert_eq!(
        counter(1, "guest_instructions") - counter(0, "guest_instructions"),
        1
    );
    assert_eq!(
        counter(2, "guest_instructions") - counter(1, "guest_instructions"),
        0
    );
    assert_eq!(counter(2, "vmfuncs"), counter(0, "vmfuncs"));
    assert!(counter(2, "total_instructions") > counter(1, "total_instructions") + 100);
}

#[test]
fn the_outbox_is_a_file() {
    let code = outbox();
    let Some(directory) = TestDirectory::new(&Elf::kernel(code)) else {
        return;
    };
    let (file, stats) = (directory.path("outbox"), directory.path("stats"));
    let output = directory.run(&["--outbox", &file, "--stats", &stats]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(fs::read(file).unwrap(), &code[..8]);
    assert_eq!(directory.stats()["final"]["outbox_refused"], 1);
}

#[test]
fn a_triple_fault_is_told_with_its_place() {
    let Some(directory) = TestDirectory::new(&Elf::kernel(triple_fault())) else {
        return;
    };
    let output = directory.run(&[]);
    assert_eq!(output.status.code(), Some(67));
    let text = stderr(&output);
    assert!(
        text.contains("triple fault") && text.contains("CR2 0x123456789000"),
        "{text}"
    );
}

#[test]
fn a_guest_that_kvm_cannot_run_on_is_told() {
    let Some(directory) = TestDirectory::new(&Elf::kernel(off_the_map())) else {
        return;
    };
    let output = directory.run(&[]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains("an instruction cannot be emulated"), "{text}");
}

#[test]
fn memory_that_is_not_there_reads_as_ones() {
    let Some(directory) = TestDirectory::new(&Elf::kernel(nobody_home())) else {
        return;
    };
    let output = directory.run(&[]);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
}

#[test]
fn pvh_kernels_start_in_32_bit_mode() {
    let mut elf = Elf::kernel(pvh());
    elf.segments.push(Segment::pvh_note(0x10_0000));
    let Some(directory) = TestDirectory::new(&elf) else {
        return;
    };
    let output = directory.run(&[]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
}

#[test]
fn a_second_cpu_waits_for_its_sipi() {
    let Some(directory) = TestDirectory::new(&Elf::kernel(two_cpus())) else {
        return;
    };
    let output = directory.run(&["--vcpus", "2"]);
    assert_eq!(output.status.code(), Some(9), "{}", stderr(&output));
}

#[test]
fn a_signal_ends_a_vm_that_sleeps() {
    let Some(directory) = TestDirectory::new(&Elf::kernel(sleeper())) else {
        return;
    };
    let (kernel, stats) = (directory.path("kernel"), directory.path("stats"));
    let mut child = std::process::Command::new(common::program())
        .args([
            "run", "--vcpus", "2", "--kernel", &kernel, "--stats", &stats,
        ])
        .spawn()
        .unwrap();
    while fs::metadata(&stats).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    // SAFETY: our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + libc::SIGTERM));
    assert_eq!(directory.stats()["exit"]["kind"], "signal");
}
