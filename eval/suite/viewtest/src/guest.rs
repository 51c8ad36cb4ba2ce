//! A VM of one vCPU that starts at CPL 3 in 64-bit mode, with the gate's pages in place, and a view
//! whose service is a few bytes of code.

use std::fs::File;
use std::io;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use postern_abi::kvm::{
    self, AttachEptView, CreateEptView, EptViewMap, EptViewSeal, VIEW_EXEC, VIEW_READ, VIEW_WRITE,
};
use postern_abi::view::{DATA_GVA, GATE_AREA_GVA, GATE_GVA, GATE_INDEX, IMAGE_GVA};
use postern_abi::{PAGE_SIZE, view};

use crate::sys::{self, Pages};

/// Address of the guest's code.
pub const CODE: u64 = 0x1000;
/// The guest's stack pointer at the start.
pub const STACK: u64 = 0x8000;
/// Where page A's code begins: `xor eax,eax; mov ecx,GATE_INDEX; vmfunc` at the end of the page.
pub const CALL: u64 = GATE_GVA - 10;
/// Address to which an aborted call goes back: the VMFUNC of page A.
pub const ABORTED: u64 = GATE_GVA - 3;
/// Port that the guest writes to return to the test.
pub const PORT: u16 = 0x10;

/// What views are sealed with; no word is like another, and no NIC has such a port.
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

const MEMORY: usize = 4 << 20;

/// `out PORT, al`.
pub const OUT: [u8; 2] = [0xe6, PORT as u8];

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

/// A view with one page of code and some data.
#[derive(Debug)]
pub struct View {
    /// The view fd.
    pub file: File,
    /// The service's data, as its owner sees it.
    pub data: Pages,
    code: Pages,
}

impl View {
    /// Code and data mapped, not sealed.
    pub fn open(service: &[u8]) -> io::Result<View> {
        let file = sys::create(&CreateEptView::default())?;
        let (code, data) = (
            Pages::writable(PAGE_SIZE as usize),
            Pages::writable(4 * PAGE_SIZE as usize),
        );
        code.write(0, service);
        let view = View { file, data, code };
        sys::map(&view.file, &view.code_mapping())?;
        sys::map(&view.file, &view.data_mapping())?;
        Ok(view)
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

    /// What [`View::sealed`] seals with.
    pub fn seal_argument(mode: u32) -> EptViewSeal {
        EptViewSeal {
            mode,
            entry_gva: IMAGE_GVA,
            data_gva: DATA_GVA,
            data_size: 4 * PAGE_SIZE,
            caller: CALLER,
            ..Default::default()
        }
    }

    /// A view that can be attached.
    pub fn sealed(mode: u32, service: &[u8]) -> io::Result<View> {
        let view = View::open(service)?;
        sys::seal(&view.file, &View::seal_argument(mode))?;
        Ok(view)
    }

    /// The argument that attaches it.
    pub fn attach_argument(&self, flags: u32) -> AttachEptView {
        AttachEptView {
            view_fd: sys::raw(&self.file),
            flags,
            ..Default::default()
        }
    }
}

/// Options of a VM.
#[derive(Clone, Copy, Debug)]
pub struct VmOptions {
    /// With an in-kernel irqchip.
    pub irqchip: bool,
    /// Leave PCID in the CPUID.
    pub pcid: bool,
    /// CR4 bits besides PAE, OSFXSR and OSXMMEXCPT.
    pub cr4: u64,
    /// Start in compatibility mode.
    pub compatibility: bool,
    /// The vCPU's number.
    pub vcpu: u64,
}

/// SMEP and SMAP, as views need them.
pub const SMEP_SMAP: u64 = 3 << 20;

impl Default for VmOptions {
    fn default() -> VmOptions {
        VmOptions {
            irqchip: true,
            pcid: false,
            cr4: SMEP_SMAP,
            compatibility: false,
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
    pub memory: Pages,
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

fn segment(code: bool) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector: if code { 8 } else { 16 } | 3,
        present: 1,
        type_: if code { 11 } else { 3 },
        dpl: 3,
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
        let memory = Pages::writable(MEMORY);
        let region = kvm_userspace_memory_region {
            slot: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.address(),
            ..Default::default()
        };
        // SAFETY: the memory outlives the VM: it is dropped after the descriptors.
        unsafe { fd.set_user_memory_region(region)? };
        let vcpu = fd.create_vcpu(options.vcpu)?;
        vcpu.set_cpuid2(&cpuid(&kvm, options)?)?;
        if options.vcpu != 0 {
            // It would wait for the boot processor.
            vcpu.set_mp_state(kvm_mp_state {
                mp_state: KVM_MP_STATE_RUNNABLE,
            })?;
        }
        let vm = Vm { vcpu, fd, memory };
        vm.memory.write(CODE as usize, code);
        vm.make_page_tables();
        vm.set_start(options)?;
        Ok(vm)
    }

    /// A VM with this view attached.
    pub fn with_view(code: &[u8], view: &View, flags: u32) -> anyhow::Result<Vm> {
        let vm = Vm::new(code, VmOptions::default())?;
        sys::attach(&vm.vcpu, &view.attach_argument(flags))?;
        Ok(vm)
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
            GATE_INDEX as u8,
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

    fn set_start(&self, options: VmOptions) -> anyhow::Result<()> {
        let mut sregs = self.vcpu.get_sregs()?;
        sregs.cr0 = 0x8005_0033;
        sregs.cr3 = 0x10000;
        sregs.cr4 = 0x620 | options.cr4;
        sregs.efer = 0x501;
        sregs.cs = segment(true);
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
            *data = segment(false);
        }
        sregs.tr = kvm_segment {
            base: 0x17000,
            limit: 0x67,
            present: 1,
            type_: 11,
            ..Default::default()
        };
        sregs.idt.limit = 0;
        self.vcpu.set_sregs(&sregs)?;
        self.vcpu.set_regs(&kvm_regs {
            rip: CODE,
            rsp: STACK,
            rflags: 0x3202,
            ..Default::default()
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

    /// The report of the abort that [`Stop::Aborted`] told of.
    pub fn abort_report(&mut self) -> kvm::AbortExit {
        let run = self.vcpu.get_kvm_run();
        let payload = (&raw const run.__bindgen_anon_1).cast::<kvm::AbortExit>();
        // SAFETY: the kernel wrote the structure at the start of the union, which is larger.
        unsafe { payload.read_unaligned() }
    }
}

fn cpuid(kvm: &Kvm, options: VmOptions) -> anyhow::Result<CpuId> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    for entry in cpuid.as_mut_slice() {
        if entry.function == 1 {
            entry.ecx &= !(1 << 5 | 1 << 15);
            if !options.pcid {
                entry.ecx &= !(1 << 17);
            } else {
                entry.ecx |= 1 << 17;
            }
        }
    }
    Ok(cpuid)
}
