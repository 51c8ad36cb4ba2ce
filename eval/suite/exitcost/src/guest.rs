//! A VM of one vCPU at CPL 0 in 64-bit mode, whose guest notes the time-stamp counter before and
//! after each of many exits.

use anyhow::{Result, bail, ensure};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit};

/// A kind of exit.
#[derive(Debug)]
pub struct Kind {
    /// The name that is printed.
    pub name: &'static str,
    /// Instructions before it, which need no exit. They may change RAX, RCX and RDX.
    pub prepare: &'static [u8],
    /// The instruction that exits. It may change RAX, RBX, RCX and RDX.
    pub exit: &'static [u8],
}

/// Exits that the kernel handles by itself, each by another part of KVM.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "cpuid",
        prepare: &[0x31, 0xc0, 0x31, 0xc9], // xor eax, eax; xor ecx, ecx
        exit: &[0x0f, 0xa2],
    },
    Kind {
        name: "vmcall",
        prepare: &[0xb8, 0xff, 0x0f, 0, 0], // mov eax, 0xfff: no hypercall has this number
        exit: &[0x0f, 0x01, 0xc1],
    },
    Kind {
        name: "rdmsr",
        prepare: &[0xb9, 0x1b, 0, 0, 0], // mov ecx, IA32_APIC_BASE
        exit: &[0x0f, 0x32],
    },
    Kind {
        name: "wrmsr",
        // mov ecx, IA32_BIOS_UPDT_TRIG; xor eax, eax; xor edx, edx: KVM ignores it
        prepare: &[0xb9, 0x79, 0, 0, 0, 0x31, 0xc0, 0x31, 0xd2],
        exit: &[0x0f, 0x30],
    },
    Kind {
        name: "out",
        // mov edx, 0x4d0; xor eax, eax: the interrupt controller's edges and levels
        prepare: &[0xba, 0xd0, 0x04, 0, 0, 0x31, 0xc0],
        exit: &[0xee], // out dx, al
    },
    Kind {
        name: "out-pic",
        prepare: &[0xb0, 0xff], // mov al, 0xff
        exit: &[0xe6, 0x21],    // out 0x21, al: the interrupt controller's mask
    },
    Kind {
        name: "mmio",
        prepare: &[0xb8, 0, 0, 0xc0, 0xfe], // mov eax, 0xfec00000, of the I/O APIC
        exit: &[0x8b, 0x00],                // mov eax, [rax]
    },
];

/// Exits of each kind.
const COUNT: u32 = 3000;

/// Guest memory in bytes: page tables, code and results.
const MEMORY: usize = 4 << 20;
/// Guest address of the code.
const CODE: u32 = 0x1000;
/// Guest address of the results, 32 bits each.
const RESULTS: u32 = 0x10_0000;
/// Guest address of the root of the page tables, which four more follow.
const TABLES: u64 = 0x1_0000;
/// I/O port that the guest writes to when it is done.
const DONE: u8 = 0xf1;

/// Ticks of `COUNT` runs of `exit`, each with `prepare` before it, and of what notes them.
pub fn measure(prepare: &[u8], exit: &[u8]) -> Result<Vec<u32>> {
    let memory = Memory::new()?;
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.set_tss_address(0xfffb_d000)?;
    vm.create_irq_chip()?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.0 as u64,
        ..Default::default()
    };
    // SAFETY: the memory outlives the VM: it was declared before it.
    unsafe { vm.set_user_memory_region(region)? };
    memory.write(CODE as usize, &code(prepare, exit));
    for (address, value) in page_tables() {
        memory.write(address as usize, &value.to_le_bytes());
    }

    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let mut sregs = vcpu.get_sregs()?;
    set_64_bit_mode(&mut sregs);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rip: CODE.into(),
        rflags: 2,
        ..Default::default()
    })?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, _)) if port == DONE.into() => break,
            Ok(other) => bail!("the kernel does not handle it by itself: {other:?}"),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((0..COUNT as usize)
        .map(|index| memory.read(RESULTS as usize + 4 * index))
        .collect())
}

/// The guest's code.
fn code(prepare: &[u8], exit: &[u8]) -> Vec<u8> {
    let mut code = vec![0xbf]; // mov edi, RESULTS
    code.extend(RESULTS.to_le_bytes());
    code.push(0xbd); // mov ebp, COUNT
    code.extend(COUNT.to_le_bytes());
    let again = code.len();
    code.extend([0x0f, 0x31, 0x41, 0x89, 0xc0]); // rdtsc; mov r8d, eax
    code.extend(prepare);
    code.extend(exit);
    code.extend([0x0f, 0x31, 0x44, 0x29, 0xc0]); // rdtsc; sub eax, r8d
    code.extend([0x89, 0x07, 0x83, 0xc7, 4, 0xff, 0xcd]); // mov [rdi], eax; add edi, 4; dec ebp
    let back = again.wrapping_sub(code.len() + 2);
    code.extend([0x75, back as u8]); // jnz again
    code.extend([0xe6, DONE]); // out DONE, al
    code
}

/// Page tables that map 4 GiB one to one: addresses and values of their entries.
fn page_tables() -> Vec<(u64, u64)> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let table = |index: u64| TABLES + index * 0x1000;
    let mut entries = vec![(table(0), table(1) | PRESENT_WRITABLE)];
    for gigabyte in 0..4 {
        entries.push((
            table(1) + 8 * gigabyte,
            table(2 + gigabyte) | PRESENT_WRITABLE,
        ));
    }
    for page in 0..4 * 512 {
        entries.push((table(2) + 8 * page, page << 21 | LARGE | PRESENT_WRITABLE));
    }
    entries
}

fn set_64_bit_mode(sregs: &mut kvm_sregs) {
    let segment = |selector: u16, code: bool| kvm_segment {
        limit: u32::MAX,
        selector,
        present: 1,
        type_: if code { 11 } else { 3 },
        s: 1,
        l: code.into(),
        db: (!code).into(),
        g: 1,
        ..Default::default()
    };
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = TABLES;
    sregs.cr4 = 0x620;
    sregs.efer = 0x500;
    sregs.cs = segment(8, true);
    for data in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *data = segment(16, false);
    }
}

/// Anonymous pages.
struct Memory(*mut u8);

impl Memory {
    fn new() -> Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MEMORY,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        ensure!(address != libc::MAP_FAILED, "no memory for a VM");
        Ok(Self(address.cast()))
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= MEMORY);
        // SAFETY: inside the mapping, checked above; the guest does not run.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(offset), bytes.len()) };
    }

    fn read(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= MEMORY);
        // SAFETY: inside the mapping and aligned, checked above; the guest does not run.
        unsafe { self.0.add(offset).cast::<u32>().read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the VM is gone.
        unsafe { libc::munmap(self.0.cast(), MEMORY) };
    }
}
