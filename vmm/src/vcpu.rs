//! A vCPU: its set-up and the loop that runs it.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_bindings::{CpuId, Msrs, kvm_run};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use postern_abi::kvm::{AbortExit, KVM_EXIT_EPT_VIEW};
use postern_abi::platform::PORT_REQUEST;

use crate::boot::{self, Descriptors};
use crate::devices::{Bus, DeviceError, Effect, RequestPort};
use crate::loader::Entry;
use crate::vcpu_state::VcpuState;

/// A call that KVM refused.
#[derive(Debug, thiserror::Error)]
#[error("{call} of vCPU {vcpu} failed")]
pub struct Error {
    /// Number of the vCPU.
    pub vcpu: usize,
    /// The call.
    pub call: &'static str,
    /// KVM's error.
    pub source: kvm_ioctls::Error,
}

/// The reason why a vCPU does not run on.
#[derive(Debug)]
pub enum VcpuEnd {
    /// The guest ended the VM with this status.
    Guest(u8),
    /// The guest switched the VM off.
    PowerOff,
    /// The guest reset the VM.
    Reset,
    /// The guest's kernel panicked, and said so to the panic device.
    Panic,
    /// The vCPU shut down: a triple fault.
    Shutdown(CrashRegisters),
    /// A call in a view was aborted.
    AbortedCall(AbortExit),
    /// KVM cannot run it on, for this reason.
    Stuck(String),
    /// A device cannot go on.
    Device(DeviceError),
    /// KVM refused a call.
    Kvm(Error),
    /// Somebody else ended the VM.
    Stopped,
}

/// The registers that tell where a guest died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashRegisters {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Address of the last page fault.
    pub cr2: u64,
    /// Root of the page tables.
    pub cr3: u64,
}

impl fmt::Display for CrashRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CrashRegisters { rip, rsp, cr2, cr3 } = self;
        write!(f, "RIP {rip:#x}, RSP {rsp:#x}, CR2 {cr2:#x}, CR3 {cr3:#x}")
    }
}

/// A vCPU. It is made by one thread and run by another.
pub struct Vcpu {
    number: usize,
    fd: VcpuFd,
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Vcpu {
    /// The vCPU behind `fd`, with what its CPUID is to say.
    ///
    /// # Errors
    ///
    /// When KVM refuses the CPUID, the registers that firmware sets, or the local interrupts.
    pub fn new(number: usize, fd: VcpuFd, cpuid: &CpuId) -> Result<Vcpu, Error> {
        let vcpu = Vcpu { number, fd };
        vcpu.fd
            .set_cpuid2(cpuid)
            .map_err(vcpu.error("KVM_SET_CPUID2"))?;
        vcpu.set_msrs()?;
        vcpu.set_local_interrupts()?;
        Ok(vcpu)
    }

    fn set_msrs(&self) -> Result<(), Error> {
        let entries = boot::firmware_msrs();
        let refused = || kvm_ioctls::Error::new(libc::EINVAL);
        let msrs =
            Msrs::from_entries(&entries).map_err(|_| self.error("KVM_SET_MSRS")(refused()))?;
        let set = self
            .fd
            .set_msrs(&msrs)
            .map_err(self.error("KVM_SET_MSRS"))?;
        match set == entries.len() {
            true => Ok(()),
            false => Err(self.error("KVM_SET_MSRS")(refused())),
        }
    }

    /// Sets the local interrupt pins as firmware would: LINT0 takes interrupts of the PIC, LINT1
    /// is NMI (SDM volume 3, "Local Vector Table"). KVM needs the write, too: it learns only now
    /// that an interrupt can be sent to this vCPU by its APIC id (Linux:
    /// `kvm_recalculate_apic_map`).
    fn set_local_interrupts(&self) -> Result<(), Error> {
        const DELIVER_EXTINT: u32 = 7 << 8;
        const DELIVER_NMI: u32 = 4 << 8;
        let pins = [(0x350, DELIVER_EXTINT), (0x360, DELIVER_NMI)];
        let mut lapic = self.fd.get_lapic().map_err(self.error("KVM_GET_LAPIC"))?;
        for (offset, value) in pins {
            let register = lapic.regs[offset..offset + 4].iter_mut();
            for (byte, new) in register.zip(value.to_le_bytes()) {
                *byte = new as _;
            }
        }
        self.fd
            .set_lapic(&lapic)
            .map_err(self.error("KVM_SET_LAPIC"))
    }

    /// Number of the vCPU, which is its APIC id.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Descriptor of the vCPU.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Makes it the one that starts at `entry`. The others wait for INIT and SIPI: KVM has them so.
    ///
    /// # Errors
    ///
    /// When KVM refuses the registers.
    pub fn start_at(&self, entry: Entry, tables: &Descriptors) -> Result<(), Error> {
        let mut sregs = self.fd.get_sregs().map_err(self.error("KVM_GET_SREGS"))?;
        boot::set_sregs(&mut sregs, entry, tables);
        self.fd
            .set_sregs(&sregs)
            .map_err(self.error("KVM_SET_SREGS"))?;
        self.fd
            .set_regs(&boot::set_regs(entry))
            .map_err(self.error("KVM_SET_REGS"))
    }

    /// Its state, with those of the registers `msrs` that KVM shows.
    ///
    /// # Errors
    ///
    /// When KVM does not tell it.
    pub(crate) fn state(&self, msrs: &[u32]) -> Result<VcpuState, Error> {
        VcpuState::of(&self.fd, msrs).map_err(|(call, source)| self.error(call)(source))
    }

    /// Brings it back to that state. It must not run.
    ///
    /// # Errors
    ///
    /// When KVM refuses a part of it.
    pub(crate) fn restore(&mut self, state: &VcpuState) -> Result<(), Error> {
        let refused = state.restore(&mut self.fd);
        refused.map_err(|(call, source)| self.error(call)(source))
    }

    /// Runs until the VM ends, with a port for requests to the NIC on the path `exit-user`, and the
    /// devices on `bus`. `stop` is looked at whenever KVM_RUN returns; who sets it sends the
    /// thread a signal until it has ended.
    pub fn run(
        &mut self,
        mut request: Option<&mut RequestPort>,
        bus: &mut Bus,
        stop: &AtomicBool,
    ) -> VcpuEnd {
        if request.is_some() {
            // KVM shows the registers with each exit, so that a request takes no call of its own to
            // read them.
            self.fd.set_sync_valid_reg(SyncReg::Register);
        }
        loop {
            if stop.load(Ordering::Relaxed) {
                return VcpuEnd::Stopped;
            }
            let effect = match self.fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => match &mut request {
                    Some(request) if port == PORT_REQUEST => {
                        if let Some(flags) = RequestPort::flags(data) {
                            let registers = &self.fd.sync_regs_mut().regs;
                            request.serve(registers.rdi, registers.rsi, flags);
                        }
                        Effect::Continue
                    }
                    _ => bus.write(port, data),
                },
                Ok(VcpuExit::IoIn(port, data)) => {
                    bus.read(port, data);
                    Effect::Continue
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    bus.read_mmio(address, data);
                    Effect::Continue
                }
                Ok(VcpuExit::MmioWrite(address, data)) => bus.write_mmio(address, data),
                Ok(VcpuExit::Intr) => Effect::Continue,
                Ok(VcpuExit::Shutdown) => return VcpuEnd::Shutdown(self.crash_registers()),
                Ok(VcpuExit::FailEntry(reason, cpu)) => {
                    return VcpuEnd::Stuck(format!(
                        "VM entry failed on CPU {cpu} (hardware reason {reason:#x})"
                    ));
                }
                Ok(VcpuExit::InternalError) => {
                    return VcpuEnd::Stuck(internal_error(self.fd.get_kvm_run(), self.number));
                }
                Ok(VcpuExit::Unsupported(KVM_EXIT_EPT_VIEW)) => {
                    return VcpuEnd::AbortedCall(abort_exit(self.fd.get_kvm_run()));
                }
                Ok(VcpuExit::SystemEvent(kind, _)) => {
                    return VcpuEnd::Stuck(format!("KVM reports system event {kind}"));
                }
                Ok(other) => {
                    return VcpuEnd::Stuck(format!("KVM_RUN returned for {other:?}"));
                }
                // EINTR: a signal, so `stop` may be set. EAGAIN: a processor that waits for SIPI
                // was woken for another reason.
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    Effect::Continue
                }
                Err(error) => return VcpuEnd::Kvm(self.error("KVM_RUN")(error)),
            };
            match effect {
                Effect::Continue => {}
                Effect::Exit(status) => return VcpuEnd::Guest(status),
                Effect::PowerOff => return VcpuEnd::PowerOff,
                Effect::Reset => return VcpuEnd::Reset,
                Effect::Panic => return VcpuEnd::Panic,
                Effect::Fail(error) => return VcpuEnd::Device(error),
            }
        }
    }

    /// Where the guest is; zeros if KVM does not tell, since this only makes a message better.
    fn crash_registers(&self) -> CrashRegisters {
        let regs = self.fd.get_regs().unwrap_or_default();
        let sregs = self.fd.get_sregs().unwrap_or_default();
        CrashRegisters {
            rip: regs.rip,
            rsp: regs.rsp,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
        }
    }

    fn error(&self, call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error + use<> {
        let vcpu = self.number;
        move |source| Error { vcpu, call, source }
    }
}

impl AsFd for Vcpu {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self.fd`, which is borrowed with `self`.
        unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) }
    }
}

fn internal_error(run: &kvm_run, vcpu: usize) -> String {
    // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so this is the member that KVM wrote; all
    // of its fields are integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let meaning = match internal.suberror {
        1 => "an instruction cannot be emulated",
        2 => "an event arrived while another was delivered",
        3 => "an exit happened while an event was delivered",
        4 => "an exit of unknown reason",
        _ => "of unknown kind",
    };
    let count = (internal.ndata as usize).min(internal.data.len());
    format!(
        "KVM reports an internal error on vCPU {vcpu}: {meaning} (suberror {}, data {:x?})",
        internal.suberror,
        &internal.data[..count]
    )
}

fn abort_exit(run: &kvm_run) -> AbortExit {
    let payload = (&raw const run.__bindgen_anon_1).cast::<AbortExit>();
    // SAFETY: the payload of this exit reason is an AbortExit at the start of the union, which is
    // larger (256 bytes) and aligned to 8; any bytes make an AbortExit.
    unsafe { payload.read() }
}

const _: () = {
    let run = std::mem::offset_of!(kvm_run, __bindgen_anon_1);
    assert!(run.is_multiple_of(align_of::<AbortExit>()));
    assert!(run + size_of::<AbortExit>() <= size_of::<kvm_run>());
};
