//! The facts about the host that the capability ladder is judged by: CPUID, MSRs, modules.
#![deny(unsafe_code)]

use std::arch::x86_64::{__cpuid, __cpuid_count, __get_cpuid_max};
use std::fs;
use std::io;
use std::path::Path;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::Kvm;
use postern_abi::source::{Source, hypervisor_below};
use postern_kvm::{Device, Right};

use super::host_files::HostFiles;
use crate::event_counters;

/// Whether /dev/kvm opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceAccess {
    /// /dev/kvm opens.
    Open,
    /// /dev/kvm does not exist.
    Missing,
    /// /dev/kvm does not open for this user.
    Denied,
    /// /dev/kvm does not open, for this reason.
    Failed(String),
}

/// Features of VMX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmxFeatures {
    /// Extended page tables.
    pub ept: bool,
    /// EPT pages that can be executed and not read.
    pub execute_only: bool,
    /// VMFUNC with function 0; nothing where it cannot be seen.
    pub eptp_switching: Option<bool>,
}

/// The facts; nothing where one cannot be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What /proc and /sys say.
    pub host: HostFiles,
    /// What measured figures of this machine are labelled.
    pub source: Source,
    /// The hypervisor below, as CPUID names it.
    pub hypervisor: Option<String>,
    /// Whether /dev/kvm opens.
    pub device: DeviceAccess,
    /// KVM's API version.
    pub api_version: Option<i32>,
    /// CPUID: VMX.
    pub cpu_vmx: bool,
    /// CPUID: SMEP.
    pub cpu_smep: bool,
    /// CPUID: SMAP.
    pub cpu_smap: bool,
    /// Features of VMX.
    pub vmx: Option<VmxFeatures>,
    /// Whether KVM offers views.
    pub views: Option<bool>,
    /// Whether KVM offers calls of services by VMCALL.
    pub hypercall: Option<bool>,
}

impl Facts {
    /// Looks at the host. Nothing is changed or loaded.
    pub fn gather() -> Facts {
        // First, because an open /dev/kvm is a user of the module.
        let host = HostFiles::read(Path::new("/"));
        let (device, kvm) = match Kvm::new() {
            Ok(kvm) => (DeviceAccess::Open, Some(kvm)),
            Err(error) => (access_error(io::Error::from(error)), None),
        };
        let features = structured_features();
        let vmx = kvm
            .as_ref()
            .and_then(vmx_by_msrs)
            .or_else(|| vmx_by_flags(&fs::read_to_string("/proc/cpuinfo").ok()?));
        let rights = Device::open().ok().map(|kvm| kvm.rights());
        Facts {
            host,
            source: Source::decide(event_counters::is_emulated(), hypervisor_below()),
            hypervisor: hypervisor_name(),
            device,
            api_version: kvm.as_ref().map(Kvm::get_api_version),
            // Leaf 1 exists on every x86-64 CPU.
            cpu_vmx: (__cpuid(1).ecx >> 5) & 1 == 1,
            cpu_smep: (features >> 7) & 1 == 1,
            cpu_smap: (features >> 20) & 1 == 1,
            vmx,
            views: rights.map(|rights| !rights.is_empty()),
            hypercall: rights.map(|rights| rights.contains(Right::Hypercall)),
        }
    }
}

fn access_error(error: io::Error) -> DeviceAccess {
    match error.kind() {
        io::ErrorKind::NotFound => DeviceAccess::Missing,
        io::ErrorKind::PermissionDenied => DeviceAccess::Denied,
        // The node is there, the module is not.
        _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
            DeviceAccess::Missing
        }
        _ => DeviceAccess::Failed(error.to_string()),
    }
}

/// First leaf that hypervisors answer; EBX, ECX and EDX name them.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;

/// What the hypervisor below calls itself, such as `KVMKVMKVM` or `Microsoft Hv`.
fn hypervisor_name() -> Option<String> {
    if !hypervisor_below() {
        return None;
    }
    let leaf = __cpuid(HYPERVISOR_LEAF);
    let bytes = [leaf.ebx, leaf.ecx, leaf.edx]
        .map(u32::to_le_bytes)
        .concat();
    let printable = bytes
        .into_iter()
        .filter(|byte| (b' '..=b'~').contains(byte));
    Some(printable.map(char::from).collect())
}

/// EBX of CPUID leaf 7, subleaf 0.
fn structured_features() -> u32 {
    let (last, _) = __get_cpuid_max(0);
    if last < 7 {
        return 0;
    }
    __cpuid_count(7, 0).ebx
}

/// Secondary processor-based VM-execution controls; the high half says which may be 1.
const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
/// Capabilities of EPT and VPID.
const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;
/// VM functions.
const IA32_VMX_VMFUNC: u32 = 0x491;

/// Asks KVM for the MSRs that describe VMX (SDM volume 3, appendix "VMX Capability Reporting
/// Facility"). KVM has them where it could offer VMX to guests, and copies what matters here from
/// the CPU.
fn vmx_by_msrs(kvm: &Kvm) -> Option<VmxFeatures> {
    let known = kvm.get_msr_feature_index_list().ok()?;
    let read = |index: u32| {
        if !known.as_slice().contains(&index) {
            return None;
        }
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[entry]).ok()?;
        match kvm.get_msrs(&mut msrs) {
            Ok(1) => msrs.as_slice().first().map(|entry| entry.data),
            _ => None,
        }
    };
    let allowed = read(IA32_VMX_PROCBASED_CTLS2)? >> 32;
    let (ept, vmfunc) = (allowed & (1 << 1) != 0, allowed & (1 << 13) != 0);
    Some(VmxFeatures {
        ept,
        execute_only: ept && read(IA32_VMX_EPT_VPID_CAP).unwrap_or(0) & 1 != 0,
        eptp_switching: Some(vmfunc && read(IA32_VMX_VMFUNC).unwrap_or(0) & 1 != 0),
    })
}

/// Reads the features of VMX in /proc/cpuinfo, which names them since Linux 5.8. It does not show
/// that EPTP switching is missing: Linux 6.1 looks for it in the MSR's wrong half
/// (`init_vmx_capabilities`) and never finds it.
fn vmx_by_flags(cpuinfo: &str) -> Option<VmxFeatures> {
    let line = cpuinfo.lines().find(|line| line.starts_with("vmx flags"))?;
    let (_, flags) = line.split_once(':')?;
    let has = |name| flags.split_ascii_whitespace().any(|flag| flag == name);
    Some(VmxFeatures {
        ept: has("ept"),
        execute_only: has("ept_x_only"),
        eptp_switching: has("eptp_switching").then_some(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_cpuinfo() {
        let cpuinfo = "processor\t: 0\nflags\t\t: fpu ept vmfunc\n\
                       vmx flags\t: vnmi ept ept_x_only eptp_switching\n";
        assert_eq!(
            vmx_by_flags(cpuinfo),
            Some(VmxFeatures {
                ept: true,
                execute_only: true,
                eptp_switching: Some(true)
            })
        );
        assert_eq!(vmx_by_flags("flags : vmx ept\n"), None);
        let old = vmx_by_flags("vmx flags : vnmi ept_ad ept\n").unwrap();
        assert_eq!((old.ept, old.eptp_switching), (true, None));
    }

    #[test]
    fn reasons_for_a_closed_device() {
        let device = |errno| access_error(io::Error::from_raw_os_error(errno));
        assert_eq!(device(libc::ENOENT), DeviceAccess::Missing);
        assert_eq!(device(libc::ENODEV), DeviceAccess::Missing);
        assert_eq!(device(libc::EACCES), DeviceAccess::Denied);
        assert!(matches!(device(libc::EBUSY), DeviceAccess::Failed(_)));
    }
}
