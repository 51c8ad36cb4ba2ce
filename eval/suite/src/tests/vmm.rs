//! The VMM's own tests that need KVM.

use std::time::Duration;

use crate::machine_test::{Boot, Judge, Test};
use postern_lab::job::Job;
use postern_lab::setup::Programs;

/// The VMM's unit tests, of which only a few run in a machine.
pub const UNIT_TESTS: &str = "postern_vmm";

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "vmm/attach_view",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("attach_view"),
    },
    Test {
        name: "vmm/boot",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("boot"),
    },
    Test {
        name: "vmm/console",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("console"),
    },
    Test {
        name: "vmm/lifecycle",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("lifecycle"),
    },
    Test {
        name: "vmm/library",
        boot: Boot::VIEWS,
        job: |programs| {
            job(
                programs,
                "statistics_of_a_real_vm this_machine_can_be_judged",
            )
        },
        judge: Judge::VmmTests(UNIT_TESTS),
    },
    Test {
        name: "vmm/confined",
        boot: Boot::VIEWS,
        job: |programs| {
            Job::new("confined", "./inject ./postern ./image")
                .file("inject", &programs.inject)
                .file("postern", &programs.postern)
                .file("image", &programs.nic_image)
                .timeout(Duration::from_secs(600))
        },
        judge: Judge::Lines,
    },
    Test {
        name: "vmm/an abort ends the VM, if it is to, and is reported",
        boot: Boot::VIEWS,
        job: |programs| {
            Job::new("exit-on-abort", EXIT_ON_ABORT)
                .file("postern", &programs.postern)
                .file("guest", &programs.bare_guest)
                .file("nic-image", &programs.nic_image)
                .timeout(Duration::from_secs(200))
        },
        judge: Judge::Whole(|outcome| outcome.success().map(drop)),
    },
];

/// A guest whose call is aborted, in a VM that ends then.
const EXIT_ON_ABORT: &str = r#"
./postern nic --socket nic.sock --ports 2 --image nic-image > nic.log 2>&1 & nic=$!
while [ ! -S nic.sock ]; do kill -0 $nic || { cat nic.log; exit 90; }; sleep 0.01; done
./postern run --kernel guest --memory 16M --nic nic.sock --port 0 --path elisa --serial - \
    --cmdline 'role=attack attack=cpl0 timer=1000' --exit-on-abort --stats stats.json
status=$?
kill $nic; wait $nic || { cat nic.log; exit 91; }
cat stats.json
[ $status = 68 ] && grep -q '"kind": "aborted-call"' stats.json && grep -q '"seccomp": true' stats.json
"#;

/// Runs the tests that are named, or all of the program.
fn job(programs: &Programs, names: &str) -> Job {
    let script = format!("POSTERN=$PWD/postern ./test --test-threads 1 --show-output {names}");
    Job::new("vmm", &script)
        .file("postern", &programs.postern)
        .timeout(Duration::from_secs(600))
}
