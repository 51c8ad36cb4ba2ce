//! The host keeps its processor: a guest that never lets go of it, with interrupts off, is preempted
//! like any other process.

use anyhow::{Context, Result, ensure};

use crate::machine_test::{Boot, Judge, Kvm, Test};
use postern_lab::job::{Job, JobOutcome};
use postern_lab::setup::{Flavour, Programs};

/// Most instructions from a signal to the end of a spinning VM: a tenth of an emulated second.
const MAX_TO_END: u64 = 10_000_000;

/// The most that work may take beside a spinning VM, as a multiple of what it takes alone. Two that
/// share the processor fairly have half of it each.
const MAX_SLOWDOWN: u64 = 3;

/// The patched modules without views, in the emulated machine alone: it is judged by its counters.
const BOOT: Boot = Boot {
    flavour: Flavour::Small,
    kvm: Kvm::Patched(""),
};

pub(super) const TESTS: &[Test] = &[Test {
    name: "preemption/a VM that spins with interrupts off ends by SIGTERM and delays no other",
    boot: BOOT,
    job: spin,
    judge: Judge::Whole(preempted),
}];

/// Offset of the code in [`spinning_kernel`]'s file: behind both headers.
const CODE_OFFSET: u64 = 64 + 56;
/// Guest address of the code.
const CODE: u64 = 0x20_0000;

/// A kernel whose only code is `cli; jmp $`: an ELF file of one segment.
fn spinning_kernel() -> Vec<u8> {
    let code = [0xfa, 0xeb, 0xfe];
    let size = CODE_OFFSET + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let mut words = |size: usize, values: &[u64]| {
        for value in values {
            file.extend(&value.to_le_bytes()[..size]);
        }
    };
    // An executable, for x86-64; its entry; where the program headers are; no sections.
    words(2, &[2, 62]);
    words(4, &[1]);
    words(8, &[CODE, 64, 0]);
    words(4, &[0]);
    words(2, &[64, 56, 1, 0, 0, 0]);
    // The segment, loaded, with all permissions: offset, addresses, sizes, alignment.
    words(4, &[1, 7]);
    words(8, &[CODE_OFFSET, CODE, CODE, code.len() as u64]);
    words(8, &[code.len() as u64, 0x1000]);
    file.extend(code);
    assert_eq!(file.len() as u64, size);
    file
}

/// The other VM is that of `exitcost`, which makes exits for all of its time.
fn spin(programs: &Programs) -> Job {
    let script = "
other() { ./exitcost > other.log 2>&1 || { cat other.log; exit 90; }; }
./postern-init counters
other
./postern-init counters
./postern run --kernel spin --memory 16M & spin=$!
# So long that the VM has spun for most of it, whatever its VMM has to do first.
sleep 1
kill -0 $spin || exit 91
./postern-init counters
other
./postern-init counters
kill -TERM $spin; wait $spin; status=$?
./postern-init counters
exit $status
";
    Job::new("spin", script)
        .bytes("spin", spinning_kernel())
        .file("postern", &programs.postern)
        .file("postern-init", &programs.init)
        .file("exitcost", &programs.exitcost)
}

fn preempted(outcome: JobOutcome) -> Result<()> {
    let text = outcome.text();
    // 128 and the number of SIGTERM.
    ensure!(
        outcome.status == Some(143),
        "status {:?}; it printed {text}",
        outcome.status
    );
    let counters = text
        .lines()
        .filter(|line| line.starts_with("instructions "))
        .map(|line| -> Option<[u64; 2]> {
            // instructions N guest N ...
            let mut words = line.split(' ').skip(1).step_by(2);
            let mut number = || words.next()?.parse().ok();
            Some([number()?, number()?])
        })
        .collect::<Option<Vec<_>>>()
        .context("counters that are no numbers")?;
    let [begin, alone, spinning, beside, end] = counters[..] else {
        anyhow::bail!("it printed {text}");
    };
    let [instructions, guest] = [0, 1].map(|index| {
        let since = |a: [u64; 2], b: [u64; 2]| b[index].saturating_sub(a[index]);
        [
            since(begin, alone),
            since(alone, spinning),
            since(spinning, beside),
            since(beside, end),
        ]
    });
    ensure!(
        guest[1] > instructions[1] / 2 && guest[2] > instructions[2] / 3,
        "the VM does not spin, so the test shows nothing: {guest:?} of {instructions:?} instructions \
         in guests"
    );
    ensure!(
        instructions[2] <= MAX_SLOWDOWN * instructions[0],
        "work of {} instructions took {} beside the VM that spins",
        instructions[0],
        instructions[2]
    );
    ensure!(
        instructions[3] <= MAX_TO_END,
        "the VM ended {} instructions after SIGTERM",
        instructions[3]
    );
    Ok(())
}
