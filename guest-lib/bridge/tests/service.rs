//! The bridge's unit for systemd, as systemd reads it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::fs;
use std::process::Command;

/// What systemd finds wrong with a unit; nothing where there is no systemd to ask.
fn verify(unit: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postern-bridge.service");
    fs::write(&path, unit).unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).arg(&path);
    let Ok(output) = command.output() else {
        println!("SKIP: there is no systemd-analyze; install systemd");
        return None;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() || !said.is_empty(), "{output:?}");
    // Other units of this host may have faults of their own.
    let ours = said.lines().filter(|line| line.contains("postern-bridge"));
    Some(ours.collect::<Vec<_>>().join("\n"))
}

#[test]
fn systemd_takes_the_unit() {
    let unit = include_str!("../postern-bridge.service");
    let program = "/usr/local/sbin/postern-bridge";
    assert!(unit.contains(program));
    let built = unit.replace(program, env!("CARGO_BIN_EXE_postern-bridge"));
    let Some(said) = verify(&built) else {
        return;
    };
    assert_eq!(said, "");
    // It would tell.
    let wrong = built.replace("RuntimeDirectory=", "RuntimeFolder=");
    let said = verify(&wrong).unwrap();
    assert!(said.contains("RuntimeFolder"), "{said}");
    let missing = verify(&unit.replace(program, "/no/such/program")).unwrap();
    assert!(missing.contains("/no/such/program"), "{missing}");
}
