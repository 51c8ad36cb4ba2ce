//! What CPUID says of packages, cores and caches: one package, a core for each vCPU, one thread a
//! core, the last cache shared by all. APIC ids are the vCPUs' numbers.
#![deny(unsafe_code)]

use kvm_bindings::kvm_cpuid_entry2;

use super::{VcpuIdentity, subleaf};

/// Leaf 1, EDX: EBX has a number of logical processors.
const HTT: u32 = 1 << 28;

/// Leaf 0x8000_0001, ECX, of AMD: the logical processors of leaf 1 are cores.
const CMP_LEGACY: u32 = 1 << 1;

/// EBX of leaf 0 of Intel's processors: the begin of "GenuineIntel".
const GENU: u32 = u32::from_le_bytes(*b"Genu");

/// The leaves of Intel's extended topology (SDM volume 2, "CPUID").
const EXTENDED_TOPOLOGY: [u32; 2] = [0xb, 0x1f];

/// Changes what depends on the number of vCPUs, and which this one is.
pub(super) fn adapt(entries: &mut Vec<kvm_cpuid_entry2>, vcpu: &VcpuIdentity) {
    let (number, count) = (vcpu.number as u32, vcpu.count.max(1) as u32);
    // Bits of an APIC id that tell cores apart, and how many ids they can tell apart.
    let bits = count.next_power_of_two().trailing_zeros();
    let ids = 1 << bits;
    let intel = entries
        .iter()
        .any(|entry| entry.function == 0 && entry.ebx == GENU);
    for entry in entries.iter_mut() {
        match entry.function {
            1 => {
                let ids = u32::min(ids, 0xff);
                entry.ebx = entry.ebx & 0xffff | ids << 16 | (number & 0xff) << 24;
                entry.edx &= !HTT;
                if count > 1 {
                    entry.edx |= HTT;
                }
            }
            // Intel's and AMD's caches: the threads that share one in bits 14 to 25, and, Intel's
            // only, the package's cores in bits 26 to 31, each less one.
            4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { ids - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | u32::min(sharing, 0xfff) << 14;
                if entry.function == 4 {
                    entry.eax |= u32::min(ids - 1, 0x3f) << 26;
                }
            }
            0x8000_0001 if !intel && count > 1 => entry.ecx |= CMP_LEGACY,
            // AMD: cores of the package less one, and the bits of their ids.
            0x8000_0008 if !intel => {
                entry.ecx = entry.ecx & !0xf0ff | u32::min(count - 1, 0xff) | bits << 12;
            }
            // AMD: extended APIC id, core id with one thread a core, node 0 of 1.
            0x8000_001e => {
                (entry.eax, entry.ebx, entry.ecx) = (number, number & 0xff, 0);
            }
            _ => {}
        }
    }
    for leaf in EXTENDED_TOPOLOGY {
        if entries.iter().any(|entry| entry.function == leaf) {
            entries.retain(|entry| entry.function != leaf);
            entries.extend(extended(leaf, number, count, bits));
        }
    }
}

/// The subleaves of an extended topology leaf: threads, cores, and the end.
fn extended(leaf: u32, number: u32, count: u32, bits: u32) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1;
    const CORES: u32 = 2;
    let level = |index, kind: u32, shift, processors| kvm_cpuid_entry2 {
        eax: shift,
        ebx: processors,
        ecx: index | kind << 8,
        edx: number,
        ..subleaf(leaf, index)
    };
    [
        level(0, THREADS, 0, 1),
        level(1, CORES, bits, count),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::CpuModel;
    use proptest::prelude::*;

    fn adapted(number: usize, count: usize) -> Vec<kvm_cpuid_entry2> {
        let leaf = |function, index, eax| kvm_cpuid_entry2 {
            eax,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..subleaf(function, index)
        };
        let mut entries = vec![
            leaf(1, 0, 0),
            leaf(4, 0, 0xfc00_0121), // L1 data
            leaf(4, 1, 0xffff_c163), // L3 unified
            leaf(4, 2, 0),
            leaf(0xb, 0, 7),
            leaf(0xb, 1, 7),
        ];
        let vcpu = VcpuIdentity {
            number,
            count,
            model: CpuModel::Host,
            tsc_deadline: false,
            tsc_khz: None,
        };
        adapt(&mut entries, &vcpu);
        entries
    }

    fn find(entries: &[kvm_cpuid_entry2], leaf: u32, index: u32) -> kvm_cpuid_entry2 {
        let found = entries
            .iter()
            .filter(|one| (one.function, one.index) == (leaf, index));
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "leaf {leaf:#x}.{index}");
        *found[0]
    }

    #[test]
    fn four_cores_share_the_last_cache() {
        let entries = adapted(3, 4);
        let basic = find(&entries, 1, 0);
        assert_eq!((basic.ebx >> 24, basic.ebx >> 16 & 0xff), (3, 4));
        assert_ne!(basic.edx & HTT, 0);
        let (first, last) = (find(&entries, 4, 0), find(&entries, 4, 1));
        assert_eq!((first.eax >> 14 & 0xfff, first.eax >> 26), (0, 3));
        assert_eq!((last.eax >> 14 & 0xfff, last.eax >> 26), (3, 3));
        assert_eq!(last.eax & 0x3fff, 0x0163);
        assert_eq!(find(&entries, 4, 2).eax, 0);
    }

    #[test]
    fn one_core_is_alone() {
        let entries = adapted(0, 1);
        assert_eq!(find(&entries, 1, 0).edx & HTT, 0);
        let cores = find(&entries, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx), (0, 1));
        assert!(
            entries.iter().all(|entry| entry.function != 0x1f),
            "what the host has not is not made up"
        );
    }

    proptest! {
        /// As Linux reads them: all vCPUs are in one package, each is a core of its own.
        #[test]
        fn topologies_are_consistent(count in 1usize..=254, number in 0usize..254) {
            let number = number % count;
            let entries = adapted(number, count);
            let (threads, cores) = (find(&entries, 0xb, 0), find(&entries, 0xb, 1));
            prop_assert_eq!(threads.edx as usize, number);
            prop_assert_eq!(cores.edx as usize, number);
            prop_assert_eq!((threads.eax, threads.ebx), (0, 1));
            prop_assert_eq!((threads.ecx, cores.ecx), (0x100, 0x201));
            prop_assert_eq!(cores.edx >> cores.eax, 0, "package");
            prop_assert_eq!(cores.ebx as usize, count);
            prop_assert_eq!(find(&entries, 0xb, 2).ecx, 2);
            let basic = find(&entries, 1, 0);
            prop_assert!((basic.ebx >> 16 & 0xff) as usize >= count);
        }
    }
}
