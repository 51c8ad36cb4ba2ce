//! Networks of Linux guests by virtio-net: packets come through, and cost what they cost in Debian's
//! QEMU with the same backend, the host's kernel or a thread.
//!
//! The guest of what is counted has `postern-nettest` as its first process, which does what its
//! command line says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_lab::job::Job;
use postern_lab::machine::initramfs::Initramfs;
use postern_lab::setup::{Qemu, Setup};
use postern_lab::testbed::{EmulatedTestbed, VIEWS};

use crate::marks;

/// Frames that are counted, of each kind.
const FRAMES: u64 = 2000;
/// How many times each kind is counted. What a packet costs depends on where ticks fall: the one in the
/// middle counts.
const ROUNDS: usize = 5;
/// Sizes of frames in bytes.
const SIZES: [u64; 2] = [64, 1500];
/// Frames of one call of the sender's.
const BATCH: u64 = 32;
/// Pause of the host's sender after each call, in microseconds: the queues of TAP and guest never
/// have more than a few calls' frames.
const PAUSE: u64 = 15_000;
/// How many times the instructions of QEMU's packets Postern's may have, in hundredths.
const MOST: u64 = 105;

/// Definitions for scripts: the host sends what the guest is about to receive.
const PRELUDE: &str = r#"
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
marked() {
    case $1 in
        "MARK receive-"*begin*)
            size=${1#MARK receive-}
            ./postern-nettest send:t0:${size%% *}:$frames:$batch:$pause > sent || cat sent ;;
    esac
}
count() { cat /sys/class/net/t0/statistics/$1; }
"#;

/// What a packet costs: machine-wide counts, divided by the number of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    instructions: u64,
    guest: u64,
    /// VM exits, in hundredths.
    exits: u64,
}

/// Costs by kind: `send-64`, `receive-64` and so on.
type Costs = BTreeMap<String, Cost>;

/// Arguments of the first process, and parameters of the kernel before them.
fn line() -> String {
    let mut words = String::from("up:eth0 none");
    for size in SIZES.repeat(ROUNDS) {
        words += &format!(" send:eth0:{size}:{FRAMES}:{BATCH}:0 receive:eth0:{size}:{FRAMES}");
    }
    format!("console=ttyS0 quiet panic=-1 no_timer_check ipv6.disable=1 -- {words}")
}

/// A packet costs at most 1.05 times the instructions that it costs in Debian's QEMU, with either
/// backend, with the same guest in the same machine.
pub fn costs(testbed: &EmulatedTestbed) -> Result<()> {
    let (line, mac) = (line(), "02:00:00:00:00:09");
    let qemu = |vhost| {
        format!(
            "{} -accel kvm -cpu host -machine q35,hpet=off -m 64 -display none -serial stdio \
             -netdev tap,id=n,ifname=t0,script=no,downscript=no,vhost={vhost} \
             -device virtio-net-pci,netdev=n,mac={mac},romfile= -kernel kernel -initrd initrd \
             -append '{line}'",
            Qemu::COMMAND
        )
    };
    let postern = |backend| {
        format!(
            "./postern run --kernel kernel --initrd initrd --net tap=t0,mac={mac},backend={backend} \
             --cmdline '{line}'"
        )
    };
    let files = Setup::open()?.qemu()?;
    let cases = [
        ("Postern, vhost", postern("vhost")),
        ("QEMU, vhost", qemu("on")),
        ("Postern, user", postern("user")),
        ("QEMU, user", qemu("off")),
    ];
    let mut all = Vec::new();
    for (name, command) in cases {
        let script = format!(
            "{}{PRELUDE}frames={FRAMES} batch={BATCH} pause={PAUSE}
             ./postern-nettest tap:t0 up:t0 || exit 80
             {command} < /dev/null 2>&1 | marks
             echo the host received $(count rx_packets) and sent $(count tx_packets), \
             lost $(count tx_dropped)",
            marks::PRELUDE
        );
        let job = Job::new("packets", &script)
            .file("postern", &testbed.programs.postern)
            .file("postern-init", &testbed.programs.init)
            .file("postern-nettest", &testbed.programs.nettest)
            .file("kernel", &testbed.kernel_tree.kernel.image)
            .bytes("initrd", initrd(testbed)?)
            .timeout(Duration::from_secs(600));
        let machine = testbed.machine(VIEWS)?.memory_mb(768);
        let text = machine.run(files.add_to(job)?)?.success()?.text();
        let done = (ROUNDS * SIZES.len()) as u64 * FRAMES;
        ensure!(
            text.contains(&format!("the host received {done} and sent {done}, lost 0")),
            "{name}: it printed {text}"
        );
        all.push((name, read_costs(&text).with_context(|| name.to_owned())?));
    }
    let table = table(&all);
    println!("{table}");
    let of = |name| all.iter().find(|(one, _)| *one == name);
    for backend in ["vhost", "user"] {
        let costs = |who| of(format!("{who}, {backend}")).map(|(_, costs)| costs);
        let (postern, qemu) = (costs("Postern"), costs("QEMU"));
        for (kind, cost) in postern.context("nothing was counted")? {
            let other = qemu.and_then(|qemu| qemu.get(kind));
            let other = other.with_context(|| format!("no {kind} in QEMU"))?;
            ensure!(
                100 * cost.instructions <= MOST * other.instructions,
                "{kind} costs more than in QEMU, {backend}\n{table}"
            );
        }
    }
    Ok(())
}

/// Bytes that are sent and come back by vsock(7), each way: more than what can be on its way.
const ASKED: u64 = 300_000;

/// By virtio-vsock a guest reaches its host, and its host the guest; all bytes come back.
pub fn vsock(testbed: &EmulatedTestbed) -> Result<()> {
    let words = format!("vsock-ask:2:1000:{ASKED} vsock-echo:2000");
    let script = format!(
        "./postern-nettest vsock-echo:1000 > host 2>&1 & host=$!
         until grep -q LISTENING host; do kill -0 $host || {{ cat host; exit 80; }}; sleep 0.05; done
         ./postern run --kernel kernel --initrd initrd --serial console --vsock cid=7 \
            --cmdline 'console=ttyS0 quiet panic=-1 -- {words}' > messages 2>&1 & vm=$!
         until grep -q 'LISTENING 2000' console; do
            kill -0 $vm || {{ cat console messages host; exit 81; }}; sleep 0.05
         done
         ./postern run --kernel kernel --vsock cid=7 > second 2>&1
         [ $? = 64 ] && grep -q 'cid=7 is another' second && echo a second VM is refused
         ./postern-nettest vsock-ask:7:2000:{ASKED} || exit 82
         wait $vm || exit 83
         wait $host || exit 84
         cat console host second"
    );
    let job = Job::new("vsock", &script)
        .file("postern", &testbed.programs.postern)
        .file("postern-nettest", &testbed.programs.nettest)
        .file("kernel", &testbed.kernel_tree.kernel.image)
        .bytes("initrd", initrd(testbed)?);
    let text = testbed.machine(VIEWS)?.run(job)?.success()?.text();
    for line in [
        &format!("ANSWERED {ASKED} from 7"),
        &format!("ANSWERED {ASKED} from 2"),
        &format!("ECHOED {ASKED} to 7"),
        &format!("ECHOED {ASKED} to 2"),
        "a second VM is refused",
    ] {
        let found = text.lines().any(|one| one.trim_end() == line);
        ensure!(found, "there is no line {line:?} in {text}");
    }
    Ok(())
}

fn table(all: &[(&str, Costs)]) -> String {
    let mut table =
        String::from("kind, who: instructions a packet, of them in the guest, VM exits a packet");
    let kinds = all.first().map(|(_, costs)| costs.keys());
    for kind in kinds.into_iter().flatten() {
        for (name, costs) in all {
            if let Some(cost) = costs.get(kind) {
                table += &format!(
                    "\n{kind}, {name}: {}, {}, {}.{:02}",
                    cost.instructions,
                    cost.guest,
                    cost.exits / 100,
                    cost.exits % 100
                );
            }
        }
    }
    table
}

/// What a packet costs of each kind.
fn read_costs(text: &str) -> Result<Costs> {
    let counts = marks::counts(text, ["instructions", "guest", "exits"])?;
    ensure!(
        counts.len() == 2 * SIZES.len(),
        "some frames were not counted: it printed {text}"
    );
    let mut costs = Costs::new();
    for (kind, mut rounds) in counts {
        ensure!(
            rounds.len() == ROUNDS,
            "{kind} was counted {} times",
            rounds.len()
        );
        rounds.sort_unstable();
        let [instructions, guest, exits] = rounds[ROUNDS / 2];
        let cost = Cost {
            instructions: instructions / FRAMES,
            guest: guest / FRAMES,
            exits: 100 * exits / FRAMES,
        };
        costs.insert(kind, cost);
    }
    Ok(costs)
}

/// An initial file system that has nothing but its first process.
fn initrd(testbed: &EmulatedTestbed) -> Result<Vec<u8>> {
    Ok(Initramfs::with_program(&testbed.programs.nettest)?.archive()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_what_is_between_marks() {
        let line = |kind: &str, place, count: u64| {
            format!(
                "MARK {kind} {place} instructions {count} guest {} vmfuncs 0 exits {}\r\n",
                count / 2,
                count / 1000
            )
        };
        let mut text = line("none", "begin", 1000) + &line("none", "end", 3000);
        let kinds = ["send-64", "receive-64", "send-1500", "receive-1500"];
        // The rounds cost 3000, 4000 and so on for each frame.
        for (round, kind) in (0..ROUNDS as u64).flat_map(|round| kinds.map(|kind| (round, kind))) {
            text += &line(kind, "begin", 10_000);
            assert!(read_costs(&text).is_err(), "{text}");
            text += &line(kind, "end", 12_000 + (3000 + 1000 * round) * FRAMES);
        }
        let costs = read_costs(&text).unwrap();
        let cost = Cost {
            instructions: 5000,
            guest: 2500,
            exits: 500,
        };
        assert_eq!(costs.len(), 4);
        assert!(costs.values().all(|one| *one == cost), "{costs:?}");
        assert!(table(&[("X", costs)]).contains("send-64, X: 5000, 2500, 5.00"));
    }
}
