//! Figures from statistics with known numbers.

use serde_json::json;

use super::*;

/// A mark at which `total` instructions had run, a tenth of them in the guest, with these exits.
fn at(label: u32, total: u64, exits: u64, interrupts: u64, halts: u64) -> Value {
    json!({
        "label": label,
        "vcpu": 0,
        "counters": {
            "total_instructions": total,
            "guest_instructions": total / 10,
            "vmfuncs": total / 100,
        },
        "statistics": {
            "vm": {},
            "vcpus": [{
                "exits": exits, "irq_exits": interrupts, "irq_window_exits": 0,
                "irq_injections": 0, "halt_exits": halts, "io_exits": 0, "hypercalls": 0,
                "halt_poll_hist": [1, 2],
            }],
            "views": [{"vcpu": 0, "deferred_leaves": 0, "revoked": false}],
        },
    })
}

fn file(marks: &[Value]) -> Vec<u8> {
    let file = json!({
        "abi": ABI_VERSION,
        "exit": {"kind": "guest", "status": 0, "message": "the guest ended with status 0"},
        "marks": marks,
    });
    file.to_string().into_bytes()
}

fn vm(marks: &[Value]) -> VmStats {
    VmStats::parse("sender", &file(marks)).unwrap()
}

fn sender() -> VmStats {
    vm(&[
        at(1, 1_000, 0, 0, 0),
        at(2, 2_000, 1, 0, 0),
        at(7, 10_000, 10, 1, 0),
        at(8, 40_000, 30, 3, 2),
    ])
}

fn receiver() -> VmStats {
    vm(&[
        at(1, 1_000, 0, 0, 0),
        at(2, 2_000, 1, 0, 0),
        at(7, 20_000, 5, 0, 0),
        at(8, 50_000, 8, 1, 1),
    ])
}

#[test]
fn traffic_lasts_from_the_senders_first_to_the_receivers_last_mark() {
    let costs = traffic_shared_counters(&sender(), &receiver()).unwrap();
    // Three marks of 1,000 instructions lie in it.
    assert_eq!(costs.total_instructions, 40_000 - 3_000);
    assert_eq!(costs.guest_instructions, 4_000 - 300);
    assert_eq!(costs.vmfuncs, Some(400));
    // 20 and 3 exits, less 3 for interrupts, 3 for waits, and one mark each: all of the
    // receiver's.
    assert_eq!(costs.interrupt_exits, 3);
    assert_eq!(costs.wait_exits, 3);
    assert_eq!(costs.vm_exits, 20 - 2 - 2 - 1);
}

#[test]
fn marks_outside_are_not_subtracted() {
    // The sender's last mark comes after the receiver's.
    let late = vm(&[
        at(1, 1_000, 0, 0, 0),
        at(2, 2_000, 1, 0, 0),
        at(7, 10_000, 10, 0, 0),
        at(8, 60_000, 11, 0, 0),
    ]);
    let costs = traffic_shared_counters(&late, &receiver()).unwrap();
    assert_eq!(costs.total_instructions, 40_000 - 2_000);
}

#[test]
fn own_counters_are_added_up() {
    let costs = traffic_own_counters(&sender(), &receiver()).unwrap();
    assert_eq!(costs.total_instructions, 2 * (30_000 - 1_000));
    assert_eq!(costs.vmfuncs, None);
}

#[test]
fn calls_are_compared_with_an_empty_loop() {
    let costs = calls(&vm(&[
        at(1, 7_000, 8, 0, 0),
        at(2, 9_000, 9, 0, 0),
        at(3, 10_000, 10, 0, 0),
        at(4, 12_000, 12, 1, 0),
        at(5, 20_000, 20, 1, 0),
        at(6, 50_000, 124, 5, 0),
    ]))
    .unwrap();
    assert_eq!(costs.total_instructions, 30_000 - 2_000);
    assert_eq!(costs.vmfuncs, Some(280));
    assert_eq!(costs.interrupt_exits, 4);
    assert_eq!(costs.vm_exits, (104 - 4) - (2 - 1));
}

/// A mark of the emulated machine's counters.
fn counters(label: u32, guest: u64, total: u64) -> Value {
    let mut mark = at(label, total, 0, 0, 0);
    mark["counters"]["guest_instructions"] = json!(guest);
    mark
}

#[test]
fn an_interrupt_in_the_empty_loop_makes_no_call_cheaper() {
    // A mark costs 500 instructions of the host, the interrupt 4,000, 1,000 calls 30 each.
    let quiet = [(1, 0, 0), (2, 10, 510), (3, 20, 1_020), (4, 2_030, 3_530)];
    let loud = quiet.map(|(label, guest, total)| match label {
        4 => (label, guest, total + 4_000),
        _ => (label, guest, total),
    });
    let calls_after = |before: [(u32, u64, u64); 4]| {
        let (_, guest, total) = before[3];
        let after = [
            (5, guest + 10, total + 510),
            (6, guest + 10 + 2_010 + 30_000, total + 510 + 2_510 + 30_000),
        ];
        let marks = before.into_iter().chain(after);
        let marks: Vec<Value> = marks
            .map(|(label, guest, total)| counters(label, guest, total))
            .collect();
        let costs = calls(&vm(&marks)).unwrap();
        (costs.guest_instructions, costs.total_instructions)
    };
    assert_eq!(calls_after(quiet), (30_000, 30_000));
    assert_eq!(calls_after(loud), (30_000, 30_000));
}

#[test]
fn acknowledgements_and_deferred_leaves_are_interrupts() {
    let mut end = at(8, 20_000, 20, 3, 0);
    end["statistics"]["vcpus"][0]["irq_injections"] = json!(2);
    end["statistics"]["vcpus"][0]["irq_window_exits"] = json!(1);
    end["statistics"]["views"][0]["deferred_leaves"] = json!(4);
    let interval = vm(&[at(7, 10_000, 0, 0, 0), end]).interval(7, 8).unwrap();
    assert_eq!(interval.interrupts, 3 + 2 + 1 + 4);
    assert_eq!(interval.completed, 4);
    assert_eq!(interval.others(), 10);
}

#[test]
fn injections_that_were_repeated_hide_no_request() {
    let mut end = at(8, 20_000, 105, 2, 1);
    end["statistics"]["vcpus"][0]["irq_injections"] = json!(4);
    end["statistics"]["vcpus"][0]["hypercalls"] = json!(99);
    end["statistics"]["vcpus"][0]["io_exits"] = json!(1);
    let interval = vm(&[at(7, 10_000, 0, 0, 0), end]).interval(7, 8).unwrap();
    assert_eq!(interval.others(), 100);
    assert_eq!(interval.for_interrupts(), 105 - 1 - 100);
}

#[test]
fn vmfuncs_that_kvm_completed_are_counted() {
    let mut end = at(6, 50_000, 20, 0, 0);
    end["statistics"]["views"][0]["deferred_leaves"] = json!(4);
    let marks = [
        at(1, 0, 0, 0, 0),
        at(2, 0, 0, 0, 0),
        at(3, 0, 0, 0, 0),
        at(4, 1_000, 0, 0, 0),
        at(5, 20_000, 0, 0, 0),
        end,
    ];
    assert_eq!(calls(&vm(&marks)).unwrap().vmfuncs, Some(300 - 10 + 4));
}

#[test]
fn what_is_missing_is_named() {
    let parse = |json: &[u8]| VmStats::parse("receiver", json).unwrap_err();
    assert!(matches!(parse(b"{}"), Error::Malformed { .. }));

    let mut failed: Value = serde_json::from_slice(&file(&[])).unwrap();
    failed["exit"]["kind"] = json!("shutdown");
    failed["exit"]["message"] = json!("vCPU 0 shut down");
    assert_eq!(
        parse(failed.to_string().as_bytes()).to_string(),
        "VM receiver failed: vCPU 0 shut down"
    );

    let mut old: Value = serde_json::from_slice(&file(&[])).unwrap();
    old["abi"] = json!(0);
    assert!(matches!(
        parse(old.to_string().as_bytes()),
        Error::Version { found: 0, .. }
    ));

    let twice = vm(&[at(7, 1, 0, 0, 0), at(7, 2, 0, 0, 0)]);
    assert!(matches!(
        twice.mark(7),
        Err(Error::Mark {
            label: 7,
            count: 2,
            ..
        })
    ));
    assert!(matches!(
        twice.mark(8),
        Err(Error::Mark {
            label: 8,
            count: 0,
            ..
        })
    ));

    let mut bare = at(7, 1, 0, 0, 0);
    bare["counters"] = json!({});
    assert!(matches!(
        vm(&[bare]).counter(7, TOTAL),
        Err(Error::Counter { name: TOTAL, .. })
    ));
}
