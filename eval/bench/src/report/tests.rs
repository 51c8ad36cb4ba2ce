//! Figures, ratios and the form of both outputs.

use serde_json::{Value, json};

use super::*;

fn intact(frames: usize) -> Comparison {
    Comparison {
        sent: frames,
        received: frames,
        ..Comparison::default()
    }
}

fn costs(total: u64) -> Costs {
    Costs {
        vm_exits: 100,
        interrupt_exits: 7,
        wait_exits: 3,
        vmfuncs: Some(300),
        guest_instructions: total / 2,
        total_instructions: total,
    }
}

fn row(path: CallPath, batch: u32, total: u64) -> TrafficRow {
    TrafficRow::new(
        path,
        "pcap",
        batch,
        &intact(100),
        BTreeMap::new(),
        &costs(total),
    )
}

fn report() -> DemoReport {
    DemoReport::new(
        Source::Emulated,
        vec![
            row(CallPath::Elisa, 1, 50_000),
            row(CallPath::ExitKernel, 1, 200_000),
            row(CallPath::Elisa, 32, 10_000),
        ],
        vec![
            CallRow::new(CallPath::Elisa, 100, &costs(2_700)),
            CallRow::new(CallPath::ExitKernel, 100, &costs(81_000)),
        ],
        Meta {
            revision: "0123456".into(),
            abi_version: 1,
            machine: "some".into(),
            kernel: "6.1".into(),
            pcap: Pcap {
                origin: "captured".into(),
                frames: 4,
                sha256: "00".into(),
                summary: "4 frames".into(),
            },
            frames: 100,
            rings: RingSizes {
                ring_bytes: 4096,
                lane_bytes: 8192,
            },
            seccomp: true,
            seconds: 1.5,
        },
    )
}

#[test]
fn figures_are_per_packet_received() {
    let row = row(CallPath::Elisa, 1, 50_000);
    assert_eq!(row.total_instructions_per_packet, 500.0);
    assert_eq!(row.guest_instructions_per_packet, 250.0);
    assert_eq!(row.vm_exits_per_packet, 1.0);
    assert_eq!(row.vmfuncs_per_packet, Some(3.0));
    assert_eq!(row.interrupt_exits_per_packet, 0.07);
    assert!(row.is_intact());
}

#[test]
fn ratios_compare_with_exit_kernel_of_the_same_input_and_batch() {
    let ratios: Vec<_> = report()
        .traffic
        .iter()
        .map(|r| r.ratio_to_exit_kernel)
        .collect();
    assert_eq!(ratios, [Some(4.0), Some(1.0), None]);
    let ratios: Vec<_> = report()
        .calls
        .iter()
        .map(|c| c.ratio_to_exit_kernel)
        .collect();
    assert_eq!(ratios, [Some(30.0), Some(1.0)]);
}

#[test]
fn a_run_that_lost_everything_divides_by_nothing() {
    let comparison = Comparison {
        sent: 5,
        lost: 5,
        first_difference: Some(1),
        ..Comparison::default()
    };
    let row = TrafficRow::new(
        CallPath::Direct,
        "pcap",
        1,
        &comparison,
        BTreeMap::new(),
        &costs(10),
    );
    assert!(!row.is_intact());
    assert!(row.total_instructions_per_packet.is_finite());
}

#[test]
fn json_has_the_agreed_fields() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    report().write_json(&file).unwrap();
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(json["source"], "emulated");
    let row = &json["traffic"][0];
    assert_eq!(row["path"], "elisa");
    assert_eq!(row["input"], "pcap");
    for (field, value) in [
        ("batch", json!(1)),
        ("sent", json!(100)),
        ("received", json!(100)),
        ("lost", json!(0)),
        ("reordered", json!(0)),
        ("altered", json!(0)),
        ("vm_exits_per_packet", json!(1.0)),
        ("vmfuncs_per_packet", json!(3.0)),
        ("guest_instructions_per_packet", json!(250.0)),
        ("total_instructions_per_packet", json!(500.0)),
        ("ratio_to_exit_kernel", json!(4.0)),
    ] {
        assert_eq!(row[field], value, "{field}");
    }
    let call = &json["calls"][0];
    assert_eq!(call["path"], "elisa");
    for (field, value) in [
        ("guest_instructions", 13.5),
        ("total_instructions", 27.0),
        ("vm_exits", 1.0),
        ("vmfuncs", 3.0),
    ] {
        assert_eq!(call[field], value, "{field}");
    }
    assert_eq!(json["meta"]["revision"], "0123456");
}

#[test]
fn the_table_labels_every_row() {
    let text = report().to_string();
    for line in text.lines().filter(|line| line.starts_with("elisa")) {
        assert!(line.ends_with("emulated"), "{line}");
    }
    assert_eq!(text.matches("emulated").count(), 5);
    assert!(text.contains("4.00"), "{text}");
}

#[test]
fn drops_are_named() {
    let mut row = row(CallPath::Elisa, 1, 50_000);
    row.dropped = BTreeMap::from([("full".into(), 3), ("too_long".into(), 0)]);
    let report = DemoReport::new(Source::Hardware, vec![row], vec![], report().meta);
    let text = report.to_string();
    assert!(
        text.contains("full 3") && !text.contains("too_long"),
        "{text}"
    );
    assert!(text.contains("hardware"));
}
