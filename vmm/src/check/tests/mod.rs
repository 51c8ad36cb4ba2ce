//! Hosts that lack one thing or another.

use postern_abi::source::Source;

use super::*;

fn everything() -> Facts {
    Facts {
        host: HostFiles {
            kernel_release: "6.1.0-30-amd64".to_owned(),
            module: Some(PATCHED),
            bugs: Some(Vec::new()),
            ..HostFiles::default()
        },
        source: Source::Hardware,
        hypervisor: None,
        device: DeviceAccess::Open,
        api_version: Some(12),
        cpu_vmx: true,
        cpu_smep: true,
        cpu_smap: true,
        vmx: Some(VmxFeatures {
            ept: true,
            execute_only: true,
            eptp_switching: Some(true),
        }),
        views: Some(true),
        hypercall: Some(true),
    }
}

const PATCHED: KvmModule = KvmModule {
    ept_views: Some(true),
    ept_views_insist: Some(false),
    ept_views_hypercall: Some(true),
    pt_mode: Some(0),
    users: Some(0),
};

fn with_host(host: HostFiles) -> Facts {
    Facts {
        host,
        ..everything()
    }
}

fn find(facts: &Facts, name: &str) -> Rung {
    let found = ladder(facts).into_iter().find(|rung| rung.name == name);
    found.unwrap()
}

#[test]
fn a_host_with_everything() {
    let ladder = ladder(&everything());
    assert!(complete(&ladder));
    assert!(ladder.iter().all(|rung| rung.remedy.is_none()));
}

#[test]
fn each_missing_thing_shows_in_one_rung_with_a_remedy() {
    let all = everything();
    let vmx = all.vmx.unwrap();
    let cases = [
        (
            "kvm",
            Facts {
                device: DeviceAccess::Denied,
                ..all.clone()
            },
        ),
        (
            "kvm-api",
            Facts {
                api_version: Some(11),
                ..all.clone()
            },
        ),
        (
            "vmx",
            Facts {
                cpu_vmx: false,
                ..all.clone()
            },
        ),
        (
            "ept",
            Facts {
                vmx: Some(VmxFeatures {
                    execute_only: false,
                    ..vmx
                }),
                ..all.clone()
            },
        ),
        (
            "vmfunc",
            Facts {
                vmx: Some(VmxFeatures {
                    eptp_switching: Some(false),
                    ..vmx
                }),
                ..all.clone()
            },
        ),
        (
            "smep-smap",
            Facts {
                cpu_smap: false,
                ..all.clone()
            },
        ),
        (
            "views",
            Facts {
                views: Some(false),
                ..all.clone()
            },
        ),
        (
            "kernel",
            Facts {
                views: Some(false),
                host: HostFiles {
                    kernel_release: "6.5.0-1-amd64".to_owned(),
                    ..all.host.clone()
                },
                ..all.clone()
            },
        ),
    ];
    for (name, facts) in cases {
        for rung in ladder(&facts) {
            let expected = match rung.name {
                _ if rung.name == name => State::Missing,
                // Without views there is more that cannot be had.
                "views" if facts.views == Some(false) => State::Missing,
                "hypercall" if facts.views == Some(false) => State::Unknown,
                _ => State::Ok,
            };
            assert_eq!(rung.state, expected, "{name}: {rung:?}");
            assert_eq!(rung.remedy.is_some(), expected != State::Ok);
        }
        assert!(!complete(&ladder(&facts)));
    }
}

#[test]
fn a_kvm_with_views_has_seen_vmfunc() {
    let unseen = Facts {
        vmx: Some(VmxFeatures {
            eptp_switching: None,
            ..everything().vmx.unwrap()
        }),
        ..everything()
    };
    assert_eq!(find(&unseen, "vmfunc").state, State::Ok);
    let without = Facts {
        views: Some(false),
        ..unseen
    };
    let rung = find(&without, "vmfunc");
    assert_eq!(rung.state, State::Unknown);
    assert!(rung.remedy.unwrap().contains("nested=1"));
}

#[test]
fn modules_are_told_apart() {
    let with = |module| {
        let facts = Facts {
            views: Some(false),
            host: HostFiles {
                module,
                ..everything().host
            },
            ..everything()
        };
        let rung = find(&facts, "views");
        (rung.found, rung.remedy.unwrap())
    };
    let patched = PATCHED;
    let (found, _) = with(None);
    assert!(found.contains("not loaded"));

    let unpatched = KvmModule {
        pt_mode: Some(0),
        ..KvmModule::default()
    };
    let (found, remedy) = with(Some(unpatched));
    assert!(found.contains("not patched"));
    assert!(remedy.contains("build.sh") && remedy.contains("6.1.0-30-amd64"));

    let (found, remedy) = with(Some(KvmModule {
        ept_views: Some(false),
        ..patched
    }));
    assert!(found.contains("ept_views off") && remedy.contains("ept_views=1"));

    let (_, remedy) = with(Some(patched));
    assert!(remedy.contains("ept_views_insist=1"));

    let (_, remedy) = with(Some(KvmModule {
        pt_mode: Some(1),
        ..patched
    }));
    assert!(remedy.contains("pt_mode=0"));
}

#[test]
fn what_cannot_be_seen_is_unknown() {
    let facts = Facts {
        device: DeviceAccess::Missing,
        api_version: None,
        vmx: None,
        host: HostFiles::default(),
        views: None,
        hypercall: None,
        ..everything()
    };
    for rung in ladder(&facts) {
        let expected = match rung.name {
            "kvm" => State::Missing,
            "kvm-api" | "ept" | "vmfunc" | "cpu-leaks" | "kernel" | "views" | "hypercall" => {
                State::Unknown
            }
            _ => State::Ok,
        };
        assert_eq!(rung.state, expected, "{rung:?}");
    }
    assert!(
        find(&facts, "kvm")
            .remedy
            .unwrap()
            .contains("version magic")
    );
}

#[test]
fn a_hypervisor_below_is_said_and_never_called_hardware() {
    let facts = Facts {
        source: Source::Nested,
        hypervisor: Some("KVMKVMKVM".to_owned()),
        host: HostFiles {
            product: Some("QEMU Standard PC".to_owned()),
            ..everything().host
        },
        ..everything()
    };
    let rung = find(&facts, "machine");
    assert_eq!(rung.state, State::Note);
    for word in [
        "KVMKVMKVM",
        "QEMU Standard PC",
        "`nested`",
        "may be an exit",
    ] {
        assert!(rung.found.contains(word), "{rung:?}");
    }
    assert!(!rung.found.contains("hardware"), "{rung:?}");
    assert!(complete(&ladder(&facts)), "views work all the same");
    assert!(find(&everything(), "machine").found.contains("`hardware`"));
    let emulated = Facts {
        source: Source::Emulated,
        ..everything()
    };
    assert!(find(&emulated, "machine").found.contains("`emulated`"));
}

#[test]
fn the_hypercall_is_a_choice_of_the_administrator() {
    let with = |ept_views_hypercall| Facts {
        hypercall: Some(false),
        host: HostFiles {
            module: Some(KvmModule {
                ept_views_hypercall,
                ..PATCHED
            }),
            ..everything().host
        },
        ..everything()
    };
    let off = with(Some(false));
    let rung = find(&off, "hypercall");
    assert_eq!(rung.state, State::Note);
    assert!(rung.remedy.unwrap().contains("ept_views_hypercall=1"));
    assert!(complete(&ladder(&off)), "the other paths work");
    let refused = find(&with(Some(true)), "hypercall");
    assert!(refused.remedy.unwrap().contains("return thunks"));
}

#[test]
fn kernels_between_the_series_are_named_with_those_that_there_are() {
    let rung = find(
        &Facts {
            views: Some(false),
            ..with_host(HostFiles {
                kernel_release: "6.8.0-40-generic".to_owned(),
                ..everything().host
            })
        },
        "kernel",
    );
    let remedy = rung.remedy.unwrap();
    for series in series::SERIES {
        assert!(remedy.contains(series.linux) && remedy.contains(series.debian));
    }
    let base = series::SERIES[0].base;
    let rung = find(
        &with_host(HostFiles {
            debian_version: Some(base.to_owned()),
            ..everything().host
        }),
        "kernel",
    );
    assert!(rung.found.contains("was made against"), "{rung:?}");
    let other = find(
        &with_host(HostFiles {
            debian_version: Some("6.1.1-1".to_owned()),
            ..everything().host
        }),
        "kernel",
    );
    assert_eq!(other.state, State::Ok);
    assert!(other.found.contains(base), "{other:?}");
    // Whatever the kernel is, one whose KVM offers views need not be replaced.
    let strange = find(
        &with_host(HostFiles {
            kernel_release: "7.0.0-mine".to_owned(),
            ..everything().host
        }),
        "kernel",
    );
    assert_eq!(strange.state, State::Note);
}

#[test]
fn this_machine_can_be_judged() {
    let ladder = ladder(&Facts::gather());
    let names: std::collections::BTreeSet<&str> = ladder.iter().map(|rung| rung.name).collect();
    assert_eq!(names.len(), ladder.len(), "two rungs have one name");
    for rung in ladder {
        println!("{:8} {:10} {}", rung.state.name(), rung.name, rung.found);
    }
}

mod captured;
