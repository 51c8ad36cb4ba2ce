//! Hosts that lack one thing or another.

use super::*;

fn everything() -> Facts {
    Facts {
        kernel_release: "6.1.0-30-amd64".to_owned(),
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
        module: Some(KvmModule {
            ept_views: Some(true),
            ept_views_insist: Some(false),
            pt_mode: Some(0),
        }),
        views: Some(true),
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
    ];
    for (name, facts) in cases {
        for rung in ladder(&facts) {
            let expected = match rung.name == name {
                true => State::Missing,
                false => State::Ok,
            };
            assert_eq!(rung.state, expected, "{name}: {rung:?}");
            assert_eq!(rung.remedy.is_some(), rung.name == name);
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
            module,
            ..everything()
        };
        let rung = find(&facts, "views");
        (rung.found, rung.remedy.unwrap())
    };
    let patched = everything().module.unwrap();
    let (found, _) = with(None);
    assert!(found.contains("not loaded"));

    let unpatched = KvmModule {
        ept_views: None,
        ept_views_insist: None,
        pt_mode: Some(0),
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
        module: None,
        views: None,
        ..everything()
    };
    let states: Vec<State> = ladder(&facts).iter().map(|rung| rung.state).collect();
    use State::{Missing, Ok, Unknown};
    assert_eq!(
        states,
        [Missing, Unknown, Ok, Unknown, Unknown, Ok, Unknown]
    );
    assert!(
        find(&facts, "kvm")
            .remedy
            .unwrap()
            .contains("version magic")
    );
}

#[test]
fn this_machine_can_be_judged() {
    let ladder = ladder(&Facts::gather());
    assert_eq!(ladder.len(), 7);
    for rung in ladder {
        println!("{:8} {:10} {}", rung.state.name(), rung.name, rung.found);
    }
}
