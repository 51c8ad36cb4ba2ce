//! KVM of this host: opening it, and what the VMM needs of it.
#![deny(unsafe_code)]

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};
use std::fmt;

use crate::cpuid::{self, CpuModel, VcpuIdentity};
use crate::layout;

/// What can fail with KVM.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// /dev/kvm cannot be opened.
    #[error("cannot open /dev/kvm (`postern check` tells what is missing)")]
    Open(#[source] kvm_ioctls::Error),
    /// KVM of another age.
    #[error("KVM has API version {0}, not {KVM_API_VERSION}")]
    Version(i32),
    /// KVM lacks something.
    #[error("this KVM lacks the capability {0:?}: use a newer kernel")]
    Lacks(Cap),
    /// A VM without processors.
    #[error("a VM needs at least 1 vCPU, not 0")]
    NoVcpus,
    /// More processors than KVM gives a VM.
    #[error("{asked} vCPUs are too many: this host gives a VM at most {most}")]
    TooManyVcpus {
        /// Number of vCPUs that were asked for.
        asked: usize,
        /// Largest number that KVM gives a VM.
        most: usize,
    },
    /// A CPUID that is too long.
    #[error("a CPUID of {0} leaves is too long: KVM takes {KVM_MAX_CPUID_ENTRIES}")]
    TooManyLeaves(usize),
    /// A call was refused.
    #[error("{call} failed")]
    Call {
        /// The call.
        call: &'static str,
        /// KVM's error.
        source: kvm_ioctls::Error,
    },
}

/// What every VM needs of KVM.
const REQUIRED: [Cap; 7] = [
    Cap::Irqchip,
    Cap::UserMemory,
    Cap::SetTssAddr,
    Cap::SetIdentityMapAddr,
    Cap::ExtCpuid,
    Cap::MpState,
    Cap::Irqfd,
];

/// KVM with all that the VMM needs.
pub struct Host {
    kvm: Kvm,
    cpuid: CpuId,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    /// Opens /dev/kvm.
    ///
    /// # Errors
    ///
    /// When it is not there, not for this user, or lacks something.
    pub fn open() -> Result<Host, Error> {
        let kvm = Kvm::new().map_err(Error::Open)?;
        match kvm.get_api_version() {
            version if version == KVM_API_VERSION as i32 => {}
            version => return Err(Error::Version(version)),
        }
        if let Some(cap) = REQUIRED.into_iter().find(|&cap| !kvm.check_extension(cap)) {
            return Err(Error::Lacks(cap));
        }
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Host { kvm, cpuid })
    }

    /// Whether a VM can have that many vCPUs.
    ///
    /// # Errors
    ///
    /// When there are none or too many.
    pub fn check_vcpus(&self, asked: usize) -> Result<(), Error> {
        let most = self.kvm.get_max_vcpus().min(layout::MAX_VCPUS);
        match asked {
            0 => Err(Error::NoVcpus),
            _ if asked > most => Err(Error::TooManyVcpus { asked, most }),
            _ => Ok(()),
        }
    }

    /// What the CPUID of vCPU `number` of `count` says, whose TSC has that frequency in kHz.
    ///
    /// # Errors
    ///
    /// When the VM's topology makes more leaves than KVM takes.
    pub fn cpuid(
        &self,
        number: usize,
        count: usize,
        model: CpuModel,
        tsc_khz: Option<u32>,
    ) -> Result<CpuId, Error> {
        let vcpu = VcpuIdentity {
            number,
            count,
            model,
            tsc_deadline: self.kvm.check_extension(Cap::TscDeadlineTimer),
            tsc_khz,
        };
        let entries = cpuid::adapt(self.cpuid.as_slice(), &vcpu);
        CpuId::from_entries(&entries).map_err(|_| Error::TooManyLeaves(entries.len()))
    }

    /// The model-specific registers that KVM keeps for a vCPU.
    ///
    /// # Errors
    ///
    /// When KVM does not tell.
    pub fn msrs(&self) -> Result<Vec<u32>, Error> {
        let list = self.kvm.get_msr_index_list();
        let list = list.map_err(call("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(list.as_slice().to_vec())
    }

    /// Makes a VM with its interrupt controllers, without memory and vCPUs.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub fn create_vm(&self) -> Result<VmFd, Error> {
        let vm = self.kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP.0)
            .map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(layout::KVM_TSS.0 as usize)
            .map_err(call("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
        Ok(vm)
    }
}

/// An error of that call.
pub(crate) fn call(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |source| Error::Call { call, source }
}
