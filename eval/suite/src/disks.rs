//! Disks of Linux guests: what a guest reads and writes is what the host has, and a read costs no
//! more than it does in Debian's QEMU.
//!
//! The guest's first process is `postern-disktest`, which does what its command line says.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_lab::job::Job;
use postern_lab::machine::initramfs::Initramfs;
use postern_lab::setup::{Qemu, Setup};
use postern_lab::testbed::{EmulatedTestbed, VIEWS};

use crate::marks;

/// Definitions for scripts: `vm 'WORDS' FLAGS...` runs a VM to its end, whose console goes to
/// `console`; `check WHAT CONDITION...` is a condition that must hold; `hash OFFSET LENGTH` is the
/// checksum of a range of the disk in the host, in blocks of 64 KiB.
const PRELUDE: &str = r#"
vm() {
    words=$1; shift
    ./postern run --kernel kernel --initrd initrd --serial console --cmdline \
        "console=ttyS0 quiet panic=-1 -- $words" "$@" > messages 2>&1
}
show() { cat console messages; }
check() { what=$1; shift; "$@" || { echo "not so: $what"; show; exit 1; }; }
said() { grep -q "$1" console; }
hash() { dd if=disk bs=64k skip=$1 count=$2 2> /dev/null | sha256sum | cut -d ' ' -f 1; }
blocks() { stat -c %b disk; }
"#;

/// What a guest does with a disk of 8 MiB, and what the host sees of it.
const CONTENT: &str = r#"
dd if=/dev/urandom of=disk bs=64k count=128 2> /dev/null
cp disk before
sum=$(hash 0 128)
vm 'serial sum:0:8388608 write:7:1048576:131072 sum:1048576:131072 zero:2097152:65536' \
    --disk path=disk,serial=first-1
check 'the guest switched off' [ $? = 0 ]
check 'serial number' said 'SERIAL first-1'
check 'the guest read what the host has' said "SUM $sum"
check 'the host has what the guest wrote' said "SUM $(hash 16 2)"
check 'zeroes' [ "$(hash 32 1)" = "$(head -c 65536 /dev/zero | sha256sum | cut -d ' ' -f 1)" ]
check 'all was done' said 'DONE zero'
cmp -s disk before && check 'the disk has changed' false

full=$(blocks)
vm 'discard:4194304:1048576 sum:4194304:1048576' --disk path=disk
check 'discarding' said 'DONE sum'
check "a discarded range has no space: $full blocks, then $(blocks)" [ $(blocks) -lt $full ]

cp disk before
vm 'readonly sum:0:65536' --disk path=disk,readonly
check 'a disk that cannot be written' said 'DONE readonly'
check 'it can be read' said "SUM $(hash 0 1)"
check 'it has not changed' cmp disk before

vm 'write:9:0:65536 sum:0:65536 stay' --disk path=disk & pid=$!
until said STAYING 2> /dev/null; do kill -0 $! || { show; exit 1; }; sleep 0.1; done
./postern run --kernel kernel --disk path=disk,readonly > second 2>&1
check 'a second VM is refused' [ $? = 64 ]
check 'and told why' grep -q 'in use by another VM' second
kill -9 $(pidof postern)
wait $pid
check 'what was flushed outlives the VMM' said "SUM $(hash 0 1)"

# The same disk as a block device of the host, around its page cache, by two queues.
losetup /dev/loop0 disk
sum=$(hash 0 128)
vm 'queues:2 sum:0:8388608 write:11:1048576:131072 sum:1048576:131072 discard:6291456:1048576' \
    --vcpus 2 --disk path=/dev/loop0,direct,queues=2
check 'a disk that is a device' [ $? = 0 ]
check 'each processor used its queue' said 'QUEUE 1 interrupted'
check 'all of the device was read' said "SUM $sum"
# What the guest has written is in the file when it has ended.
losetup -d /dev/loop0
check 'what was written to the device is in the file' said "SUM $(hash 16 2)"
check 'all was done to the device' said 'DONE discard'
check 'discarded, through the device' \
    [ "$(hash 96 16)" = "$(head -c 1048576 /dev/zero | sha256sum | cut -d ' ' -f 1)" ]
losetup -r /dev/loop0 disk
./postern run --kernel kernel --disk path=/dev/loop0 > second 2>&1
check 'a device that cannot be written is refused' [ $? = 64 ]
check 'and said to be' grep -q 'readonly' second
cp disk before
vm 'readonly sum:0:65536' --disk path=/dev/loop0,direct,readonly
check 'a device that cannot be written' said 'DONE readonly'
check 'it is the one' said "SUM $(hash 0 1)"
losetup -d /dev/loop0
check 'nor is' cmp disk before

vm 'sum-file:ext4:file' --disk path=ext4,readonly
check 'a file of a file system' said "SUM $(sha256sum < file | cut -d ' ' -f 1)"
echo all is well
"#;

/// Reads that are counted.
const READS: u64 = 1000;

/// Counters and sizes of the kinds of reads that are counted: name, bytes of a read.
const KINDS: [(&str, u64); 2] = [("sequential", 4096), ("random", 4096)];

/// What a read costs in instructions, of guest and host together, by kind.
type Costs = BTreeMap<String, u64>;

/// A read of Postern's disks costs no more instructions than one of Debian's QEMU, in the same guest
/// in the same machine, where QEMU serves its disk in an I/O thread, too.
pub fn costs(testbed: &EmulatedTestbed) -> Result<()> {
    let words: Vec<String> = [("none", 4096)]
        .iter()
        .chain(&KINDS)
        .map(|(what, size)| format!("count:{what}:{size}:{READS}"))
        .collect();
    let line = format!(
        "console=ttyS0 quiet panic=-1 no_timer_check -- {}",
        words.join(" ")
    );
    let postern = format!(
        "./postern run --kernel kernel --initrd initrd --disk path=disk \
         --cmdline '{line}' < /dev/null 2>&1 | marks"
    );
    let qemu = format!(
        "{} -accel kvm -cpu host -machine q35,hpet=off -m 64 -display none -serial stdio \
         -object iothread,id=thread -drive if=none,id=disk,file=disk,format=raw \
         -device virtio-blk-pci,drive=disk,iothread=thread -kernel kernel -initrd initrd \
         -append '{line}' < /dev/null 2>&1 | marks",
        Qemu::COMMAND
    );
    let files = Setup::open()?.qemu()?;
    let mut costs = [Costs::new(), Costs::new()];
    for (costs, script) in costs.iter_mut().zip([postern, qemu]) {
        let script = format!(
            "{}dd if=/dev/urandom of=disk bs=64k count=128\n{script}",
            marks::PRELUDE
        );
        let job = Job::new("disk-reads", &script)
            .file("postern", &testbed.programs.postern)
            .file("postern-init", &testbed.programs.init)
            .file("kernel", &testbed.kernel_tree.kernel.image)
            .bytes("initrd", initrd(testbed)?)
            .timeout(Duration::from_secs(300));
        let machine = testbed.machine(VIEWS)?.memory_mb(768);
        *costs = read_costs(&machine.run(files.add_to(job)?)?.success()?.text())?;
    }
    let [postern, qemu] = costs;
    let mut table = String::from("kind: Postern, QEMU (instructions a read)");
    let mut dear = false;
    for (kind, _) in KINDS {
        let cost = |costs: &Costs| {
            let cost = costs.get(kind).copied();
            cost.with_context(|| format!("no {kind} reads were counted"))
        };
        let (postern, qemu) = (cost(&postern)?, cost(&qemu)?);
        table += &format!("\n{kind}: {postern}, {qemu}");
        dear |= postern > qemu;
    }
    ensure!(!dear, "a read costs more than in QEMU\n{table}");
    println!("{table}");
    Ok(())
}

/// What a read costs of each kind.
fn read_costs(text: &str) -> Result<Costs> {
    let counts = marks::counts(text, ["instructions"])?.into_iter();
    let first = |(kind, rounds): (String, Vec<[u64; 1]>)| Some((kind, rounds.first()?[0] / READS));
    Ok(counts.filter_map(first).collect())
}

/// What the guest reads and writes is what the host has.
pub fn content(testbed: &EmulatedTestbed) -> Result<()> {
    let file: Vec<u8> = (0..200_000_u32)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect();
    let script = format!("{PRELUDE}{CONTENT}");
    let job = Job::new("disk", &script)
        .file("postern", &testbed.programs.postern)
        .file("kernel", &testbed.kernel_tree.kernel.image)
        .bytes("initrd", initrd(testbed)?)
        .bytes("ext4", ext4(&file)?)
        .bytes("file", file)
        .timeout(Duration::from_secs(300));
    let machine = testbed.machine(VIEWS)?.memory_mb(768);
    let text = machine.run(job)?.success()?.text();
    ensure!(text.contains("all is well"), "it printed {text}");
    Ok(())
}

/// An initial file system that has nothing but its first process.
fn initrd(testbed: &EmulatedTestbed) -> Result<Vec<u8>> {
    Ok(Initramfs::with_program(&testbed.programs.disktest)?.archive()?)
}

/// An image of a file system with one file, `file`.
fn ext4(content: &[u8]) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir().context("making a directory")?;
    let (root, image) = (
        directory.path().join("root"),
        directory.path().join("image"),
    );
    std::fs::create_dir(&root).context("making a directory")?;
    std::fs::write(root.join("file"), content).context("writing a file")?;
    let output = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([&root, &image])
        .arg("4M")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .context("running mke2fs")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mke2fs failed: {text}");
    std::fs::read(image).context("reading the image")
}
