//! Rungs that are judged by what /proc and /sys say of the host.
#![deny(unsafe_code)]

use postern_abi::source::Source;

use super::facts::Facts;
use super::host_files::VmProcess;
use super::rung::{Rung, State, rung};
use super::series::{self, SERIES};

/// What kind of machine this is, and so what its figures are called.
pub(super) fn machine(facts: &Facts) -> Rung {
    let label = facts.source.name();
    let product = match &facts.host.product {
        Some(product) => format!(" ({product})"),
        None => String::new(),
    };
    let (state, found, remedy) = match facts.source {
        Source::Emulated => (
            State::Ok,
            format!("the emulated machine: its figures are labelled `{label}`"),
            "",
        ),
        Source::Hardware => (
            State::Ok,
            format!("no hypervisor below{product}: figures are labelled `{label}`"),
            "",
        ),
        Source::Nested => (
            State::Note,
            format!(
                "a hypervisor is below{}{product}: each VMFUNC may be an exit to it, which no \
                 counter here shows; every figure is labelled `{label}`",
                match &facts.hypervisor {
                    Some(name) if !name.is_empty() => format!(", {name}"),
                    _ => String::new(),
                }
            ),
            "no figure from here says what a crossing costs: measure on a host without a \
             hypervisor below; postern check --self-test compares VMFUNC with VMCALL",
        ),
    };
    rung(
        "machine",
        state,
        found,
        "the label of a figure says what kind of machine it comes from",
        remedy,
    )
}

/// Whether there is a patch series for this kernel.
pub(super) fn kernel(facts: &Facts) -> Rung {
    let release = &facts.host.kernel_release;
    let known: Vec<String> = SERIES
        .iter()
        .map(|series| format!("Linux {} (Debian {})", series.linux, series.debian))
        .collect();
    let line = series::line(release);
    let series = line
        .as_ref()
        .and_then(|line| SERIES.iter().find(|series| series.linux == line));
    let running = match &facts.host.debian_version {
        Some(version) => format!("{release} (Debian's {version})"),
        None => release.clone(),
    };
    let (state, found) = match (series, facts.views) {
        (Some(series), _) => (
            State::Ok,
            match facts.host.debian_version.as_deref() == Some(series.base) {
                true => format!(
                    "{running} is what the series {} was made against",
                    series.linux
                ),
                false => format!(
                    "{running}; the series {} was made against {}, and is applied to the sources \
                     of any kernel of that line",
                    series.linux, series.base
                ),
            },
        ),
        (None, Some(true)) => (
            State::Note,
            format!("there is no series for {running}, and yet its KVM offers views"),
        ),
        (None, _) if line.is_none() => (State::Unknown, format!("release {running:?}")),
        (None, _) => (State::Missing, format!("there is no series for {running}")),
    };
    rung(
        "kernel",
        state,
        found,
        "the patches are made for certain lines of Linux",
        format!(
            "boot a kernel of a line that there is a series for: {}",
            known.join(", ")
        ),
    )
}

/// Whether the kernel would load modules that are built here.
pub(super) fn signatures(facts: &Facts) -> Rung {
    let host = &facts.host;
    let lockdown = host.lockdown.as_deref().filter(|&mode| mode != "none");
    let mut reasons = Vec::new();
    if let Some(mode) = lockdown {
        reasons.push(format!("kernel lockdown is in mode {mode}"));
    }
    if host.signatures_enforced == Some(true) {
        reasons.push("module.sig_enforce is on".to_owned());
    }
    let booted = match host.secure_boot {
        Some(true) => "Secure Boot is on",
        Some(false) => "Secure Boot is off",
        None => "no Secure Boot is seen",
    };
    let patched = host.module.is_some_and(|module| module.ept_views.is_some());
    let key = match host.dkms_key {
        true => "DKMS has a key: mokutil --import /var/lib/dkms/mok.pub, reboot, enrol it, and \
                 sign with it (or build with DKMS, which does)"
            .to_owned(),
        false => "make a key (openssl req -new -x509 -newkey rsa:2048 -nodes -subj /CN=kvm/ \
                  -outform DER -keyout mok.key -out mok.pub), mokutil --import mok.pub, reboot \
                  and enrol it"
            .to_owned(),
    };
    let remedy = format!(
        "sign kvm.ko and kvm-intel.ko: {key}; then for each: kmodsign sha512 mok.key mok.pub \
         FILE.ko (package sbsigntool), or scripts/sign-file of the kernel's headers; or turn \
         Secure Boot off in the firmware. sbsign is for kernels, not for modules"
    );
    let (state, found) = match (reasons.is_empty(), patched) {
        (true, _) if host.secure_boot == Some(true) => (
            State::Note,
            format!("{booted}, and the kernel does not say that it refuses unsigned modules"),
        ),
        (true, _) => (
            State::Ok,
            format!("{booted}; the kernel loads unsigned modules"),
        ),
        (false, true) => (
            State::Ok,
            format!(
                "{}; the patched module that is loaded was accepted",
                reasons.join(", ")
            ),
        ),
        (false, false) => (
            State::Missing,
            format!(
                "{booted}; {}: unsigned modules are refused",
                reasons.join(", ")
            ),
        ),
    };
    rung(
        "signatures",
        state,
        found,
        "modules that are built here have no signature that the firmware knows; loading one fails \
         with \"Key was rejected by service\"",
        remedy,
    )
}

/// Whether the loaded module can be replaced.
pub(super) fn users(facts: &Facts) -> Rung {
    let host = &facts.host;
    let mut using: Vec<String> = host.vm_processes.iter().map(process).collect();
    let counted = host.module.and_then(|module| module.users).unwrap_or(0);
    if using.is_empty() && counted > 0 {
        using.push(match host.hidden_processes {
            true => "processes that this user does not see".to_owned(),
            false => "processes without a VM, or of another namespace".to_owned(),
        });
    } else if host.hidden_processes && !using.is_empty() {
        using.push("perhaps others, which this user does not see".to_owned());
    }
    let (state, found) = match (using.is_empty(), facts.views) {
        (true, _) if host.module.is_none() => (State::Ok, "kvm_intel is not loaded".to_owned()),
        (true, _) => (State::Ok, "nobody uses the loaded kvm_intel".to_owned()),
        (false, Some(true)) => (
            State::Ok,
            format!("it need not be replaced; used by {}", using.join(", ")),
        ),
        (false, _) => (
            State::Missing,
            format!("the loaded kvm_intel is in use, by {}", using.join(", ")),
        ),
    };
    rung(
        "kvm-users",
        state,
        found,
        "a module is replaced, or loaded with other parameters, only while no VM runs on it",
        "end these VMs (virsh shutdown, or the program that runs them), and see that nothing \
         starts them again; as root, postern check sees the processes of all users; then \
         kernel-patches/build.sh unload, and load",
    )
}

fn process(process: &VmProcess) -> String {
    let VmProcess { pid, name, vms } = process;
    let vms = match vms {
        1 => "a VM".to_owned(),
        _ => format!("{vms} VMs"),
    };
    format!("{name} (PID {pid}, {vms})")
}
