//! Model-specific registers that firmware would have set.
#![deny(unsafe_code)]

use kvm_bindings::kvm_msr_entry;

/// IA32_MISC_ENABLE, with what KVM sets at reset kept by it.
const MISC_ENABLE: u32 = 0x1a0;

/// IA32_MTRR_DEF_TYPE.
const MTRR_DEF_TYPE: u32 = 0x2ff;

/// Registers with their values, the same for each processor (SDM volume 4, "Model-Specific
/// Registers").
pub fn firmware_msrs() -> [kvm_msr_entry; 2] {
    /// Fast strings: Linux takes REP MOVSB for slow without.
    const FAST_STRINGS: u64 = 1 << 0;
    /// Branch trace storage and PEBS are not there, as KVM has it at reset.
    const UNAVAILABLE: u64 = 1 << 11 | 1 << 12;
    /// MTRRs are on, and all memory is write-back: device memory is uncached by the guest's PAT,
    /// which Linux leaves alone where MTRRs are off.
    const ENABLE: u64 = 1 << 11;
    const WRITE_BACK: u64 = 6;
    [
        (MISC_ENABLE, FAST_STRINGS | UNAVAILABLE),
        (MTRR_DEF_TYPE, ENABLE | WRITE_BACK),
    ]
    .map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    })
}
