//! Takes over the threads of a running VMM, as a guest that has broken out of its VM would, and has
//! them make system calls that they must not. As root, by ptrace(2): the filters of the VMM are the
//! only defence that is left.
//!
//! `postern-inject POSTERN IMAGE` prints `ok NAME` or `FAILED NAME: reason` for each test; the
//! exit status is 0 if all passed. Words after these choose tests by a part of their name.

mod attacks;
mod trace;
mod vmm;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use attacks::{ATTACKS, Attack, EXECUTED, EXECUTED_STATUS};
use trace::{Made, Stopped};
use vmm::{Host, Seccomp};

/// Threads of a VMM by the names that the kernel shows, and what the VMM calls them.
const THREADS: [(&str, &str); 7] = [
    ("postern", "main"),
    ("starter", "starter"),
    ("signals", "signals"),
    ("console", "console"),
    ("nic-bells", "bells"),
    ("nic-end", "NIC end"),
    ("vcpu0", "vCPU"),
];

/// The status that `postern run` ends with when a thread makes a refused call (`status.rs` of the
/// VMM).
const REFUSED_CALL: i32 = 73;

fn main() -> ExitCode {
    let mut words = std::env::args();
    if words.next().as_deref() == Some(EXECUTED) {
        return ExitCode::from(EXECUTED_STATUS);
    }
    let words: Vec<String> = words.collect();
    let [postern, image, wanted @ ..] = &words[..] else {
        eprintln!("usage: postern-inject POSTERN IMAGE [WORD...]");
        return ExitCode::FAILURE;
    };
    match run(postern, image, wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAILED the set-up: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all tests passed.
fn run(postern: &str, image: &str, wanted: &[String]) -> Result<bool> {
    let host = Host::new(postern, image)?;
    let mut passed = 0;
    let mut failed = 0;
    let mut test = |name: &str, body: &dyn Fn() -> Result<()>| {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word)) {
            return;
        }
        match body() {
            Ok(()) => {
                passed += 1;
                println!("ok {name}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {name}: {error:#}");
            }
        }
    };
    test("every thread of a running VM is confined", &|| {
        all_are_confined(&host)
    });
    test("with --seccomp off no thread is", &|| {
        none_is_confined(&host)
    });
    for attack in ATTACKS {
        test(&format!("no thread can {}", attack.name), &|| {
            is_repelled(&host, attack)
        });
    }
    for attack in ATTACKS {
        test(
            &format!("with --seccomp off a thread can {}", attack.name),
            &|| succeeds(&host, attack),
        );
    }
    test("another VM has noticed nothing", &|| host.other_is_well());
    Ok(failed == 0 && passed > 0)
}

/// The lines of a thread's status that confinement is in, as they must be.
const CONFINED: [(&str, &str); 7] = [
    ("NoNewPrivs", "1"),
    ("Seccomp", "2"),
    ("CapInh", "0000000000000000"),
    ("CapPrm", "0000000000000000"),
    ("CapEff", "0000000000000000"),
    ("CapBnd", "0000000000000000"),
    ("CapAmb", "0000000000000000"),
];

fn all_are_confined(host: &Host) -> Result<()> {
    let vmm = host.start(Seccomp::On)?;
    let threads = vmm.threads()?;
    for (thread, number) in &threads {
        let status = vmm.status(*number)?;
        for (key, value) in CONFINED {
            let found = status.get(key).map(String::as_str);
            ensure!(found == Some(value), "{thread}: {key} is {found:?}");
        }
    }
    for expected in [
        "postern",
        "starter",
        "signals",
        "nic-end",
        "nic-bells",
        "vcpu0",
    ] {
        let found = threads.iter().any(|(name, _)| name == expected);
        ensure!(found, "there is no thread {expected} among {threads:?}");
    }
    vmm.end()
}

fn none_is_confined(host: &Host) -> Result<()> {
    let vmm = host.start(Seccomp::Off)?;
    for (thread, number) in vmm.threads()? {
        let status = vmm.status(number)?;
        let found = status.get("Seccomp").map(String::as_str);
        ensure!(found == Some("0"), "{thread}: Seccomp is {found:?}");
    }
    vmm.end()
}

/// Each thread of a VMM, of a new one each time, dies of the attack, and says so.
fn is_repelled(host: &Host, attack: &Attack) -> Result<()> {
    let probe = host.start(Seccomp::On)?;
    let threads = probe.threads()?;
    probe.end()?;
    for (thread, _) in threads {
        let Some((_, kind)) = THREADS.iter().find(|(name, _)| *name == thread) else {
            bail!("this test knows no thread {thread}");
        };
        let mut vmm = host.start(Seccomp::On)?;
        let stopped = Stopped::stop(vmm.pid(), vmm.thread(&thread)?)?;
        let made = (attack.first)(&stopped, &vmm, host).with_context(|| thread.clone())?;
        ensure!(
            made == Made::Refused,
            "{thread}: it was not refused: {made:?}"
        );
        let (status, text) = vmm.wait()?;
        let line = format!(
            "postern: a thread ({kind}) made system call {} (",
            attack.number
        );
        ensure!(
            status == Some(REFUSED_CALL) && text.contains(&line),
            "{thread}: the VMM ended with {status:?} and said {text:?}"
        );
    }
    Ok(())
}

/// The same is done by a VMM that is not confined.
fn succeeds(host: &Host, attack: &Attack) -> Result<()> {
    let mut vmm = host.start(Seccomp::Off)?;
    // A program that another thread than the first one executes is lost to who traces that.
    let thread = match attack.number {
        libc::SYS_execve => "postern",
        _ => "vcpu0",
    };
    let stopped = Stopped::stop(vmm.pid(), vmm.thread(thread)?)?;
    let made = (attack.first)(&stopped, &vmm, host)?;
    (attack.done)(made, &stopped, &vmm, host)?;
    drop(stopped);
    vmm.kill();
    Ok(())
}
