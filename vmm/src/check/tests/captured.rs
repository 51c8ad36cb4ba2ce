//! Hosts whose /proc and /sys are in `hosts/NAME.txt`.
//!
//! The files are as `tail -n +1` prints several files: `==> PATH <==`, then the contents. A link is
//! `==> PATH -> TARGET <==`; a byte that is no text is `\xNN`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// What is read of a host.
fn host(text: &str) -> HostFiles {
    let root = tempfile::tempdir().unwrap();
    unpack(text, root.path());
    HostFiles::read(root.path())
}

fn unpack(text: &str, root: &Path) {
    let mut file = None;
    for line in text.lines() {
        let Some(head) = line
            .strip_prefix("==> ")
            .and_then(|line| line.strip_suffix(" <=="))
        else {
            let path: &Path = file.as_deref().expect("a path comes first");
            let mut contents = fs::read(path).unwrap_or_default();
            contents.extend(bytes(line));
            fs::write(path, contents).unwrap();
            continue;
        };
        let (path, target) = head
            .split_once(" -> ")
            .map_or((head, None), |(path, target)| (path, Some(target)));
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, path).unwrap(),
            None => file = Some(path),
        }
    }
}

/// A line, with its end unless it is binary.
fn bytes(line: &str) -> Vec<u8> {
    match line.strip_prefix("\\x") {
        Some(hex) => hex
            .split("\\x")
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect(),
        None => format!("{line}\n").into_bytes(),
    }
}

fn facts(text: &str, views: bool) -> Facts {
    let host = host(text);
    Facts {
        views: Some(views),
        hypercall: Some(views && host.module.unwrap().ept_views_hypercall == Some(true)),
        ..with_host(host)
    }
}

fn states(facts: &Facts) -> Vec<(&'static str, State)> {
    let ladder = ladder(facts).into_iter();
    ladder
        .filter(|rung| rung.state != State::Ok)
        .map(|rung| (rung.name, rung.state))
        .collect()
}

const SKYLAKE: &str = include_str!("hosts/skylake-secure-boot.txt");
const SAPPHIRE_RAPIDS: &str = include_str!("hosts/sapphire-rapids-patched.txt");
const GRACEMONT: &str = include_str!("hosts/gracemont-enforced.txt");
const EPYC: &str = include_str!("hosts/epyc-microvm.txt");

use State::{Missing, Note, Unknown};

#[test]
fn an_old_server_with_secure_boot_and_running_vms() {
    let facts = facts(SKYLAKE, false);
    assert_eq!(
        states(&facts),
        [
            ("l1tf", Missing),
            ("mds", Missing),
            ("taa", Missing),
            ("mmio_stale_data", Missing),
            ("gds", Missing),
            ("spec_store_bypass", Note),
            ("retbleed", Note),
            ("signatures", Missing),
            ("kvm-users", Missing),
            ("views", Missing),
            ("hypercall", Unknown),
        ]
    );
    let l1tf = find(&facts, "l1tf");
    for word in ["INTEL-SA-00161", "SMT vulnerable", "L1 data cache"] {
        assert!(l1tf.found.contains(word), "{l1tf:?}");
    }
    assert!(l1tf.remedy.unwrap().contains("ept_views_insist=1"));

    let signatures = find(&facts, "signatures");
    assert!(
        signatures.found.contains("Secure Boot is on"),
        "{signatures:?}"
    );
    assert!(
        signatures.found.contains("mode integrity"),
        "{signatures:?}"
    );
    let remedy = signatures.remedy.unwrap();
    for word in ["openssl", "mokutil --import mok.pub", "kmodsign", "sbsign"] {
        assert!(remedy.contains(word), "{remedy}");
    }

    let users = find(&facts, "kvm-users");
    let expected = "by firecracker (PID 311, 2 VMs), qemu-system-x86 (PID 2211, a VM)";
    assert!(users.found.ends_with(expected), "{users:?}");

    let kernel = find(&facts, "kernel");
    assert!(
        kernel.found.contains("6.1.0-44-amd64 (Debian's 6.1.164-1)"),
        "{kernel:?}"
    );
}

#[test]
fn the_same_server_where_leaks_are_accepted() {
    let insisting = SKYLAKE.replace(
        "==> sys/module/kvm_intel/parameters/ept <==",
        "==> sys/module/kvm_intel/parameters/ept_views <==\nY\n\
         ==> sys/module/kvm_intel/parameters/ept_views_insist <==\nY\n\
         ==> sys/module/kvm_intel/parameters/ept <==",
    );
    let facts = facts(&insisting, true);
    let ladder = ladder(&facts);
    assert!(complete(&ladder), "{ladder:#?}");
    // A leak that was accepted is still said.
    assert_eq!(find(&facts, "mds").state, Note);
    assert!(find(&facts, "signatures").found.contains("was accepted"));
    assert!(find(&facts, "kvm-users").found.contains("PID 311"));
}

#[test]
fn a_new_server_with_the_patched_module() {
    let facts = facts(SAPPHIRE_RAPIDS, true);
    assert_eq!(
        states(&facts),
        [("spec_store_bypass", Note), ("hypercall", Note)]
    );
    assert!(complete(&ladder(&facts)));
    assert!(
        find(&facts, "machine")
            .found
            .contains("Supermicro SYS-221H-TNR")
    );
    assert!(
        find(&facts, "signatures")
            .found
            .contains("Secure Boot is off")
    );
    assert!(find(&facts, "kvm-users").found.contains("nobody"));
    // One list, though there are two processors.
    let ssb = find(&facts, "spec_store_bypass");
    assert!(ssb.found.contains("INTEL-SA-00115"), "{ssb:?}");
}

#[test]
fn a_small_computer_that_wants_signatures() {
    let facts = facts(GRACEMONT, false);
    let leaks = ["rfds", "mmio_unknown", "its"].map(|name| find(&facts, name));
    assert_eq!(
        leaks.each_ref().map(|rung| rung.state),
        [Missing, Missing, Note]
    );
    for (rung, advisory) in leaks.iter().zip(["SA-00898", "SA-00615", "SA-01153"]) {
        assert!(rung.found.contains(advisory), "{rung:?}");
    }
    let remedy = leaks[2].remedy.as_deref().unwrap();
    assert!(remedy.contains("return thunks"), "{remedy}");
    let signatures = find(&facts, "signatures");
    assert_eq!(signatures.state, Missing);
    assert!(signatures.found.contains("sig_enforce"), "{signatures:?}");
    assert!(signatures.remedy.unwrap().contains("/var/lib/dkms/mok.pub"));
    // Somebody uses the module, but who cannot be seen.
    let users = find(&facts, "kvm-users");
    assert_eq!(users.state, Missing);
    assert!(users.found.contains("without a VM"), "{users:?}");
    let listed = series::SERIES.iter().any(|series| series.linux == "6.12");
    let expected = match listed {
        true => State::Ok,
        false => Missing,
    };
    assert_eq!(find(&facts, "kernel").state, expected);
}

#[test]
fn a_virtual_machine_of_another_vendor() {
    let host = host(EPYC);
    assert_eq!(host.module, None);
    let facts = Facts {
        source: Source::Nested,
        views: Some(false),
        hypercall: Some(false),
        cpu_vmx: false,
        ..with_host(host)
    };
    assert_eq!(find(&facts, "kernel").state, Missing);
    assert_eq!(find(&facts, "signatures").state, State::Ok);
    assert_eq!(find(&facts, "machine").state, Note);
    // What is another vendor's defect is no rung.
    let names: Vec<&str> = ladder(&facts).iter().map(|rung| rung.name).collect();
    assert!(!names.contains(&"srso") && names.contains(&"spec_store_bypass"));
}

#[test]
fn a_kernel_that_lists_no_defect_of_interest() {
    let quiet = SAPPHIRE_RAPIDS.replace(" spec_store_bypass", "");
    let rung = find(&facts(&quiet, true), "cpu-leaks");
    assert_eq!(rung.state, State::Ok);
    assert!(rung.found.contains("6.1.0-51-amd64"), "{rung:?}");
}

#[test]
fn all_refused_leaks_are_refused_and_no_other() {
    let refused = [
        "l1tf",
        "mds",
        "taa",
        "rfds",
        "mmio_stale_data",
        "mmio_unknown",
        "gds",
    ];
    let others = ["spec_store_bypass", "retbleed", "its"];
    for (bug, expected) in refused
        .map(|bug| (bug, Missing))
        .into_iter()
        .chain(others.map(|bug| (bug, Note)))
    {
        let facts = Facts {
            views: Some(false),
            ..with_host(HostFiles {
                bugs: Some(vec![bug.to_owned()]),
                ..everything().host
            })
        };
        assert_eq!(find(&facts, bug).state, expected, "{bug}");
    }
}
