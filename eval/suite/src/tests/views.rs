//! The patched KVM's calls.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine_test::{Boot, Judge, Kvm, Test};
use crate::omit;
use postern_lab::job::{Job, JobOutcome};
use postern_lab::setup::{Flavour, Programs};
use postern_lab::testbed::VIEWS;

/// Debian's kernel as it is distributed, with modules built against its headers.
const DEBIAN: Boot = Boot {
    flavour: Flavour::Debian,
    kvm: Kvm::Patched(VIEWS),
};

/// The patched KVM as most will load it, without hypercalls. No other test boots it, since one of
/// its tests takes the modules out.
const NO_HYPERCALLS: Boot = Boot {
    flavour: Flavour::Small,
    kvm: Kvm::Patched("ept_views=1 ept_views_insist=1 ept_views_hypercall=0"),
};

/// A test of viewtest that fails where a defence is left out, for the reason that has these words.
macro_rules! fails {
    ($test:literal, $without:literal, $defences:expr, $words:literal) => {
        Test {
            name: concat!("views/", $test, " fails ", $without),
            boot: Boot {
                flavour: Flavour::Small,
                kvm: Kvm::Weakened($defences),
            },
            job: |programs| job(programs, concat!("./viewtest \"", $test, "\"")),
            judge: Judge::Whole(|outcome| has_failed(&outcome, $test, $words)),
        }
    };
}

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "views",
        boot: Boot::VIEWS,
        job: |programs| job(programs, "./viewtest"),
        judge: Judge::Lines,
    },
    Test {
        name: "views/calls work on Debian's own kernel",
        boot: DEBIAN,
        job: |programs| job(programs, "uname -r; ./viewtest 'a call' 'large pages'"),
        judge: Judge::Whole(|outcome| {
            let text = outcome.success()?.text();
            ensure!(
                text.contains("-cloud-amd64\nok a call")
                    && text.contains("ok large pages of the host"),
                "it printed {text:?}"
            );
            Ok(())
        }),
    },
    Test {
        name: "views/the kernel's selftest",
        boot: Boot::VIEWS,
        job: |_| Job::new("selftest", "./test"),
        judge: Judge::Selftest,
    },
    Test {
        name: "views/without the parameter there are no hypercalls, and the module can be unloaded",
        boot: NO_HYPERCALLS,
        job: |programs| {
            let script = "
./viewtest 'hypercalls need' 'rights to the host' 'a call' revo && rmmod kvm_intel && rmmod kvm
";
            job(programs, script)
        },
        judge: Judge::Whole(|outcome| {
            let text = outcome.success()?.text();
            ensure!(
                text.contains("ok hypercalls need the module's parameter"),
                "it printed {text:?}"
            );
            Ok(())
        }),
    },
    Test {
        name: "views/an abort in the stub hands out no stack pointer, where breakpoints stop it there",
        boot: Boot {
            flavour: Flavour::Small,
            kvm: Kvm::Weakened(omit::DEBUG),
        },
        job: |programs| job(programs, "./viewtest 'an abort in the stub'"),
        judge: Judge::Whole(|outcome| outcome.success().map(drop)),
    },
    Test {
        name: "views/a view that is active when it must not be kills the VM",
        boot: Boot {
            flavour: Flavour::Small,
            kvm: Kvm::Weakened(omit::SETTERS),
        },
        job: |programs| job(programs, "./viewtest 'a view that is active'"),
        judge: Judge::Whole(|outcome| {
            let warnings = outcome.kernel_warnings();
            ensure!(
                outcome.status == Some(0)
                    && warnings.len() == 1
                    && warnings[0].contains("ept_view_before_entry"),
                "status {:?}, warnings {warnings:?}: {}",
                outcome.status,
                outcome.text()
            );
            Ok(())
        }),
    },
    fails!(
        "no breakpoint of user space observes a service",
        "where breakpoints are allowed",
        omit::DEBUG,
        "a view was entered"
    ),
    fails!(
        "no breakpoint of the guest observes a service",
        "where breakpoints are allowed",
        omit::DEBUG,
        "a view was entered"
    ),
    fails!(
        "an abort in the gate hands out no stack pointer",
        "where an abort looks at RSP alone",
        omit::RSP,
        "rsp: 7ff8"
    ),
    fails!(
        "an abort in the stub hands out no stack pointer",
        "where an abort looks at RSP alone",
        omit::RSP | omit::DEBUG,
        "rsp: 7ff8"
    ),
    fails!(
        "a service that leaves CPL 3 ends at CPL 3",
        "where segments stay the service's",
        omit::CPL,
        "it ended at CPL 0"
    ),
    fails!(
        "an abort leaves nothing in vector registers",
        "where an abort leaves them alone",
        omit::VECTORS,
        "bytes of vector registers are shown"
    ),
    fails!(
        "INIT leaves nothing in vector registers",
        "where an abort leaves them alone",
        omit::VECTORS,
        "bytes of vector registers are shown"
    ),
    fails!(
        "getters show no vector register of a call",
        "where they are not masked",
        omit::VECTORS,
        "bytes of vector registers are shown"
    ),
    fails!(
        "setting state aborts a call",
        "where setters do not abort",
        omit::SETTERS,
        "did not abort"
    ),
    fails!(
        "a revoked grant attaches nobody, and its slots are closed",
        "where vCPUs do not look at revocations",
        omit::REVOKE,
        "Out(0)"
    ),
    fails!(
        "revoking stops a vCPU that spins",
        "where vCPUs do not look at revocations",
        omit::REVOKE,
        "Out(0)"
    ),
    fails!(
        "revoking aborts a call",
        "where vCPUs do not look at revocations",
        omit::REVOKE,
        "Out(0)"
    ),
    fails!(
        "after a revocation nothing runs in the view",
        "where vCPUs do not look at revocations",
        omit::REVOKE,
        "calls after the revocation"
    ),
    fails!(
        "a member is attached to one vCPU at a time",
        "where members are not claimed",
        omit::MEMBER,
        "wanted EBUSY"
    ),
    fails!(
        "a CPUID set later disarms views",
        "where counters are allowed",
        omit::PMU,
        "with Pmu the call ended with Out(0)"
    ),
    Test {
        name: "views/a million calls on elisa under a timer of 5 kHz",
        boot: Boot::VIEWS,
        job: |programs| calls_under_timer(programs, "elisa"),
        judge: Judge::Whole(interrupts_waited),
    },
    Test {
        name: "views/a million calls on elisa-strict under a timer of 5 kHz",
        boot: Boot::VIEWS,
        job: |programs| calls_under_timer(programs, "elisa-strict"),
        judge: Judge::Whole(interrupts_waited),
    },
    Test {
        name: "views/owners of a NIC are killed while VMs send on elisa, and others go on with it",
        boot: Boot::VIEWS,
        job: |programs| {
            let job = Job::new("owners", OWNERS)
                .file("postern", &programs.postern)
                .file("guest", &programs.bare_guest)
                .file("nic-image", &programs.nic_image)
                .timeout(Duration::from_secs(600));
            let files = ["before.json", "after.json", "paths.json"];
            files.into_iter().fold(job, Job::fetch)
        },
        judge: Judge::Whole(nothing_is_lost),
    },
];

/// How often the owner is killed in [`OWNERS`].
const KILLED: usize = 3;

/// Two VMs exchange frames all the time, each checked, while the owner of their NIC is killed and
/// another one comes. Each time two others begin with the owner, exchange their frames without one,
/// and end; then the next owner lets their ports anew.
const OWNERS: &str = r#"
owner() {
    ./postern nic --socket nic.sock --ports 4 --image nic-image >> nic.log 2>&1 & nic=$!
    until ./postern nic show nic.sock > ports 2> why; do
        kill -0 $nic || { cat nic.log why; exit 90; }
        sleep 0.05
    done
}
# Waits until so many ports are that.
ports() {
    polls=0
    until [ $(./postern nic show nic.sock | grep -c $2) = $1 ]; do
        polls=$((polls + 1))
        [ $polls -lt 200 ] || { echo "$1 ports are never $2"; ./postern nic show nic.sock; exit 94; }
        sleep 0.05
    done
}
vm='./postern run --kernel guest --memory 16M --nic nic.sock --path elisa --serial -'
owner
for port in 0 1 2 3; do
    ./postern nic set nic.sock $port isolation=community:$((port / 2)) || exit 91
done
$vm --port 0 --cmdline 'role=echo timer=100 patience=100000' & echo=$!
$vm --port 1 --cmdline 'role=ping frames=endless timer=100 patience=100000' & ping=$!
ports 2 attached
./postern nic show nic.sock counters --json > before.json
for time in 1 2 3; do
    $vm --port 2 --cmdline 'role=echo frames=3000 timer=100' & echo2=$!
    $vm --port 3 --cmdline 'role=ping frames=3000 timer=100' & ping2=$!
    ports 4 attached
    kill -9 $nic; wait $nic
    wait $ping2; echo "ping ended with $?"; wait $echo2; echo "echo ended with $?"
    ./postern nic stop nic.sock 2> why; echo "stop ended with $?"; cat why
    owner
    ports 2 vacant
done
./postern nic show nic.sock counters --json > after.json
./postern nic show nic.sock paths --json > paths.json
./postern nic show nic.sock policies --json | grep -c community
kill -0 $echo && kill -0 $ping || { echo 'a VM has ended by itself'; exit 92; }
kill $ping; wait $ping; kill $echo; wait $echo
./postern nic stop nic.sock && wait $nic || { cat nic.log; exit 93; }
cat nic.log
"#;

/// All frames went on, also without an owner; the next one has what there was before.
fn nothing_is_lost(outcome: JobOutcome) -> Result<()> {
    let outcome = outcome.success()?;
    let text = outcome.text();
    let count = |words: &str| text.matches(words).count();
    ensure!(
        count("ping ended with 0") == KILLED
            && count("echo ended with 0") == KILLED
            && count("\n4\n") == 1
            && count("stop ended with 66") == KILLED
            && count("has ended, and the NIC is kept") == KILLED
            && count(", taken over") == KILLED,
        "{text}"
    );
    let json = |name| Ok::<Value, anyhow::Error>(serde_json::from_slice(outcome.file(name)?)?);
    let (before, after) = (json("before.json")?, json("after.json")?);
    for port in [0, 1] {
        let (before, after) = (&before["ports"][port], &after["ports"][port]);
        let sent = |counters: &Value| counters["tx_frames"].as_u64();
        ensure!(
            sent(before) < sent(after),
            "port {port} sent nothing: {before} {after}"
        );
        let drops = after["drops"].as_object().context("no drops")?;
        // Before the others came, the echo told nobody of itself.
        let lost = |(cause, count): (&String, &Value)| *count != 0 && cause != "no_destination";
        ensure!(!drops.iter().any(lost), "port {port} lost frames: {after}");
    }
    let template = &json("paths.json")?["template"];
    ensure!(
        template["grants"] == 2 && template["attachments"] == 2 && template["former"] == 0,
        "the last owner has another template: {template}"
    );
    Ok(())
}

fn calls_under_timer(programs: &Programs, path: &str) -> Job {
    let script = format!(
        "
./postern nic --socket nic.sock --ports 2 --image nic-image > nic.log 2>&1 & nic=$!
while [ ! -S nic.sock ]; do kill -0 $nic || {{ cat nic.log; exit 90; }}; sleep 0.01; done
./postern run --kernel guest --memory 16M --nic nic.sock --port 0 --path {path} --serial - \
    --stats stats.json --cmdline 'role=calls calls=1000000 timer=5000'; status=$?
kill $nic; wait $nic; exit $status
"
    );
    Job::new("calls", &script)
        .file("postern", &programs.postern)
        .file("guest", &programs.bare_guest)
        .file("nic-image", &programs.nic_image)
        .fetch("stats.json")
        .timeout(Duration::from_secs(600))
}

/// Interrupts came while a view was active, each waited for the call's return, and no call was
/// lost.
fn interrupts_waited(outcome: JobOutcome) -> Result<()> {
    let outcome = outcome.success()?;
    let stats: Value = serde_json::from_slice(outcome.file("stats.json")?)?;
    let counter = |name: &str| {
        stats["final"]["statistics"]["views"][0][name]
            .as_u64()
            .with_context(|| format!("no counter {name} in {stats}"))
    };
    ensure!(
        counter("aborts")? == 0,
        "{} calls were aborted",
        counter("aborts")?
    );
    ensure!(
        counter("deferred_leaves")? > 0,
        "no interrupt came during a call, so the test shows nothing"
    );
    Ok(())
}

/// The test has failed, for the reason that has these words.
fn has_failed(outcome: &JobOutcome, test: &str, words: &str) -> Result<()> {
    let text = outcome.text();
    let failure = format!("FAILED {test}: ");
    let failed = text.lines().find(|line| line.starts_with(&failure));
    ensure!(
        failed.is_some_and(|line| line.contains(words)),
        "it did not fail for the reason that has {words:?}, so the test could not fail: {text}"
    );
    Ok(())
}

fn job(programs: &Programs, script: &str) -> Job {
    Job::new("views", script)
        .file("viewtest", &programs.viewtest)
        .timeout(Duration::from_secs(600))
}
