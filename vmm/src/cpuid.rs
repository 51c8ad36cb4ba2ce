//! The CPUID of a guest: what the host supports, less what views forbid.
#![deny(unsafe_code)]

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use postern_abi::source::CPUID_HYPERVISOR;

/// One register of a CPUID leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// A feature that no guest is shown.
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

/// Features that a vCPU with views must not turn on: the kernel module lets it enter no view while
/// one of these is on, and attaches none where the CPUID has VMX, PDCM, PCID, LAM or one of
/// [`HIDDEN_LEAVES`]. They are hidden from every guest, with views or not, so that all paths are
/// compared on the same CPU. Bits from SDM volume 2, "CPUID".
const HIDDEN: [Hidden; 11] = [
    // VMX: there is no nesting.
    hidden(1, 0, Register::Ecx, 5),
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

/// Leaves of which no guest is shown anything: a guest's performance counters would count what
/// happens in a view, other tenants' packets included.
const HIDDEN_LEAVES: [u32; 2] = [
    // The PMU's version, counters and events.
    0xa, // The same for later ones.
    0x23,
];

/// Bit of leaf 1 ECX: the local APIC's timer has a TSC deadline mode. KVM tells of it by a
/// capability, not by `KVM_GET_SUPPORTED_CPUID`.
const TSC_DEADLINE: u32 = 1 << 24;

/// Bit of leaf 1 EDX: EBX has a number of logical processors.
const HTT: u32 = 1 << 28;

/// Changes `cpuid`, what the host supports, to what vCPU `number` of `count` is shown.
pub fn adapt(cpuid: &mut CpuId, number: usize, count: usize, tsc_deadline: bool) {
    for entry in cpuid.as_mut_slice() {
        for hidden in &HIDDEN {
            if entry.function == hidden.leaf && entry.index == hidden.subleaf {
                *register(entry, hidden.register) &= !(1 << hidden.bit);
            }
        }
        if HIDDEN_LEAVES.contains(&entry.function) {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        let apic = number as u32;
        match entry.function {
            1 => {
                entry.ebx = (entry.ebx & 0xffff) | ((count as u32) << 16) | (apic << 24);
                entry.ecx |= CPUID_HYPERVISOR;
                if tsc_deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
                if count > 1 {
                    entry.edx |= HTT;
                }
            }
            // Extended topology: the x2APIC id is the same number.
            0xb | 0x1f => entry.edx = apic,
            _ => {}
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

    fn everything() -> CpuId {
        let entries: Vec<kvm_cpuid_entry2> = [
            (1, 0),
            (7, 0),
            (7, 1),
            (0xb, 0),
            (0xb, 1),
            (0xa, 0),
            (0x23, 1),
        ]
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
        CpuId::from_entries(&entries).unwrap()
    }

    #[test]
    fn hidden_features_are_gone_and_others_stay() {
        let mut cpuid = everything();
        adapt(&mut cpuid, 0, 1, true);
        let entries = cpuid.as_slice();
        assert_eq!(entries[0].ecx, !(1 << 5) & !(1 << 15) & !(1 << 17));
        assert_eq!(entries[1].ebx, !(1 << 10));
        assert_eq!(entries[1].ecx, !(1 << 7) & !(1 << 16) & !(1 << 31));
        assert_eq!(entries[1].edx, !(1 << 5) & !(1 << 20));
        assert_eq!(entries[2].eax, !(1 << 17) & !(1 << 26));
        assert_eq!(entries[1].eax, u32::MAX);
        for pmu in &entries[5..] {
            assert_eq!((pmu.eax, pmu.ebx, pmu.ecx, pmu.edx), (0, 0, 0, 0));
        }
    }

    #[test]
    fn each_vcpu_has_its_apic_id() {
        let mut cpuid = everything();
        adapt(&mut cpuid, 3, 4, false);
        let entries = cpuid.as_slice();
        assert_eq!(entries[0].ebx >> 24, 3);
        assert_eq!((entries[0].ebx >> 16) & 0xff, 4);
        assert_eq!((entries[3].edx, entries[4].edx), (3, 3));
    }
}
