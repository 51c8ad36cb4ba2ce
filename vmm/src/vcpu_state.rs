//! The state of a vCPU as it was before the guest ran, for resets.
#![deny(unsafe_code)]

use std::fmt;

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;

/// A call that KVM refused, with its error.
pub(crate) type Refused = (&'static str, kvm_ioctls::Error);

/// IA32_TIME_STAMP_COUNTER: it runs on through a reset, since clocks of the host and of the guest's
/// other processors are set by it.
const TSC: u32 = 0x10;

/// What a reset brings back of a vCPU. Vector registers beyond SSE are left to the guest, which
/// initialises what it turns on in XCR0.
pub(crate) struct VcpuState {
    mp: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

impl fmt::Debug for VcpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuState")
            .field("msrs", &self.msrs.len())
            .finish_non_exhaustive()
    }
}

fn refused(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Refused {
    move |error| (call, error)
}

impl VcpuState {
    /// The state of a vCPU with that CPUID, and of those of `msrs` that KVM shows.
    pub(crate) fn of(vcpu: &VcpuFd, msrs: &[u32]) -> Result<VcpuState, Refused> {
        Ok(VcpuState {
            mp: vcpu.get_mp_state().map_err(refused("KVM_GET_MP_STATE"))?,
            regs: vcpu.get_regs().map_err(refused("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?,
            fpu: vcpu.get_fpu().map_err(refused("KVM_GET_FPU"))?,
            // Processors without XSAVE have none.
            xcrs: vcpu.get_xcrs().ok(),
            debug: vcpu
                .get_debug_regs()
                .map_err(refused("KVM_GET_DEBUGREGS"))?,
            lapic: vcpu.get_lapic().map_err(refused("KVM_GET_LAPIC"))?,
            msrs: read_msrs(vcpu, msrs)?,
            events: vcpu
                .get_vcpu_events()
                .map_err(refused("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Brings the vCPU back to the state. It must not be in KVM_RUN.
    pub(crate) fn restore(&self, vcpu: &mut VcpuFd) -> Result<(), Refused> {
        // What the guest's last instruction still waits for is done with: else KVM would do it to
        // the new state.
        vcpu.set_kvm_immediate_exit(1);
        let _ = vcpu.run();
        vcpu.set_kvm_immediate_exit(0);

        // The mode of the local APIC is one of the special registers, and its timer's mode decides
        // what a model-specific register takes.
        vcpu.set_sregs(&self.sregs)
            .map_err(refused("KVM_SET_SREGS"))?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs).map_err(refused("KVM_SET_XCRS"))?;
        }
        vcpu.set_lapic(&self.lapic)
            .map_err(refused("KVM_SET_LAPIC"))?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_fpu(&self.fpu).map_err(refused("KVM_SET_FPU"))?;
        vcpu.set_debug_regs(&self.debug)
            .map_err(refused("KVM_SET_DEBUGREGS"))?;
        vcpu.set_regs(&self.regs).map_err(refused("KVM_SET_REGS"))?;
        vcpu.set_vcpu_events(&self.events)
            .map_err(refused("KVM_SET_VCPU_EVENTS"))?;
        vcpu.set_mp_state(self.mp)
            .map_err(refused("KVM_SET_MP_STATE"))
    }
}

/// Reads the registers that KVM shows; it stops at the first one that it does not.
fn read_msrs(vcpu: &VcpuFd, wanted: &[u32]) -> Result<Vec<kvm_msr_entry>, Refused> {
    const CALL: &str = "KVM_GET_MSRS";
    let entry = |index| kvm_msr_entry {
        index,
        ..Default::default()
    };
    let wanted = wanted.iter().copied().filter(|&index| index != TSC);
    let mut left: Vec<kvm_msr_entry> = wanted.map(entry).collect();
    let mut read = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let mut msrs = entries(&left).map_err(refused(CALL))?;
        let count = vcpu.get_msrs(&mut msrs).map_err(refused(CALL))?;
        read.extend_from_slice(&msrs.as_slice()[..count]);
        left.drain(..(count + 1).min(left.len()));
    }
    Ok(read)
}

/// Writes the registers; those that cannot be written have not been, by the guest neither.
fn write_msrs(vcpu: &VcpuFd, values: &[kvm_msr_entry]) -> Result<(), Refused> {
    const CALL: &str = "KVM_SET_MSRS";
    let mut left = values;
    while !left.is_empty() {
        let msrs = entries(left).map_err(refused(CALL))?;
        let count = vcpu.set_msrs(&msrs).map_err(refused(CALL))?;
        left = &left[(count + 1).min(left.len())..];
    }
    Ok(())
}

fn entries(values: &[kvm_msr_entry]) -> Result<Msrs, kvm_ioctls::Error> {
    Msrs::from_entries(values).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))
}
