//! A VM whose vCPUs can have views, for the examples.

use std::error::Error;
use std::os::fd::{AsRawFd, BorrowedFd};

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use postern_kvm::Device;

/// Bit of CPUID leaf 1, ECX, that must be clear on a vCPU with views: VMX, for VMs in the VM.
const VMX: u32 = 1 << 5;
/// Bit of CPUID leaf 1, ECX, that must be clear on a vCPU with views: perf and debug capabilities.
const PDCM: u32 = 1 << 15;
/// Bit of CPUID leaf 1, ECX, that must be clear on a vCPU with views: process-context identifiers.
const PCID: u32 = 1 << 17;
/// Leaf of CPUID that must be empty on a vCPU with views: performance counters.
const PMU: u32 = 0xa;
/// Bit of CPUID leaf 7, subleaf 1, EAX, that must be clear on a vCPU with views: linear address
/// masking.
const LAM: u32 = 1 << 26;

/// KVM with views; without them it says why there are none.
pub fn device_with_views() -> Option<Device> {
    match Device::open() {
        Ok(device) if device.has_views() => return Some(device),
        Ok(_) => println!("SKIP: {}", postern_kvm::why_no_views()),
        Err(error) => println!("SKIP: /dev/kvm cannot be opened: {error}"),
    }
    None
}

/// A VM with so many vCPUs, none of which has run.
///
/// # Errors
///
/// What KVM refuses.
pub fn vm_with_vcpus(count: u32) -> Result<(VmFd, Vec<VcpuFd>), Box<dyn Error>> {
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.create_irq_chip()?;
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) => entry.ecx &= !(VMX | PDCM | PCID),
            (7, 1) => entry.eax &= !LAM,
            (PMU, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
    let vcpu = |number: u32| {
        let vcpu = vm.create_vcpu(number.into())?;
        vcpu.set_cpuid2(&cpuid)?;
        Ok(vcpu)
    };
    let vcpus = (0..count)
        .map(vcpu)
        .collect::<Result<_, kvm_ioctls::Error>>()?;
    Ok((vm, vcpus))
}

/// The descriptor of a vCPU.
pub fn descriptor(vcpu: &VcpuFd) -> BorrowedFd<'_> {
    // SAFETY: the vCPU's descriptor is open for as long as `vcpu` lives.
    unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) }
}
