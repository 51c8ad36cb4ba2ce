//! Who wakes a VM that sleeps, by path.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine_test::{Boot, Judge, Test};
use postern_lab::job::{Job, JobOutcome};

pub(super) const TESTS: &[Test] = &[Test {
    name: "bells/on exit-kernel the host's kernel rings for VMs that sleep, and no guest does",
    boot: Boot::VIEWS,
    job: |programs| {
        let job = Job::new("bells", BELLS)
            .file("postern", &programs.postern)
            .file("guest", &programs.bare_guest)
            .file("nic-image", &programs.nic_image)
            .timeout(Duration::from_secs(600));
        ["echo.json", "ping.json"].into_iter().fold(job, Job::fetch)
    },
    judge: Judge::Whole(who_rings),
}];

/// Exchanges of [`BELLS`] on each path.
const EXCHANGES: u64 = 64;

/// Two VMs send a frame to and fro, and each is asleep until it comes: on elisa, where guests ring, and
/// on exit-kernel.
const BELLS: &str = r#"
./postern nic --socket nic.sock --ports 2 --image nic-image > nic.log 2>&1 & nic=$!
while [ ! -S nic.sock ]; do kill -0 $nic || { cat nic.log; exit 90; }; sleep 0.01; done
for path in elisa exit-kernel; do
    vm="./postern run --kernel guest --memory 16M --nic nic.sock --path $path --serial -"
    $vm --port 0 --stats echo.json --cmdline 'role=echo frames=64 sleep=on' > echo.log 2>&1 & echo=$!
    $vm --port 1 --stats ping.json --cmdline 'role=ping frames=64 batch=1 sleep=on' > ping.log 2>&1
    echo "ping ended with $?"; wait $echo; echo "echo ended with $?"
    echo "on $path:"; cat ping.log echo.log
done
kill $nic; wait $nic
"#;

/// On elisa the guests rang, and on exit-kernel the host's kernel did, for all frames but those that came
/// before their receiver slept.
fn who_rings(outcome: JobOutcome) -> Result<()> {
    let outcome = outcome.success()?;
    let text = outcome.text();
    ensure!(
        text.matches(" ended with 0").count() == 4,
        "a VM ended otherwise: {text}"
    );
    let (elisa, exit_kernel) = text
        .split_once("on exit-kernel:")
        .context("no second path")?;
    for role in ["ping", "echo"] {
        let begin = format!("result role={role} frames={EXCHANGES} rings=");
        let rings = |text: &str| -> Result<u64> {
            let (_, rest) = text
                .split_once(&begin)
                .with_context(|| format!("no line {begin:?} in {text}"))?;
            let number = rest.split_ascii_whitespace().next().unwrap_or_default();
            number.parse().context("rings")
        };
        let (guest, none) = (rings(elisa)?, rings(exit_kernel)?);
        let stats: Value = serde_json::from_slice(outcome.file(&format!("{role}.json"))?)?;
        let kernel = stats["final"]["statistics"]["views"][0]["bells"]
            .as_u64()
            .with_context(|| format!("no counter of bells in {stats}"))?;
        ensure!(
            guest > EXCHANGES / 2 && kernel > EXCHANGES / 2 && none == 0,
            "{role}: the guest rang {guest} times on elisa and {none} times on exit-kernel, the host's \
             kernel {kernel} times"
        );
    }
    Ok(())
}
