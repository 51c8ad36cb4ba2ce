//! A VM of one vCPU that starts at CPL 3 in 64-bit mode, with the gate's pages in place, and
//! templates whose service is a few bytes of code.

use std::fs::File;
use std::io;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE,
    kvm_cpuid_entry2, kvm_mp_state, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use postern_abi::kvm::{
    self, AttachEptView, CreateEptView, EptViewGrant, EptViewMap, EptViewRevoke, EptViewSeal,
    RIGHT_FAST, RIGHT_STRICT, VIEW_EXEC, VIEW_READ, VIEW_WRITE,
};
use postern_abi::view::{DATA_GVA, GATE_AREA_GVA, GATE_GVA, IMAGE_GVA};
use postern_abi::{PAGE_SIZE, view};

use crate::sys::{self, Pages};

/// Address of the guest's code.
pub const CODE: u64 = 0x1000;
/// The guest's stack pointer at the start.
pub const STACK: u64 = 0x8000;
/// Where page A's code begins: `xor eax,eax; mov ecx,1; vmfunc` at the end of the page.
pub const CALL: u64 = GATE_GVA - 10;
/// Address to which an aborted call goes back: the VMFUNC of page A.
pub const ABORTED: u64 = GATE_GVA - 3;
/// Port that the guest writes to return to the test.
pub const PORT: u16 = 0x10;

/// What grants are made with; no word is like another, and no NIC has such a port.
pub const CALLER: [u64; 8] = [
    0x8070_6050_4030_2011,
    0x8170_6050_4030_2012,
    0x8270_6050_4030_2013,
    0x8370_6050_4030_2014,
    0x8470_6050_4030_2015,
    0x8570_6050_4030_2016,
    0x8670_6050_4030_2017,
    0x8770_6050_4030_2018,
];

/// Address of the code of a guest that starts at CPL 0.
pub const KERNEL: u64 = 0x9000;
const KERNEL_STACK: u64 = 0xc000;
const TSS: u64 = 0x17000;
const GDT_AT: u64 = 0x18000;

/// Registers of a guest that starts at CPL 3. External interrupts are on.
const START: kvm_regs = kvm_regs {
    rip: CODE,
    rsp: STACK,
    rflags: 0x3202,
    rax: 0,
    rbx: 0,
    rcx: 0,
    rdx: 0,
    rsi: 0,
    rdi: 0,
    rbp: 0,
    r8: 0,
    r9: 0,
    r10: 0,
    r11: 0,
    r12: 0,
    r13: 0,
    r14: 0,
    r15: 0,
};

const MEMORY: usize = 4 << 20;

/// `out PORT, al`.
pub const OUT: [u8; 2] = [0xe6, PORT as u8];

/// A call of a slot's service: `mov edi, first; mov esi, second; xor eax, eax; mov ecx, INDEX;
/// mov r11, VMFUNC; call r11`. Changes R11.
pub fn call_slot(slot: u32, first: u32, second: u32) -> Vec<u8> {
    let mut code = vec![0xbf];
    code.extend_from_slice(&first.to_le_bytes());
    code.push(0xbe);
    code.extend_from_slice(&second.to_le_bytes());
    code.extend_from_slice(&[0x31, 0xc0, 0xb9]);
    code.extend_from_slice(&view::gate_index(slot).to_le_bytes());
    code.extend_from_slice(&[0x49, 0xbb]);
    code.extend_from_slice(&ABORTED.to_le_bytes());
    code.extend_from_slice(&[0x41, 0xff, 0xd3]);
    code
}

/// `then`, and then [`OUT`].
pub fn and_out(mut then: Vec<u8>) -> Vec<u8> {
    then.extend_from_slice(&OUT);
    then
}

/// Loops until the guest's memory at [`FLAG`] is not 0: `cmp dword [FLAG], 0; je` to it.
pub const SPIN: [u8; 10] = [0x83, 0x3c, 0x25, 0x00, 0x30, 0x00, 0x00, 0x00, 0x74, 0xf6];

/// Address of what [`SPIN`] waits for.
pub const FLAG: usize = 0x3000;

/// From CPL 0 to [`CODE`] at CPL 3: pushes SS, RSP, RFLAGS, CS and RIP, and then `iretq`.
pub const TO_USER: [u8; 21] = [
    0x6a, 0x13, 0x68, 0x00, 0x80, 0x00, 0x00, 0x68, 0x02, 0x32, 0x00, 0x00, 0x6a, 0x0b, 0x68, 0x00,
    0x10, 0x00, 0x00, 0x48, 0xcf,
];

/// A service that returns the sum of its first two arguments.
pub const ADD: &[u8] = &[0x48, 0x8d, 0x04, 0x37, 0xc3]; // lea rax, [rdi+rsi]; ret

/// A service that puts 1 into the data's first word, fills registers with a secret, waits until
/// the second word is not 0, and returns that.
pub const WAIT: &[u8] = &[
    0x48, 0xb8, 0, 0, 0, 0, 0x01, 0x10, 0, 0, // mov rax, DATA_GVA
    0x48, 0xc7, 0x00, 0x01, 0, 0, 0, // mov qword [rax], 1
    0x41, 0xb8, 0xee, 0xff, 0xc0, 0x5e, // mov r8d, 0x5ec0ffee
    0x48, 0x8b, 0x48, 0x08, // mov rcx, [rax+8]
    0x48, 0x85, 0xc9, // test rcx, rcx
    0x74, 0xf7, // jz back to the load
    0x48, 0x89, 0xc8, // mov rax, rcx
    0xc3, // ret
];

/// A service that reads memory which no view maps.
pub const FAULT: &[u8] = &[0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0xc3]; // mov rax, [0]; ret

/// A template with one page of code and some data.
#[derive(Debug)]
pub struct Template {
    /// The template fd.
    pub file: File,
    /// The service's data, as its owner sees it.
    pub data: Pages,
    code: Pages,
}

/// The rights by which a view is entered.
pub const ENTER: u32 = RIGHT_FAST | RIGHT_STRICT;

/// The id of grants in tests that need but one.
pub const ID: u64 = 0x1d00_0000_0000_0001;

impl Template {
    /// Code and data mapped, not sealed.
    pub fn open(service: &[u8]) -> io::Result<Template> {
        let file = sys::create(&CreateEptView::default())?;
        let (code, data) = (
            Pages::writable(PAGE_SIZE as usize),
            Pages::writable(4 * PAGE_SIZE as usize),
        );
        code.write(0, service);
        let template = Template { file, data, code };
        sys::map(&template.file, &template.code_mapping())?;
        sys::map(&template.file, &template.data_mapping())?;
        Ok(template)
    }

    /// The mapping of the code.
    pub fn code_mapping(&self) -> EptViewMap {
        EptViewMap {
            gva: IMAGE_GVA,
            user_addr: self.code.address(),
            size: PAGE_SIZE,
            prot: VIEW_READ | VIEW_EXEC,
            ..Default::default()
        }
    }

    /// The mapping of the data.
    pub fn data_mapping(&self) -> EptViewMap {
        EptViewMap {
            gva: DATA_GVA,
            user_addr: self.data.address(),
            size: 4 * PAGE_SIZE,
            prot: VIEW_READ | VIEW_WRITE,
            ..Default::default()
        }
    }

    /// What [`Template::sealed`] seals with.
    pub fn seal_argument(rights: u32) -> EptViewSeal {
        EptViewSeal {
            rights,
            entry_gva: IMAGE_GVA,
            data_gva: DATA_GVA,
            data_size: 4 * PAGE_SIZE,
            ..Default::default()
        }
    }

    /// A template that can be granted, with all rights to enter.
    pub fn sealed(service: &[u8]) -> io::Result<Template> {
        let template = Template::open(service)?;
        sys::seal(&template.file, &Template::seal_argument(ENTER))?;
        Ok(template)
    }

    /// What [`Template::grant`] grants: all rights to enter, to one vCPU.
    pub fn grant_argument() -> EptViewGrant {
        EptViewGrant {
            id: ID,
            rights: ENTER,
            members: 1,
            caller: CALLER,
            ..Default::default()
        }
    }

    /// A grant for one vCPU.
    pub fn grant(&self) -> io::Result<File> {
        sys::grant(&self.file, &Template::grant_argument())
    }

    /// A grant for some vCPUs, by an id.
    pub fn grant_to(&self, id: u64, members: u32) -> io::Result<File> {
        let argument = EptViewGrant {
            id,
            members,
            ..Template::grant_argument()
        };
        sys::grant(&self.file, &argument)
    }

    /// Takes back what was granted by an id; says how many grants it was.
    pub fn revoke(&self, id: u64) -> io::Result<u32> {
        let argument = EptViewRevoke {
            id,
            ..Default::default()
        };
        sys::revoke(&self.file, &argument)
    }
}

/// The argument that attaches the first member of a grant at the first slot.
pub fn attach_argument(grant: &File, right: u32) -> AttachEptView {
    AttachEptView {
        grant_fd: sys::raw(grant),
        right,
        ..Default::default()
    }
}

/// Options of a VM.
#[derive(Clone, Copy, Debug)]
pub struct VmOptions {
    /// With an in-kernel irqchip.
    pub irqchip: bool,
    /// What the CPUID has that views cannot be with.
    pub cpuid: Cpuid,
    /// CR4 bits besides PAE, OSFXSR and OSXMMEXCPT.
    pub cr4: u64,
    /// Start in compatibility mode.
    pub compatibility: bool,
    /// Start at CPL 0, at [`KERNEL`].
    pub kernel: bool,
    /// The vCPU's number.
    pub vcpu: u64,
}

/// A feature of a CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpuid {
    /// None of the others.
    Plain,
    /// Process-context identifiers.
    Pcid,
    /// `IA32_PERF_CAPABILITIES`: records of branches and of counted events.
    Pdcm,
    /// Performance counters.
    Pmu,
    /// Linear-address masking.
    Lam,
}

/// SMEP and SMAP, as views need them.
pub const SMEP_SMAP: u64 = 3 << 20;

impl Default for VmOptions {
    fn default() -> VmOptions {
        VmOptions {
            irqchip: true,
            cpuid: Cpuid::Plain,
            cr4: SMEP_SMAP,
            compatibility: false,
            kernel: false,
            vcpu: 0,
        }
    }
}

/// The VM.
#[derive(Debug)]
pub struct Vm {
    /// The vCPU.
    pub vcpu: VcpuFd,
    /// The VM's descriptor.
    pub fd: VmFd,
    /// Guest memory, from guest-physical 0.
    pub memory: Arc<Pages>,
}

/// Reason why the vCPU stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest wrote this to [`PORT`].
    Out(u8),
    /// A call was aborted, and reported as asked.
    Aborted,
    /// The guest is gone: it has no handler for any exception.
    Shutdown,
    /// A signal came.
    Interrupted,
    /// Anything else.
    Other(String),
}

/// The GDT: for CPL 3 and for CPL 0, code and data each.
const GDT: [u64; 5] = [
    0,
    0x00af_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
];

/// A flat segment of [`GDT`].
fn segment(code: bool, kernel: bool) -> kvm_segment {
    let index = 1 + u16::from(!code) + 2 * u16::from(kernel);
    let dpl: u8 = if kernel { 0 } else { 3 };
    kvm_segment {
        limit: u32::MAX,
        selector: index * 8 + u16::from(dpl),
        present: 1,
        type_: if code { 11 } else { 3 },
        dpl,
        s: 1,
        l: code.into(),
        db: (!code).into(),
        g: 1,
        ..Default::default()
    }
}

impl Vm {
    /// A VM with `code` at [`CODE`].
    pub fn new(code: &[u8], options: VmOptions) -> anyhow::Result<Vm> {
        let kvm = Kvm::new()?;
        let fd = kvm.create_vm()?;
        fd.set_tss_address(0xfffb_d000)?;
        if options.irqchip {
            fd.create_irq_chip()?;
        }
        let memory = Arc::new(Pages::writable(MEMORY));
        let region = kvm_userspace_memory_region {
            slot: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.address(),
            ..Default::default()
        };
        // SAFETY: the memory outlives the VM: it is dropped after the descriptors.
        unsafe { fd.set_user_memory_region(region)? };
        let vcpu = fd.create_vcpu(options.vcpu)?;
        vcpu.set_cpuid2(&cpuid(options.cpuid)?)?;
        if options.irqchip {
            // KVM finds an APIC by its number only after it was written.
            vcpu.set_lapic(&vcpu.get_lapic()?)?;
        }
        if options.vcpu != 0 {
            // It would wait for the boot processor.
            vcpu.set_mp_state(kvm_mp_state {
                mp_state: KVM_MP_STATE_RUNNABLE,
            })?;
        }
        let vm = Vm { vcpu, fd, memory };
        let start = if options.kernel { KERNEL } else { CODE };
        vm.memory.write(start as usize, code);
        vm.make_page_tables();
        vm.set_start(options)?;
        Ok(vm)
    }

    /// A VM with the first slot attached by a grant of its own.
    pub fn attached(
        code: &[u8],
        template: &Template,
        right: u32,
        flags: u32,
    ) -> anyhow::Result<Vm> {
        let vm = Vm::new(code, VmOptions::default())?;
        let grant = template.grant()?;
        let argument = AttachEptView {
            flags,
            ..attach_argument(&grant, right)
        };
        sys::attach(&vm.vcpu, &argument)?;
        Ok(vm)
    }

    /// Has the vCPU go on with `code`, whatever it was at: an abort or a shutdown. It is at CPL 3.
    pub fn restart(&self, code: &[u8]) -> anyhow::Result<()> {
        self.memory.write(CODE as usize, code);
        let mut events = self.vcpu.get_vcpu_events()?;
        events.exception = Default::default();
        self.vcpu.set_vcpu_events(&events)?;
        self.vcpu.set_regs(&START)?;
        Ok(())
    }

    fn make_page_tables(&self) {
        const ROOT: usize = 0x10000;
        let entry = |table: usize, index: u64, value: u64| {
            self.memory
                .write_word(table + index as usize * 8, value | 7);
        };
        // The first 2 MiB one to one, as user pages.
        entry(ROOT, 0, 0x11000);
        entry(0x11000, 0, 0x12000);
        entry(0x12000, 0, 0x13000);
        for page in 0..512 {
            entry(0x13000, page, page * PAGE_SIZE);
        }
        // What the CPU itself reads, and what runs at CPL 0, are no user pages.
        for page in [KERNEL, KERNEL_STACK - PAGE_SIZE, TSS, GDT_AT] {
            self.memory
                .write_word(0x13000 + (page / PAGE_SIZE) as usize * 8, page | 3);
        }
        for (index, descriptor) in GDT.into_iter().enumerate() {
            self.memory
                .write_word(GDT_AT as usize + index * 8, descriptor);
        }
        // Pages A and C.
        let index = |gva: u64, level: u32| (gva >> (12 + 9 * level)) & 511;
        entry(ROOT, index(GATE_GVA, 3), 0x14000);
        entry(0x14000, index(GATE_GVA, 2), 0x15000);
        entry(0x15000, index(GATE_GVA, 1), 0x16000);
        entry(0x16000, index(GATE_AREA_GVA, 0), 0x20000);
        entry(0x16000, index(view::LANDING_GVA, 0), 0x21000);
        let page_a = [
            0x31,
            0xc0,
            0xb9,
            view::gate_index(0) as u8,
            0,
            0,
            0,
            0x0f,
            0x01,
            0xd4,
        ];
        self.memory.write(0x21000 - page_a.len(), &page_a);
        self.memory.write(0x21000, &[0xc3]);
    }

    /// Puts VMFUNC into page B, in the default view, so that the byte at `offset` of the gate's
    /// page B is what runs behind it. Says where the VMFUNC is.
    pub fn enter_gate_at(&self, offset: usize) -> u64 {
        let index = (GATE_GVA >> 12) & 511;
        self.memory
            .write_word(0x16000 + index as usize * 8, 0x22000 | 7);
        self.memory.write(0x22000 + offset - 3, &[0x0f, 0x01, 0xd4]);
        GATE_GVA + offset as u64 - 3
    }

    fn set_start(&self, options: VmOptions) -> anyhow::Result<()> {
        let mut sregs = self.vcpu.get_sregs()?;
        sregs.cr0 = 0x8005_0033;
        sregs.cr3 = 0x10000;
        sregs.cr4 = 0x620 | options.cr4;
        sregs.efer = 0x501;
        sregs.cs = segment(true, options.kernel);
        if options.compatibility {
            (sregs.cs.l, sregs.cs.db) = (0, 1);
        }
        for data in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
        ] {
            *data = segment(false, options.kernel);
        }
        sregs.tr = kvm_segment {
            base: TSS,
            limit: 0x67,
            present: 1,
            type_: 11,
            ..Default::default()
        };
        sregs.gdt.base = GDT_AT;
        sregs.gdt.limit = size_of_val(&GDT) as u16 - 1;
        sregs.idt.limit = 0;
        self.vcpu.set_sregs(&sregs)?;
        self.vcpu.set_regs(&if options.kernel {
            kvm_regs {
                rip: KERNEL,
                rsp: KERNEL_STACK,
                rflags: 2,
                ..START
            }
        } else {
            START
        })?;
        Ok(())
    }

    /// Runs until something is to be seen.
    pub fn run(&mut self) -> Stop {
        match self.vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, data)) => Stop::Out(data[0]),
            Ok(VcpuExit::Shutdown) => Stop::Shutdown,
            Ok(VcpuExit::Unsupported(kvm::KVM_EXIT_EPT_VIEW)) => Stop::Aborted,
            Ok(exit) => Stop::Other(format!("{exit:?}")),
            Err(error) if error.errno() == libc::EINTR => Stop::Interrupted,
            Err(error) => Stop::Other(error.to_string()),
        }
    }

    /// Runs until something is to be seen that is no signal.
    pub fn run_through(&mut self) -> Stop {
        loop {
            match self.run() {
                Stop::Interrupted => {}
                stop => return stop,
            }
        }
    }

    /// The report of the abort that [`Stop::Aborted`] told of.
    pub fn abort_report(&mut self) -> kvm::AbortExit {
        let run = self.vcpu.get_kvm_run();
        let payload = (&raw const run.__bindgen_anon_1).cast::<kvm::AbortExit>();
        // SAFETY: the kernel wrote the structure at the start of the union, which is larger.
        unsafe { payload.read_unaligned() }
    }
}

/// What KVM supports, without what views cannot be with but for this.
pub fn cpuid(with: Cpuid) -> anyhow::Result<CpuId> {
    let mut cpuid = Kvm::new()?.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let bit = |register: &mut u32, bit: u32, wanted: bool| {
        *register = *register & !(1 << bit) | u32::from(wanted) << bit;
    };
    let mut leaves = 0;
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) => {
                bit(&mut entry.ecx, 5, false);
                bit(&mut entry.ecx, 15, with == Cpuid::Pdcm);
                bit(&mut entry.ecx, 17, with == Cpuid::Pcid);
            }
            (7, 1) => bit(&mut entry.eax, 26, with == Cpuid::Lam),
            // The number of its last subleaf.
            (7, 0) => entry.eax = entry.eax.max(u32::from(with == Cpuid::Lam)),
            (0xa, _) => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = match with {
                    // Version 2, with two counters of 48 bits.
                    Cpuid::Pmu => (0x0730_0202, 0, 0, 0),
                    _ => (0, 0, 0, 0),
                };
            }
            _ => continue,
        }
        leaves |= 1 << entry.function;
    }
    anyhow::ensure!(
        leaves & 0x402 == 0x402,
        "KVM's CPUID lacks a leaf of 1 and 10"
    );
    let lam = kvm_cpuid_entry2 {
        function: 7,
        index: 1,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: 1 << 26,
        ..Default::default()
    };
    let has_7_1 = cpuid
        .as_slice()
        .iter()
        .any(|entry| (entry.function, entry.index) == (7, 1));
    if with == Cpuid::Lam && !has_7_1 {
        cpuid
            .push(lam)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    Ok(cpuid)
}
