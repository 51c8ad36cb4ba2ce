//! The self-test's VM: one vCPU that starts at CPL 3 with paging on, and no exception handler.
//!
//! An exception ends in a shutdown, which tells where it was; [`Guest::start`] begins anew.

use std::os::fd::{AsRawFd, BorrowedFd};

use kvm_bindings::{
    Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
    kvm_vcpu_events,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use postern_abi::PAGE_SIZE;
use postern_abi::kvm::{AbortExit, KVM_EXIT_EPT_VIEW};
use postern_abi::view::{GATE_AREA_GVA, GATE_GVA, LANDING_GVA};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::code::{self, MARKS, Work};
use super::error::{Error, call};
use super::pages::Pages;
use crate::cpuid::CpuModel;
use crate::kvm::Host;
use crate::layout::MIN_RAM;
use crate::memory::{self, Slots};

// Guest-physical addresses. What user code uses is at the same virtual ones.
const CODE: u64 = 0x1000;
const KERNEL: u64 = 0x2000;
const STACK: u64 = 0x8000;
/// The page tables that the guest starts with.
pub const ROOT_A: u64 = 0x1_0000;
/// Page tables that differ from these in the page at [`CR3_GVA`] only.
pub const ROOT_B: u64 = 0x1_8000;
const LOW_TABLES: [u64; 3] = [0x1_1000, 0x1_2000, 0x1_3000];
const GATE_TABLES: [u64; 3] = [0x1_4000, 0x1_5000, 0x1_6000];
const TABLES_A: [u64; 3] = [0x1_9000, 0x1_a000, 0x1_b000];
const TABLES_B: [u64; 3] = [0x1_c000, 0x1_d000, 0x1_e000];
const TSS: u64 = 0x1_7000;
const PAGE_A: u64 = 0x2_0000;
const PAGE_C: u64 = 0x2_1000;
const BEHIND_A: u64 = 0x3_0000;
const BEHIND_B: u64 = 0x3_1000;

/// Address of the page that the two roots translate differently.
pub const CR3_GVA: u64 = 1 << 39;

/// Virtual address of the page of the memory slot that is changed.
pub const SLOT_GVA: u64 = 0x1f_f000;
/// Its guest-physical address.
const SLOT_GPA: u64 = 1 << 30;
/// Number of the slot: RAM has the ones before.
const SLOT: u32 = 8;

/// Address of the times that the guest takes, 32 bits each.
pub const TIMES: u64 = 0x10_0000;
/// Number of times that there is room for.
pub const MAX_TIMES: usize = (SLOT_GVA - TIMES) as usize / 4;

/// Bits of an entry of page tables: present, writable, accessed, dirty; and for user code.
const SUPERVISOR: u64 = 0x63;
const USER: u64 = SUPERVISOR | 4;

/// CR4: PAE, OSFXSR, OSXMMEXCPT, SMEP and SMAP.
const CR4: u64 = 0x620 | CR4_SMEP | CR4_SMAP;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;

/// Segment selectors: SYSCALL takes those of a kernel to be the first two, SYSRET those of user
/// code to follow these.
const KERNEL_CS: u16 = 0x08;
const USER_DS: u16 = 0x1b;
const USER_CS: u16 = 0x23;

/// Reason why the guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It wrote this byte to that port.
    Out(u8, u8),
    /// A call was aborted.
    Aborted(AbortExit),
    /// An exception, for which there is no handler, at this address.
    Exception(u64),
    /// Anything else.
    Other(String),
}

/// The VM. Its memory slots outlive its descriptors.
pub struct Guest {
    vcpu: VcpuFd,
    vm: VmFd,
    ram: GuestMemoryMmap,
    _slots: Slots,
    sregs: kvm_sregs,
    changing: [Pages; 2],
}

impl Guest {
    /// A VM that has not run.
    pub fn new(host: &Host) -> Result<Guest, Error> {
        let vm = host.create_vm().map_err(Error::Host)?;
        let ram = memory::reserve_ram(MIN_RAM).map_err(Error::Memory)?;
        let mut slots = Slots::new();
        slots.add_ram(&ram).map_err(Error::Memory)?;
        slots.install(&vm).map_err(Error::Memory)?;
        let vcpu = vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
        let cpuid = host.cpuid(0, 1, CpuModel::ViewCompatible, None);
        vcpu.set_cpuid2(&cpuid.map_err(Error::Host)?)
            .map_err(call("KVM_SET_CPUID2"))?;
        let changing = [Pages::filled(1, MARKS[1])?, Pages::filled(1, MARKS[2])?];
        let sregs = start_sregs(vcpu.get_sregs().map_err(call("KVM_GET_SREGS"))?);
        let guest = Guest {
            vcpu,
            vm,
            ram,
            _slots: slots,
            sregs,
            changing,
        };
        guest.fill_memory()?;
        guest.set_syscall()?;
        guest.change_slot(0)?;
        Ok(guest)
    }

    /// The vCPU.
    pub fn vcpu(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.vcpu.as_raw_fd()) }
    }

    /// The vCPU, for its statistics.
    pub fn vcpu_fd(&self) -> &VcpuFd {
        &self.vcpu
    }

    /// Frequency of the time-stamp counter in kHz, if KVM tells.
    pub fn tsc_khz(&self) -> Option<u32> {
        self.vcpu.get_tsc_khz().ok().filter(|&khz| khz > 0)
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Error> {
        let written = self.ram.write_slice(bytes, GuestAddress(gpa));
        written.map_err(|error| Error::Guest(error.to_string()))
    }

    fn entry(&self, table: u64, index: u64, value: u64) -> Result<(), Error> {
        self.write(table + index * 8, &value.to_le_bytes())
    }

    /// Maps a page at `gva` under `root`; `tables` are those of the lower levels.
    fn map(&self, root: u64, tables: [u64; 3], gva: u64, leaf: u64) -> Result<(), Error> {
        let index = |level: u32| (gva >> (12 + 9 * level)) & 511;
        self.entry(root, index(3), tables[0] | USER)?;
        self.entry(tables[0], index(2), tables[1] | USER)?;
        self.entry(tables[1], index(1), tables[2] | USER)?;
        self.entry(tables[2], index(0), leaf)
    }

    fn fill_memory(&self) -> Result<(), Error> {
        for (root, tables, behind) in [(ROOT_A, TABLES_A, BEHIND_A), (ROOT_B, TABLES_B, BEHIND_B)] {
            for gva in (0..MIN_RAM).step_by(PAGE_SIZE as usize) {
                self.map(root, LOW_TABLES, gva, gva | USER)?;
            }
            self.map(root, LOW_TABLES, KERNEL, KERNEL | SUPERVISOR)?;
            self.map(root, LOW_TABLES, SLOT_GVA, SLOT_GPA | USER)?;
            self.map(root, GATE_TABLES, GATE_AREA_GVA, PAGE_A | USER)?;
            self.map(root, GATE_TABLES, LANDING_GVA, PAGE_C | USER)?;
            self.map(root, tables, CR3_GVA, behind | USER)?;
        }
        self.write(BEHIND_A, &[MARKS[1]])?;
        self.write(BEHIND_B, &[MARKS[2]])?;
        self.write(
            PAGE_A + PAGE_SIZE - (GATE_GVA - code::CALL_GVA),
            code::page_a(),
        )?;
        self.write(PAGE_C, &code::PAGE_C)?;
        self.write(CODE, code::guest())?;
        self.write(KERNEL, code::kernel())
    }

    fn set_syscall(&self) -> Result<(), Error> {
        let msr = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let selectors = (u64::from(USER_DS - 8) << 48) | (u64::from(KERNEL_CS) << 32);
        let msrs = [
            msr(0xc000_0081, selectors), // STAR
            msr(0xc000_0082, KERNEL),    // LSTAR
            msr(0xc000_0084, 0),         // FMASK
        ];
        let entries = Msrs::from_entries(&msrs).map_err(|error| Error::Guest(error.to_string()))?;
        match self.vcpu.set_msrs(&entries) {
            Ok(count) if count == msrs.len() => Ok(()),
            Ok(_) => Err(Error::Guest(
                "KVM does not set the MSRs of SYSCALL".to_owned(),
            )),
            Err(source) => Err(call("KVM_SET_MSRS")(source)),
        }
    }

    /// Puts a page with the mark `1 + which` of [`MARKS`] into the memory slot.
    pub fn change_slot(&self, which: usize) -> Result<(), Error> {
        let pages = &self.changing[which];
        for memory_size in [0, PAGE_SIZE] {
            let region = kvm_userspace_memory_region {
                slot: SLOT,
                flags: 0,
                guest_phys_addr: SLOT_GPA,
                memory_size,
                userspace_addr: pages.address(),
            };
            // SAFETY: the page lives as long as the VM: both are parts of `self`. No other slot has
            // these guest-physical addresses.
            let set = unsafe { self.vm.set_user_memory_region(region) };
            match set {
                // There is nothing to remove at first.
                Err(error) if memory_size == 0 && error.errno() == libc::EINVAL => {}
                set => set.map_err(call("KVM_SET_USER_MEMORY_REGION"))?,
            }
        }
        Ok(())
    }

    /// Puts the vCPU at the begin of a piece of work, with R12 to R15, and RBX in front, as given.
    pub fn start(&mut self, work: Work, [rbx, r12, r13, r14, r15]: [u64; 5]) -> Result<(), Error> {
        let regs = kvm_regs {
            rip: CODE + work.offset(),
            rsp: STACK,
            rbp: code::CALL_GVA,
            // IF, IOPL 3, and the bit that is always set.
            rflags: 0x3202,
            rbx,
            r12,
            r13,
            r14,
            r15,
            ..Default::default()
        };
        self.vcpu
            .set_sregs(&self.sregs)
            .map_err(call("KVM_SET_SREGS"))?;
        self.vcpu.set_regs(&regs).map_err(call("KVM_SET_REGS"))?;
        // What is left of an exception.
        self.vcpu
            .set_vcpu_events(&kvm_vcpu_events::default())
            .map_err(call("KVM_SET_VCPU_EVENTS"))
    }

    /// Runs until something is to be seen.
    pub fn run(&mut self) -> Stop {
        loop {
            return match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, data)) => match (u8::try_from(port), data) {
                    (Ok(port), &[value]) => Stop::Out(port, value),
                    _ => Stop::Other(format!("OUT to port {port:#x}")),
                },
                Ok(VcpuExit::Shutdown) => match self.vcpu.get_regs() {
                    Ok(regs) => Stop::Exception(regs.rip),
                    Err(error) => Stop::Other(error.to_string()),
                },
                Ok(VcpuExit::Unsupported(KVM_EXIT_EPT_VIEW)) => Stop::Aborted(self.abort_report()),
                Ok(exit) => Stop::Other(format!("{exit:?}")),
                Err(error) if error.errno() == libc::EINTR => continue,
                Err(error) => Stop::Other(format!("KVM_RUN: {error}")),
            };
        }
    }

    fn abort_report(&mut self) -> AbortExit {
        let run = self.vcpu.get_kvm_run();
        let payload = (&raw const run.__bindgen_anon_1).cast::<AbortExit>();
        // SAFETY: the kernel wrote the structure at the start of the union, which is larger.
        unsafe { payload.read_unaligned() }
    }

    /// RBX.
    pub fn rbx(&self) -> Result<u64, Error> {
        let regs = self.vcpu.get_regs().map_err(call("KVM_GET_REGS"))?;
        Ok(regs.rbx)
    }

    /// Loads CR3, by the ioctl.
    pub fn set_cr3(&self, root: u64) -> Result<(), Error> {
        self.change_sregs(|sregs| sregs.cr3 = root)
    }

    /// Turns SMAP on or off, by the ioctl: without it the vCPU can enter no view.
    pub fn set_smap(&self, on: bool) -> Result<(), Error> {
        self.change_sregs(|sregs| match on {
            true => sregs.cr4 |= CR4_SMAP,
            false => sregs.cr4 &= !CR4_SMAP,
        })
    }

    fn change_sregs(&self, change: impl FnOnce(&mut kvm_sregs)) -> Result<(), Error> {
        let mut sregs = self.vcpu.get_sregs().map_err(call("KVM_GET_SREGS"))?;
        change(&mut sregs);
        self.vcpu.set_sregs(&sregs).map_err(call("KVM_SET_SREGS"))
    }

    /// The first `count` times that the guest has taken.
    pub fn times(&self, count: usize) -> Result<Vec<u32>, Error> {
        let mut bytes = vec![0; count.min(MAX_TIMES) * 4];
        self.ram
            .read_slice(&mut bytes, GuestAddress(TIMES))
            .map_err(|error| Error::Guest(error.to_string()))?;
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(words.map(|&word| u32::from_le_bytes(word)).collect())
    }
}

fn segment(selector: u16, code: bool) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
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

/// 64-bit mode at CPL 3, without descriptor tables.
fn start_sregs(reset: kvm_sregs) -> kvm_sregs {
    let data = segment(USER_DS, false);
    let mut sregs = kvm_sregs {
        // PG, AM, WP, NE, ET, MP, PE; LMA, LME, SCE.
        cr0: 0x8005_0033,
        cr3: ROOT_A,
        cr4: CR4,
        efer: 0x501,
        cs: segment(USER_CS, true),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment {
            base: TSS,
            limit: 0x67,
            present: 1,
            type_: 11,
            ..Default::default()
        },
        ..reset
    };
    sregs.idt.limit = 0;
    sregs
}
