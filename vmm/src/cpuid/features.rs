//! The features of CPUID that a VM is shown.
#![deny(unsafe_code)]

use kvm_bindings::kvm_cpuid_entry2;
use postern_abi::source::CPUID_HYPERVISOR;

use super::{CpuModel, VcpuIdentity};

/// One register of a CPUID leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// A feature that a guest is not shown.
struct Hidden {
    leaf: u32,
    subleaf: u32,
    register: Register,
    bit: u32,
}

const fn hidden(leaf: u32, subleaf: u32, register: Register, bit: u32) -> Hidden {
    Hidden {
        leaf,
        subleaf,
        register,
        bit,
    }
}

/// Features that no guest is shown, since there is no nesting: VMX and SVM.
const NESTING: [Hidden; 2] = [
    hidden(1, 0, Register::Ecx, 5),
    hidden(0x8000_0001, 0, Register::Ecx, 2),
];

/// Features that a vCPU with views must not turn on: the kernel module lets it enter no view while
/// one of these is on, and attaches none where the CPUID has VMX, PDCM, PCID, LAM or one of
/// [`FORBIDDEN_LEAVES`]. Bits from SDM volume 2, "CPUID".
const FORBIDDEN: [Hidden; 10] = [
    // PDCM, and with it PEBS and LBR: the CPU would record what happens in a view.
    hidden(1, 0, Register::Ecx, 15),
    // PCID: switching views relies on a fresh walk after each load of CR3.
    hidden(1, 0, Register::Ecx, 17),
    // INVPCID, which is of no use without.
    hidden(7, 0, Register::Ebx, 10),
    // CET shadow stacks.
    hidden(7, 0, Register::Ecx, 7),
    // LA57: views have four levels.
    hidden(7, 0, Register::Ecx, 16),
    // Protection keys for supervisor pages.
    hidden(7, 0, Register::Ecx, 31),
    // User interrupts.
    hidden(7, 0, Register::Edx, 5),
    // CET indirect branch tracking.
    hidden(7, 0, Register::Edx, 20),
    // FRED.
    hidden(7, 1, Register::Eax, 17),
    // Linear address masking.
    hidden(7, 1, Register::Eax, 26),
];

/// Leaves of which a vCPU with views is shown nothing: a guest's performance counters would count
/// what happens in a view, other tenants' packets included.
const FORBIDDEN_LEAVES: [u32; 2] = [
    // The PMU's version, counters and events.
    0xa, // The same for later ones.
    0x23,
];

/// Bit of leaf 1 ECX: the local APIC's timer has a TSC deadline mode. KVM tells of it by a
/// capability, not by `KVM_GET_SUPPORTED_CPUID`.
const TSC_DEADLINE: u32 = 1 << 24;

/// Hides what the VM's model leaves out, and shows what KVM tells of in other ways.
pub(super) fn adapt(entries: &mut [kvm_cpuid_entry2], vcpu: &VcpuIdentity) {
    for entry in entries {
        hide(entry, &NESTING);
        if vcpu.model == CpuModel::ViewCompatible {
            hide(entry, &FORBIDDEN);
            if FORBIDDEN_LEAVES.contains(&entry.function) {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
        }
        if entry.function == 1 {
            entry.ecx |= CPUID_HYPERVISOR;
            if vcpu.tsc_deadline {
                entry.ecx |= TSC_DEADLINE;
            }
        }
    }
}

fn hide(entry: &mut kvm_cpuid_entry2, features: &[Hidden]) {
    for feature in features {
        if entry.function == feature.leaf && entry.index == feature.subleaf {
            *register(entry, feature.register) &= !(1 << feature.bit);
        }
    }
}

fn register(entry: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Register::Eax => &mut entry.eax,
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a model shows of everything.
    fn shown(model: CpuModel) -> Vec<kvm_cpuid_entry2> {
        let mut entries: Vec<kvm_cpuid_entry2> = [(1, 0), (7, 0), (7, 1), (0xa, 0), (0x23, 1)]
            .into_iter()
            .map(|(function, index)| kvm_cpuid_entry2 {
                function,
                index,
                eax: u32::MAX,
                ebx: u32::MAX,
                ecx: u32::MAX,
                edx: u32::MAX,
                ..Default::default()
            })
            .collect();
        let vcpu = VcpuIdentity {
            number: 0,
            count: 1,
            model,
            tsc_deadline: true,
            tsc_khz: None,
        };
        adapt(&mut entries, &vcpu);
        entries
    }

    #[test]
    fn what_views_forbid_is_gone_and_the_rest_stays() {
        let entries = shown(CpuModel::ViewCompatible);
        assert_eq!(entries[0].ecx, !(1 << 5) & !(1 << 15) & !(1 << 17));
        assert_eq!(entries[1].ebx, !(1 << 10));
        assert_eq!(entries[1].ecx, !(1 << 7) & !(1 << 16) & !(1 << 31));
        assert_eq!(entries[1].edx, !(1 << 5) & !(1 << 20));
        assert_eq!(entries[2].eax, !(1 << 17) & !(1 << 26));
        assert_eq!(entries[1].eax, u32::MAX);
        for pmu in &entries[3..] {
            assert_eq!((pmu.eax, pmu.ebx, pmu.ecx, pmu.edx), (0, 0, 0, 0));
        }
    }

    #[test]
    fn the_hosts_model_lacks_nesting_alone() {
        let entries = shown(CpuModel::Host);
        assert_eq!(entries[0].ecx, !(1 << 5));
        for entry in &entries[1..] {
            assert_eq!(
                (entry.ebx, entry.ecx, entry.edx),
                (u32::MAX, u32::MAX, u32::MAX)
            );
        }
    }
}
