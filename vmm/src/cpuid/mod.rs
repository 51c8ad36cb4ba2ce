//! The CPUID of a guest: what the host supports, less what views forbid where the VM has one, with
//! the VM's own topology.
#![deny(unsafe_code)]

mod features;
mod topology;

use std::fmt;
use std::str::FromStr;

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};

/// Which of the host's features a VM is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuModel {
    /// All that KVM supports, but for VMX.
    Host,
    /// Without the features that a vCPU with views must not have: so that VMs with and without a
    /// view are compared on the same processor.
    ViewCompatible,
}

impl CpuModel {
    /// All models, in the order in which they are named.
    pub const ALL: [CpuModel; 2] = [CpuModel::Host, CpuModel::ViewCompatible];

    /// The name that people write.
    pub const fn name(self) -> &'static str {
        match self {
            CpuModel::Host => "host",
            CpuModel::ViewCompatible => "view-compatible",
        }
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no CPU model {0:?}: use host or view-compatible")]
pub struct UnknownModel(String);

impl FromStr for CpuModel {
    type Err = UnknownModel;

    fn from_str(text: &str) -> Result<CpuModel, UnknownModel> {
        let found = CpuModel::ALL.into_iter().find(|one| one.name() == text);
        found.ok_or_else(|| UnknownModel(text.to_owned()))
    }
}

/// What the CPUID of a vCPU depends on, besides the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuIdentity {
    /// Number of the vCPU, which is its APIC id.
    pub number: usize,
    /// Number of the VM's vCPUs: cores of one package, a thread each.
    pub count: usize,
    /// Features that are shown.
    pub model: CpuModel,
    /// Whether KVM's local APICs have the TSC deadline mode. KVM tells of it by a capability, not by
    /// `KVM_GET_SUPPORTED_CPUID`.
    pub tsc_deadline: bool,
    /// Frequency of the guest's TSC in kHz, if KVM tells.
    pub tsc_khz: Option<u32>,
}

/// What a vCPU is shown of the leaves that the host supports.
pub fn adapt(supported: &[kvm_cpuid_entry2], vcpu: &VcpuIdentity) -> Vec<kvm_cpuid_entry2> {
    let mut entries = supported.to_vec();
    features::adapt(&mut entries, vcpu);
    topology::adapt(&mut entries, vcpu);
    if let Some(khz) = vcpu.tsc_khz {
        tell_frequencies(&mut entries, khz);
    }
    entries
}

/// Adds the leaf in which hypervisors tell the frequencies of TSC and local APIC timer in kHz, as
/// VMware's and QEMU's do.
fn tell_frequencies(entries: &mut Vec<kvm_cpuid_entry2>, tsc_khz: u32) {
    const SIGNATURE: u32 = 0x4000_0000;
    const FREQUENCIES: u32 = 0x4000_0010;
    /// The bus of KVM's local APICs has 1 GHz (Linux: `APIC_BUS_CYCLE_NS`).
    const APIC_KHZ: u32 = 1_000_000;
    let Some(signature) = entries.iter_mut().find(|one| one.function == SIGNATURE) else {
        return;
    };
    signature.eax = signature.eax.max(FREQUENCIES);
    entries.retain(|one| one.function != FREQUENCIES);
    entries.push(kvm_cpuid_entry2 {
        function: FREQUENCIES,
        eax: tsc_khz,
        ebx: APIC_KHZ,
        ..Default::default()
    });
}

/// A subleaf of that leaf.
fn subleaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named() {
        for model in CpuModel::ALL {
            assert_eq!(model.name().parse(), Ok(model));
            let json = serde_json::to_string(&model).unwrap();
            assert_eq!(json, format!("{:?}", model.name()));
        }
        let error = "max".parse::<CpuModel>().unwrap_err();
        assert!(error.to_string().contains("view-compatible"));
    }

    #[test]
    fn the_tsc_has_a_frequency() {
        let mut entries = vec![kvm_cpuid_entry2 {
            function: 0x4000_0000,
            eax: 0x4000_0001,
            ..Default::default()
        }];
        tell_frequencies(&mut entries, 2_100_000);
        assert_eq!(entries[0].eax, 0x4000_0010);
        assert_eq!((entries[1].eax, entries[1].ebx), (2_100_000, 1_000_000));
        let mut foreign = Vec::new();
        tell_frequencies(&mut foreign, 1);
        assert!(foreign.is_empty(), "without KVM's leaves there is no place");
    }
}
