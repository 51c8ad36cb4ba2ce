//! Attacks of a hostile guest on views, each with all defences and each without the one that repels
//! it: a test that cannot fail proves nothing.
//!
//! While the attacker works, another VM waits for frames; afterwards a third one exchanges frames
//! with it through the same NIC, and the host's kernel must have logged no warning.

use std::path::Path;

use anyhow::{Result, ensure};
use postern_abi::guest_words::SUCCEEDED;
use postern_bench::attack;

use crate::machine_test::{Boot, Judge, Kvm, Test};
use crate::omit;
use postern_lab::job::{Job, JobOutcome};
use postern_lab::setup::{Flavour, Programs};

/// A build that leaves out these defences.
const fn without(defences: u32) -> Boot {
    Boot {
        flavour: Flavour::Small,
        kvm: Kvm::Weakened(defences),
    }
}

macro_rules! repelled {
    ($attack:literal, $path:literal) => {
        Test {
            name: concat!("attacks/", $attack, " on ", $path, " is repelled"),
            boot: Boot::VIEWS,
            job: |programs| attack::job(programs, &programs.nic_image, $attack, $path),
            judge: Judge::Whole(is_repelled),
        }
    };
}

macro_rules! succeeds {
    ($attack:literal, $without:literal, $defences:expr) => {
        Test {
            name: concat!("attacks/", $attack, " succeeds ", $without),
            boot: without($defences),
            job: |programs| attack::job(programs, &programs.nic_image, $attack, "elisa"),
            judge: Judge::Whole(succeeds),
        }
    };
}

/// The attack `no-secret`, which the NIC counts besides.
macro_rules! refused {
    ($path:literal) => {
        Test {
            name: concat!("attacks/no-secret on ", $path, " is repelled"),
            boot: Boot::VIEWS,
            job: |programs| attack::job(programs, &programs.nic_image, "no-secret", $path),
            judge: Judge::Whole(is_repelled_and_counted),
        }
    };
}

/// An attack on what a call has in common with its caller's processor, for which the waiting VM has to
/// send back what it gets.
macro_rules! repelled_beside_echo {
    ($attack:literal, $path:literal) => {
        Test {
            name: concat!("attacks/", $attack, " on ", $path, " is repelled"),
            boot: Boot::VIEWS,
            job: |programs| attack::beside_echo(programs, &programs.nic_image, $attack, $path),
            judge: Judge::Whole(is_repelled),
        }
    };
}

/// Test of an attack on a path that has no defence against it.
const READ_NIC_DIRECT: Test = Test {
    name: "attacks/read-nic succeeds on direct, which has no isolation",
    boot: Boot::VIEWS,
    job: |programs| attack::job(programs, &programs.nic_image, "read-nic", "direct"),
    judge: Judge::Whole(succeeds),
};

pub(super) const TESTS: &[Test] = &[
    repelled!("vmfunc-direct", "elisa"),
    repelled!("vmfunc-direct", "elisa-strict"),
    repelled!("gate-offsets", "elisa"),
    repelled!("gate-offsets", "elisa-strict"),
    repelled!("cr3-packet", "elisa"),
    repelled!("cr3-packet", "elisa-strict"),
    repelled!("breakpoint", "elisa"),
    repelled!("breakpoint", "elisa-strict"),
    repelled!("idt", "elisa"),
    repelled!("idt", "elisa-strict"),
    repelled!("read-nic", "elisa"),
    repelled!("read-nic", "elisa-strict"),
    repelled!("cpl0", "elisa"),
    repelled!("cpl0", "elisa-strict"),
    refused!("elisa"),
    refused!("elisa-strict"),
    refused!("exit-kernel"),
    refused!("exit-user"),
    Test {
        name: "attacks/no-secret succeeds where requests need no secret",
        boot: Boot::VIEWS,
        job: |programs| attack::job(programs, &programs.open_image, "no-secret", "elisa"),
        judge: Judge::Whole(succeeds),
    },
    repelled_beside_echo!("direction-flag", "elisa"),
    repelled_beside_echo!("direction-flag", "elisa-strict"),
    repelled_beside_echo!("vector-registers", "elisa"),
    repelled_beside_echo!("vector-registers", "elisa-strict"),
    Test {
        name: "attacks/direction-flag succeeds where neither stub nor copy clears it",
        boot: without(omit::CLD),
        job: |programs| {
            attack::beside_echo(
                programs,
                &programs.careless_image,
                "direction-flag",
                "elisa",
            )
        },
        judge: Judge::Whole(succeeds),
    },
    Test {
        name: "attacks/vector-registers succeeds where they are left as they are",
        boot: Boot::VIEWS,
        job: |programs| {
            attack::beside_echo(
                programs,
                &programs.careless_image,
                "vector-registers",
                "elisa",
            )
        },
        judge: Judge::Whole(succeeds),
    },
    Test {
        name: "attacks/kill -9 in the middle of calls on elisa harms nobody else",
        boot: Boot::VIEWS,
        job: |programs| killed_senders(programs, &programs.nic_image, "elisa"),
        judge: Judge::Whole(others_go_on),
    },
    Test {
        name: "attacks/kill -9 in the middle of calls on elisa-strict harms nobody else",
        boot: Boot::VIEWS,
        job: |programs| killed_senders(programs, &programs.nic_image, "elisa-strict"),
        judge: Judge::Whole(others_go_on),
    },
    Test {
        name: "attacks/kill -9 in the middle of calls succeeds where senders take a lock",
        boot: Boot::VIEWS,
        job: |programs| killed_senders(programs, &programs.locking_image, "elisa"),
        judge: Judge::Whole(others_are_stuck),
    },
    READ_NIC_DIRECT,
    Test {
        name: "attacks/a build that can leave defences out taints the kernel",
        boot: without(omit::ARM),
        job: |_| taint(true),
        judge: Judge::Whole(|outcome| outcome.success().map(drop)),
    },
    Test {
        name: "attacks/a build with all defences does not",
        boot: Boot::VIEWS,
        job: |_| taint(false),
        judge: Judge::Whole(|outcome| outcome.success().map(drop)),
    },
    succeeds!(
        "vmfunc-direct",
        "where the entry is always valid",
        omit::ARM
    ),
    succeeds!("cr3-packet", "where CR3 is followed", omit::ELSEWHERE),
    succeeds!(
        "breakpoint",
        "where an abort leaves the list alone",
        omit::DISARM | omit::DEBUG
    ),
    succeeds!(
        "idt",
        "where events enter views",
        omit::EVENTS | omit::MODE | omit::CPL | omit::RSP
    ),
    succeeds!("cpl0", "where SMEP and SMAP are not needed", omit::MODE),
];

/// Whether the kernel says that its user did something to it (TAINT_USER), as it must.
fn taint(expected: bool) -> Job {
    let script = format!(
        "[ $((($(cat /proc/sys/kernel/tainted) >> 6) & 1)) = {} ]",
        u8::from(expected)
    );
    Job::new("taint", &script)
}

/// While two VMs exchange frames, VMs that send as fast as they can, nearly all of their time
/// inside a call, are killed, each at another moment; the next one gets the port of the last.
fn killed_senders(programs: &Programs, image: &Path, path: &str) -> Job {
    let script = "
timeout 60 $vm --port 1 --cmdline 'role=ping frames=10000 timer=100' & ping=$!
sleep 0.5
for moment in 0.11 0.13 0.17 0.19 0.23 0.29 0.31 0.37; do
    $vm --port 2 --cmdline 'role=send input=64 frames=endless batch=256 hello=off timer=1000' &
    sender=$!
    sleep $moment
    kill -9 $sender || echo 'the sender ended by itself'
    wait $sender; echo \"sender ended with $?\"
done
kill -0 $ping || echo 'ping was done before the senders'
wait $ping; echo \"ping ended with $?\"
";
    attack::with_echo(programs, image, "kill -9", path, script)
}

fn others_go_on(outcome: JobOutcome) -> Result<()> {
    let text = outcome.success()?.text();
    let killed = text.matches("sender ended with 137").count();
    ensure!(
        killed == 8 && text.contains("ping ended with 0") && !text.contains("ping was done before"),
        "{killed} senders of 8 were killed: {text}"
    );
    Ok(())
}

/// A sender that was killed with the lock in its hands has stopped the others.
fn others_are_stuck(outcome: JobOutcome) -> Result<()> {
    let text = outcome.text();
    ensure!(
        text.contains("ping ended with ") && !text.contains("ping ended with 0"),
        "the others went on, so the test of killed senders could not fail: {text}"
    );
    Ok(())
}

fn is_repelled(outcome: JobOutcome) -> Result<()> {
    attack::check_repelled(&outcome.success()?.text())
}

fn is_repelled_and_counted(outcome: JobOutcome) -> Result<()> {
    let text = outcome.text().to_owned();
    is_repelled(outcome)?;
    ensure!(text.contains(" requests_without_secret 1000"), "{text}");
    Ok(())
}

/// Without its defence the attack is seen to work; what becomes of the host then is no question.
fn succeeds(outcome: JobOutcome) -> Result<()> {
    let text = outcome.text();
    ensure!(
        text.contains(&format!(": {SUCCEEDED}: ")),
        "the attack did not succeed, so its test could not fail: {text}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_abi::guest_words::attack;

    use super::TESTS;

    /// Names of tests are written by hand; each attack that the guest knows has its tests.
    #[test]
    fn each_attack_is_repelled_on_both_paths_and_named_as_the_guest_names_it() {
        for name in attack::ALL {
            for path in ["elisa", "elisa-strict"] {
                let name = format!("attacks/{name} on {path} is repelled");
                assert!(TESTS.iter().any(|test| test.name == name), "{name}");
            }
        }
        // The rest are no attacks of a guest's program.
        let others = ["kill -9", "attacks/a build "];
        let attacks = TESTS
            .iter()
            .filter(|test| !others.iter().any(|other| test.name.contains(other)));
        for test in attacks {
            let known = |name: &&str| test.name.starts_with(&format!("attacks/{name} "));
            assert!(attack::ALL.iter().any(known), "{}", test.name);
        }
    }
}
