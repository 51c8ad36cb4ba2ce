//! The capability ladder: what this host has of what views need, rung by rung.
//!
//! A *rung* is one thing that views need, of the lowest first. [`Facts::gather`] looks at the host;
//! [`ladder`] makes rungs of what it saw. A rung that is missing says what that means and what to
//! do about it.
#![deny(unsafe_code)]

mod facts;
mod host_files;
mod host_rungs;
mod leaks;
mod rung;
mod series;

pub use facts::{DeviceAccess, Facts, VmxFeatures};
pub use host_files::{HostFiles, KvmModule, VmProcess};
use rung::rung;
pub use rung::{Rung, State};

/// What to do about a CPU that lacks something.
const NO_HARDWARE: &str =
    "use another machine, or the emulated one, where `cargo demo` runs without";

/// Judges the facts: the rungs from the lowest up.
pub fn ladder(facts: &Facts) -> Vec<Rung> {
    let host = &facts.host;
    let mut ladder = vec![
        host_rungs::machine(facts),
        device(facts),
        version(facts),
        vmx(facts),
        ept(facts),
        vmfunc(facts),
        supervisor_protection(facts),
    ];
    ladder.extend(leaks::rungs(host, facts.views));
    ladder.extend([
        host_rungs::kernel(facts),
        host_rungs::signatures(facts),
        host_rungs::users(facts),
        views(facts),
        hypercall(facts),
    ]);
    ladder
}

/// Whether views work: no rung is missing or unknown.
pub fn complete(ladder: &[Rung]) -> bool {
    ladder.iter().all(|rung| rung.state.suffices())
}

fn device(facts: &Facts) -> Rung {
    let release = &facts.host.kernel_release;
    let (state, found, remedy) = match &facts.device {
        DeviceAccess::Open => (State::Ok, "/dev/kvm opens".to_owned(), String::new()),
        DeviceAccess::Missing => (
            State::Missing,
            "there is no /dev/kvm".to_owned(),
            format!(
                "load KVM (modprobe kvm_intel); if that says \"Operation not supported\", turn \
                 VT-x on in the firmware; if it says \"Invalid module format\" or \"version \
                 magic\", the module was built for another kernel than this {release}: build it \
                 with kernel-patches/build.sh"
            ),
        ),
        DeviceAccess::Denied => (
            State::Missing,
            "/dev/kvm may not be opened by this user".to_owned(),
            "run as root, or join the group that owns /dev/kvm (often kvm)".to_owned(),
        ),
        DeviceAccess::Failed(error) => (
            State::Missing,
            format!("/dev/kvm cannot be opened: {error}"),
            "see the kernel's log (dmesg)".to_owned(),
        ),
    };
    rung("kvm", state, found, "every VM runs on KVM", remedy)
}

fn version(facts: &Facts) -> Rung {
    let found = match facts.api_version {
        Some(version) => format!("API version {version}"),
        None => "not seen".to_owned(),
    };
    rung(
        "kvm-api",
        State::of(facts.api_version.map(|version| version == 12)),
        found,
        "the VMM speaks version 12 of KVM's API, that of all kernels since 2.6.22",
        "get the rung kvm right first",
    )
}

fn vmx(facts: &Facts) -> Rung {
    rung(
        "vmx",
        State::of(Some(facts.cpu_vmx)),
        match facts.cpu_vmx {
            true => "the CPU has VMX",
            false => "the CPU shows no VMX",
        },
        "guests run in hardware on Intel's VMX; a KVM without it interprets, or is another \
         vendor's",
        format!(
            "turn VT-x on in the firmware, or nested VMX in the hypervisor below; else \
             {NO_HARDWARE}"
        ),
    )
}

/// What to do where a feature of VMX is not seen.
fn unseen(facts: &Facts) -> &'static str {
    match facts.device {
        _ if !facts.cpu_vmx => "get the rung vmx right first",
        DeviceAccess::Open => "load kvm_intel with nested=1, with which KVM tells",
        _ => "get the rung kvm right first",
    }
}

fn ept(facts: &Facts) -> Rung {
    let found = match &facts.vmx {
        Some(vmx) => match (vmx.ept, vmx.execute_only) {
            (true, true) => "EPT with execute-only pages",
            (true, false) => "EPT, without execute-only pages",
            (false, _) => "no EPT",
        },
        None => "not seen",
    };
    rung(
        "ept",
        State::of(facts.vmx.map(|vmx| vmx.ept && vmx.execute_only)),
        found,
        "a view is an EPT hierarchy of its own, and its gate can be executed, not read",
        match facts.vmx {
            Some(_) => NO_HARDWARE,
            None => unseen(facts),
        },
    )
}

fn vmfunc(facts: &Facts) -> Rung {
    // A KVM that offers views has looked.
    let inferred = facts.views.filter(|&views| views);
    let there = facts.vmx.and_then(|vmx| vmx.eptp_switching).or(inferred);
    rung(
        "vmfunc",
        State::of(there),
        match there {
            Some(true) => "VMFUNC with EPTP switching",
            Some(false) => "no VMFUNC with EPTP switching",
            None => "not seen",
        },
        "VMFUNC enters a view without an exit; without it only the paths exit-user and direct work",
        match there {
            Some(_) => NO_HARDWARE,
            None => unseen(facts),
        },
    )
}

fn supervisor_protection(facts: &Facts) -> Rung {
    let found = match (facts.cpu_smep, facts.cpu_smap) {
        (true, true) => "SMEP and SMAP",
        (true, false) => "no SMAP",
        (false, true) => "no SMEP",
        (false, false) => "neither SMEP nor SMAP",
    };
    rung(
        "smep-smap",
        State::of(Some(facts.cpu_smep && facts.cpu_smap)),
        found,
        "views consist of user pages, which the guest's kernel must not be able to run or read",
        NO_HARDWARE,
    )
}

fn views(facts: &Facts) -> Rung {
    let release = &facts.host.kernel_release;
    let state = State::of(facts.views);
    let reload = "modprobe -r kvm_intel && modprobe kvm_intel ept_views=1";
    let (found, remedy) = match (facts.views, &facts.host.module) {
        (Some(true), _) => ("the loaded KVM offers views".to_owned(), String::new()),
        (None, _) => (
            "not seen".to_owned(),
            "get the rung kvm right first".to_owned(),
        ),
        (Some(false), None) if !facts.cpu_vmx => (
            "kvm_intel is not loaded, and cannot be".to_owned(),
            "get the rung vmx right first".to_owned(),
        ),
        (Some(false), None) => (
            "kvm_intel is not loaded".to_owned(),
            format!(
                "build the patched modules for this kernel ({release}) and load them: \
                 kernel-patches/build.sh"
            ),
        ),
        (Some(false), Some(module)) => match module.ept_views {
            None => (
                "the loaded kvm_intel is not patched".to_owned(),
                format!(
                    "build the patched modules for this kernel ({release}) and load them: \
                     kernel-patches/build.sh; if loading says \"Invalid module format\", they were \
                     built for another kernel"
                ),
            ),
            Some(false) => (
                "the patched kvm_intel is loaded, with its parameter ept_views off".to_owned(),
                format!("turn it on: {reload}"),
            ),
            Some(true) if module.pt_mode == Some(1) => (
                "the patched kvm_intel refuses views, with its parameter pt_mode=1".to_owned(),
                format!("let the host keep Intel PT to itself: {reload} pt_mode=0"),
            ),
            Some(true) if module.ept_views_insist == Some(false) => (
                "the patched kvm_intel refuses views on this CPU".to_owned(),
                format!(
                    "the kernel's log says why; if the CPU is open to L1TF, MDS or the like and \
                     you accept that views leak: {reload} ept_views_insist=1"
                ),
            ),
            Some(true) => (
                "the patched kvm_intel refuses views on this CPU".to_owned(),
                "the kernel's log says why (dmesg | grep 'EPT views')".to_owned(),
            ),
        },
    };
    rung(
        "views",
        state,
        found,
        "the patched kvm_intel makes views",
        remedy,
    )
}

fn hypercall(facts: &Facts) -> Rung {
    let module = facts.host.module.as_ref();
    let (state, found, remedy) = match (facts.views, facts.hypercall) {
        (Some(true), Some(true)) => (State::Ok, "the loaded KVM serves VMCALLs", ""),
        (Some(true), _) => match module.and_then(|module| module.ept_views_hypercall) {
            Some(true) => (
                State::Note,
                "the patched kvm_intel serves no VMCALLs, though its parameter \
                 ept_views_hypercall is on",
                "the kernel's log says why (dmesg | grep 'EPT views'): the module was built \
                 without a service, or the service without return thunks on a CPU that needs \
                 them; the other paths do not need it",
            ),
            _ => (
                State::Note,
                "the patched kvm_intel serves no VMCALLs: its parameter ept_views_hypercall is off",
                "if the service may run in the host's kernel, for the path exit-kernel, load \
                 kvm_intel with ept_views=1 ept_views_hypercall=1; the other paths do not need it",
            ),
        },
        _ => (State::Unknown, "not seen", "get the rung views right first"),
    };
    rung(
        "hypercall",
        state,
        found,
        "on the path exit-kernel the service runs in the host's kernel, which its administrator \
         allows or not",
        remedy,
    )
}

#[cfg(test)]
mod tests;
