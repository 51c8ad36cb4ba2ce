//! Those who use KVM without views: what the patches cost them, and that their VMs make the exits
//! that they always made.
//!
//! Each test compares machines that differ in their modules alone. The kernel's own are of the
//! source that the series is made against, built by the same compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_lab::job::Job;
use postern_lab::machine::EmulatedMachine;
use postern_lab::machine::initramfs::Initramfs;
use postern_lab::setup::{Qemu, Setup};
use postern_lab::testbed::{EmulatedTestbed, VIEWS};

/// The most instructions that the patches add to a VM exit, a VMCALL among them, while no VM has a
/// view.
const MAX_MORE: u32 = 2;

/// The kind of exit after which KVM looks for interrupts to inject, and the most that the patches add
/// to it, as measured: it passes more of their branches, where KVM asks whether one can be injected.
const WITH_EVENTS: (&str, u32) = ("out-pic", MAX_MORE + 3);

/// The most that they add for a VM without views while another VM has one.
const MAX_MORE_BESIDE: u32 = 24;

/// Instructions of each kind of exit, by name, as `postern-exitcost` prints them.
type Costs = BTreeMap<String, u32>;

/// The cost of VM exits that the kernel handles by itself.
pub fn costs(testbed: &EmulatedTestbed) -> Result<()> {
    let alone = || Job::new("alone", "./exitcost").file("exitcost", &testbed.programs.exitcost);
    let stock = run(&testbed.stock_machine(), &[alone()])?.remove(0);
    let off = run(&testbed.machine("")?, &[alone()])?.remove(0);
    let mut on = run(&testbed.machine(VIEWS)?, &[alone(), beside(testbed)])?;
    let (on, beside) = (on.remove(0), on.remove(0));

    let mut table =
        String::from("kind: stock, views off, views on, views on and another VM has one");
    let mut failures = Vec::new();
    for (kind, stock) in &stock {
        let cost = |costs: &Costs| {
            let cost = costs.get(kind).copied();
            cost.with_context(|| format!("no cost of {kind} with the patched modules"))
        };
        let (off, on, beside) = (cost(&off)?, cost(&on)?, cost(&beside)?);
        let max_more = match kind.as_str() {
            kind if kind == WITH_EVENTS.0 => WITH_EVENTS.1,
            _ => MAX_MORE,
        };
        table += &format!("\n{kind}: {stock}, {off}, {on}, {beside}");
        for (cost, max, when) in [
            (off, max_more, "with views off"),
            (on, max_more, "with views on and none attached"),
            (beside, MAX_MORE_BESIDE, "beside a VM with a view"),
        ] {
            if cost > stock + max {
                failures.push(format!("{kind} {when} costs {} more", cost - stock));
            }
        }
    }
    ensure!(failures.is_empty(), "{}\n{table}", failures.join("; "));
    Ok(())
}

/// The same while another VM, which waits for frames, has a view.
fn beside(testbed: &EmulatedTestbed) -> Job {
    let script = "
./postern nic --socket nic.sock --ports 2 --image nic-image > nic.log 2>&1 & nic=$!
while [ ! -S nic.sock ]; do kill -0 $nic || { cat nic.log; exit 90; }; sleep 0.01; done
./postern run --kernel guest --memory 16M --nic nic.sock --port 0 --path elisa --serial - \
    --cmdline 'role=echo timer=100 patience=100000' > vm.log 2>&1 & vm=$!
sleep 0.3
./exitcost; status=$?
kill -0 $vm || { cat vm.log; exit 91; }
kill $vm $nic; wait $vm; wait $nic; exit $status
";
    let programs = &testbed.programs;
    Job::new("beside", script)
        .file("exitcost", &programs.exitcost)
        .file("postern", &programs.postern)
        .file("guest", &programs.bare_guest)
        .file("nic-image", &programs.nic_image)
}

fn run(machine: &EmulatedMachine<'_>, jobs: &[Job]) -> Result<Vec<Costs>> {
    let outcome = machine.run_all(jobs)?;
    if let Some(death) = outcome.death {
        return Err(death.into());
    }
    let costs = outcome.jobs.into_iter().map(|job| {
        let text = job.success()?.text();
        let lines = text.lines().map(|line| {
            let (kind, rest) = line.split_once(' ')?;
            let (median, _) = rest.split_once(' ')?;
            Some((kind.to_owned(), median.parse().ok()?))
        });
        let costs: Option<Costs> = lines.collect();
        costs
            .filter(|costs| !costs.is_empty())
            .with_context(|| format!("it printed {text:?}"))
    });
    costs.collect()
}

/// Reasons of exits that come when time has passed: interrupts of the host, the guest's timer and
/// what its handler does, waits of the firmware that poll a clock.
const TIMED: [&str; 8] = [
    "EPT_VIOLATION",
    "EXTERNAL_INTERRUPT",
    "HLT",
    "INTERRUPT_WINDOW",
    "IO_INSTRUCTION",
    "MSR_WRITE",
    "PAUSE_INSTRUCTION",
    "PREEMPTION_TIMER",
];

/// Exits of one of those reasons that a boot may have more or less than another. There are some ten
/// thousand in all.
const NOISE: u32 = 32;

/// Exits by reason.
type Exits = BTreeMap<String, u32>;

/// Debian's QEMU boots Linux, which switches off again.
pub fn qemu(testbed: &EmulatedTestbed) -> Result<()> {
    let qemu = Setup::open()?.qemu()?;
    let exits = |machine: EmulatedMachine<'_>| exits_of_linux(testbed, &qemu, &machine);
    let stock = exits(testbed.stock_machine()).context("on the kernel's own modules")?;
    for (parameters, what) in [("", "views off"), (VIEWS, "views on")] {
        let when = format!("on the patched modules with {what}");
        let patched = exits(testbed.machine(parameters)?).context(when.clone())?;
        equal_exits(&stock, &patched).context(when)?;
    }
    Ok(())
}

/// Boots Linux by QEMU in a machine, and returns the exits of its vCPU.
fn exits_of_linux(
    testbed: &EmulatedTestbed,
    qemu: &Qemu,
    machine: &EmulatedMachine<'_>,
) -> Result<Exits> {
    // What the guest measures would differ with each instruction of the host's, so it is told. QEMU
    // stops the guest that switches off, so that what it has done can be read.
    let script = format!(
        "
trace=/sys/kernel/tracing
echo 16384 > $trace/buffer_size_kb && echo 1 > $trace/events/kvm/kvm_exit/enable || exit 90
mkfifo requests
{} -accel kvm -cpu host -machine pc,hpet=off -m 64 -display none -serial file:console \
    -action shutdown=pause -qmp stdio -kernel kernel -initrd initrd -append 'console=ttyS0 quiet \
    panic=-1 nokaslr norandmaps no_timer_check tsc=reliable tsc_early_khz=100000 lpj=1000000' \
    < requests > answers 2>&1 & qemu=$!
exec 3> requests
echo '{{\"execute\":\"qmp_capabilities\"}}' >&3
until grep -q '\"STOP\"' answers; do
    kill -0 $qemu || {{ cat answers console; exit 91; }}
    sleep 0.1
done
echo 0 > $trace/tracing_on
cat $trace/trace > exits
echo '{{\"execute\":\"quit\"}}' >&3
wait $qemu || {{ cat answers; exit 92; }}
cat console
",
        Qemu::COMMAND
    );
    let job = Job::new("qemu", &script)
        .file("kernel", &testbed.kernel_tree.kernel.image)
        .bytes("initrd", initrd(testbed)?)
        .fetch("exits")
        .timeout(Duration::from_secs(600));
    let outcome = machine.run(qemu.add_to(job)?)?.success()?;
    let console = outcome.text();
    ensure!(
        console.contains("guest is up") && console.contains("reboot: Power down"),
        "the guest did not boot, or did not switch off: {console}"
    );
    let trace = String::from_utf8_lossy(outcome.file("exits")?);
    count_exits(&trace)
}

/// The guest's initial file system: a shell that says that it is up, and switches off.
fn initrd(testbed: &EmulatedTestbed) -> Result<Vec<u8>> {
    let busybox = &testbed.files.busybox;
    let shell = std::fs::read(busybox).with_context(|| format!("reading {}", busybox.display()))?;
    let script = "#!/bin/busybox sh\necho guest is up\n/bin/busybox poweroff -f\n";
    let mut root = Initramfs::new();
    root.device("dev/console", 5, 1)
        .file("bin/busybox", shell)
        .file("init", script.into());
    Ok(root.archive()?)
}

/// Exits in a trace of the event `kvm_exit`: lines of `... kvm_exit: vcpu 0 reason NAME rip ...`.
fn count_exits(trace: &str) -> Result<Exits> {
    let mut exits = Exits::new();
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        let reason = line
            .split_once(" kvm_exit: ")
            .and_then(|(_, event)| event.split_once("reason "))
            .and_then(|(_, rest)| rest.split(' ').next())
            .with_context(|| format!("no exit: {line:?}"))?;
        *exits.entry(reason.to_owned()).or_default() += 1;
    }
    // entries-in-buffer/entries-written: N/N
    let (kept, written) = trace
        .lines()
        .find_map(|line| line.split_once("entries-written: "))
        .and_then(|(_, numbers)| numbers.split(' ').next()?.split_once('/'))
        .context("a trace without a head")?;
    ensure!(
        kept == written,
        "of {written} exits only {kept} were kept; the buffer is too small"
    );
    Ok(exits)
}

/// Compares exits with those on stock modules: equal, less the noise in those that time makes.
fn equal_exits(stock: &Exits, patched: &Exits) -> Result<()> {
    let reasons: BTreeSet<&String> = stock.keys().chain(patched.keys()).collect();
    let different: Vec<String> = reasons
        .into_iter()
        .filter_map(|reason| {
            let count = |exits: &Exits| exits.get(reason).copied().unwrap_or(0);
            let (stock, patched) = (count(stock), count(patched));
            let noise = match TIMED.contains(&reason.as_str()) {
                true => NOISE,
                false => 0,
            };
            (stock.abs_diff(patched) > noise)
                .then(|| format!("{reason}: {stock} on stock modules, {patched} on these"))
        })
        .collect();
    ensure!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# entries-in-buffer/entries-written: 2/2   #P:1\n";
    const LINE: &str =
        " qemu-43  [000] d....  2.9: kvm_exit: vcpu 0 reason IO_INSTRUCTION rip 0xec16 info1 0x1\n";

    #[test]
    fn exits_are_counted_by_reason() {
        let trace = [HEAD, LINE, &LINE.replace("IO_INSTRUCTION", "CPUID")].concat();
        let exits = count_exits(&trace).unwrap();
        let wanted = [("CPUID", 1), ("IO_INSTRUCTION", 1)];
        assert_eq!(exits, wanted.map(|(name, n)| (name.to_owned(), n)).into());
    }

    #[test]
    fn a_trace_that_lacks_something_is_refused() {
        for (trace, reason) in [
            (LINE.to_owned(), "without a head"),
            (HEAD.replace("2/2", "1/2") + LINE, "only 1 were kept"),
            (HEAD.to_owned() + "LOST", "no exit"),
        ] {
            let error = count_exits(&trace).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn exits_that_time_does_not_make_are_equal() {
        let exits = |cpuid, interrupts| -> Exits {
            let all = [("CPUID", cpuid), ("EXTERNAL_INTERRUPT", interrupts)];
            all.map(|(name, n)| (name.to_owned(), n)).into()
        };
        equal_exits(&exits(600, 300), &exits(600, 300 + NOISE)).unwrap();
        for other in [exits(601, 300), exits(600, 301 + NOISE)] {
            assert!(equal_exits(&exits(600, 300), &other).is_err());
        }
        assert!(equal_exits(&exits(1, 0), &Exits::new()).is_err());
    }
}
