//! What a boot of Linux costs in a VM: about the instructions of the same kernel's boot in the machine
//! itself.
//!
//! Both count to the first process, `postern-init`, which takes a snapshot of the counters as the first
//! thing that it does. Kernel, command line, memory and initial file system are equal.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use postern_abi::emulated::PORT_LATCH;
use postern_lab::job::Job;
use postern_lab::machine::{COMMAND_LINE, EmulatedMachine, Kernel, first_process};
use postern_lab::testbed::{EmulatedTestbed, VIEWS};
use serde::Deserialize;

/// How many times the instructions of the kernel's own boot a VM's boot may have, in hundredths.
const MOST: u64 = 105;

/// Memory of the VM and of the machine that is compared to it, in MiB.
const MEMORY: u32 = 512;

/// What the first process is told.
const WORDS: &str = "-- count-boot";

/// VMs that are counted: names, and flags besides those that all have. Each has more than the first
/// in one respect.
const VMS: [(&str, &str); 3] = [
    ("plain", ""),
    ("devices", "--disk path=disk --net tap=t0 --rng"),
    ("view", "--nic nic.sock --port 0 --path elisa"),
];

/// Counts of a VM, in instructions of the whole machine but for what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Boot {
    /// From before the VMM is a process to the VM's first instruction.
    set_up: u64,
    /// From there to the first process.
    boot: u64,
    /// Of them the guest's own.
    guest: u64,
    /// VM exits meanwhile.
    exits: u64,
}

/// A small guest's boot, what KVM and VMM do for it included, costs at most 1.05 times that of its
/// kernel in the machine itself. What the VMM does before, and for devices and views, is told apart.
pub fn costs(testbed: &EmulatedTestbed) -> Result<()> {
    let direct = direct(testbed).context("the kernel's own boot")?;
    let [plain, devices, view] = in_vms(testbed)?;
    let mut table = format!(
        "to the first process: instructions, of them in the guest, VM exits\n\
         direct: {direct}\n\
         VM: {}, {}, {}\n\
         VMM's set-up before: {}",
        plain.boot, plain.guest, plain.exits, plain.set_up
    );
    for (what, with) in [("disk, network, entropy", devices), ("view", view)] {
        write!(
            table,
            "\nmore with {what}: {} in the set-up, {} in the boot, {}, {}",
            more(with.set_up, plain.set_up),
            more(with.boot, plain.boot),
            more(with.guest, plain.guest),
            more(with.exits, plain.exits)
        )?;
    }
    let thousandths = 1000 * plain.boot / direct.max(1);
    write!(
        table,
        "\nratio: {}.{:03}",
        thousandths / 1000,
        thousandths % 1000
    )?;
    ensure!(
        100 * plain.boot <= MOST * direct,
        "the VM's boot costs more than it may\n{table}"
    );
    println!("{table}");
    Ok(())
}

fn more(with: u64, without: u64) -> i64 {
    with.cast_signed() - without.cast_signed()
}

/// Instructions of a boot in the machine itself, from the kernel's first one in protected mode: what
/// firmware and boot loader do before is not the kernel's.
fn direct(testbed: &EmulatedTestbed) -> Result<u64> {
    let image = &testbed.kernel_tree.kernel.image;
    let bytes = fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let directory = tempfile::tempdir().context("making a directory")?;
    let kernel = Kernel {
        image: directory.path().join("kernel"),
        disk_drivers: Vec::new(),
    };
    fs::write(&kernel.image, counted_from_its_start(&bytes)?).context("writing a kernel")?;
    let machine = EmulatedMachine::new(&testbed.files, &kernel);
    let machine = machine.memory_mb(MEMORY).arguments(WORDS);
    let job = Job::new("boot", "cat /run/boot-counters");
    let text = machine.run(job)?.success()?.text();
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let ["kernel", kernel, "process", process] = words[..] else {
        anyhow::bail!("it printed {text:?}");
    };
    let (kernel, process): (u64, u64) = (kernel.parse()?, process.parse()?);
    ensure!(0 < kernel && kernel < process, "it counted {text:?}");
    Ok(process - kernel)
}

/// A bzImage whose first instruction in protected mode takes a snapshot of the machine's counters
/// (Linux: `startup_32` of arch/x86/boot/compressed/head_64.S): it jumps to code behind the kernel,
/// which does that, and what was there instead, and jumps back.
fn counted_from_its_start(image: &[u8]) -> Result<Vec<u8>> {
    /// Offsets of fields of the setup header (Linux: Documentation/x86/boot.rst).
    const SETUP_SECTS: usize = 0x1f1;
    const SYSSIZE: usize = 0x1f4;
    /// `cld`, `cli` and the beginning of `lea esp, [esi + N]`: 8 bytes in all, which run anywhere.
    const BEGIN: [u8; 4] = [0xfc, 0xfa, 0x8d, 0xa6];
    const BEGIN_LEN: usize = 8;
    const PARAGRAPH: usize = 16;
    let jump = |from: usize, to: usize| -> [u8; 5] {
        let distance = (to as i32 - (from as i32 + 5)).to_le_bytes();
        let [a, b, c, d] = distance;
        [0xe9, a, b, c, d]
    };
    let sectors = usize::from(*image.get(SETUP_SECTS).context("the image has no header")?);
    let (setup, code) = image
        .split_at_checked((sectors + 1) * 512)
        .context("the image has no code")?;
    let begin = code.get(..BEGIN_LEN).context("the image has no code")?;
    ensure!(
        begin.starts_with(&BEGIN),
        "the kernel begins otherwise: {begin:x?}"
    );
    let (mut setup, mut code) = (setup.to_vec(), code.to_vec());
    code.resize(code.len().next_multiple_of(PARAGRAPH), 0);
    let own = code.len();
    // mov edx, PORT; out dx, eax
    code.push(0xba);
    code.extend(u32::from(PORT_LATCH).to_le_bytes());
    code.push(0xef);
    code.extend_from_slice(begin);
    let back = jump(code.len(), BEGIN_LEN);
    code.extend(back);
    code[..5].copy_from_slice(&jump(0, own));
    code.resize(code.len().next_multiple_of(PARAGRAPH), 0);
    let paragraphs = (code.len() / PARAGRAPH) as u32;
    setup[SYSSIZE..SYSSIZE + 4].copy_from_slice(&paragraphs.to_le_bytes());
    setup.extend(code);
    Ok(setup)
}

/// Boots the VMs one after another.
fn in_vms(testbed: &EmulatedTestbed) -> Result<[Boot; VMS.len()]> {
    let mut script = String::from(
        "head -c 8388608 /dev/zero > disk
         ./postern nic --socket nic.sock --ports 2 --image nic-image > nic.out 2>&1 & nic=$!
         until [ -S nic.sock ]; do kill -0 $nic || { cat nic.out; exit 80; }; sleep 0.05; done\n",
    );
    for (name, flags) in VMS {
        // The first line of counters has to be in memory for the second, too.
        script += &format!(
            "./postern-init counters > warm
             ./postern-init counters > {name}.before
             ./postern run --kernel kernel --initrd initrd --memory {MEMORY}M --serial {name}.log \
                --cmdline '{COMMAND_LINE} {WORDS}' --counters emulated --stats {name}.json {flags} \
                > {name}.out 2>&1 || {{ cat {name}.out {name}.log; exit 81; }}\n"
        );
    }
    script += "kill $nic; wait $nic; exit 0\n";
    let mut job = Job::new("boots", &script)
        .file("postern", &testbed.programs.postern)
        .file("postern-init", &testbed.programs.init)
        .file("nic-image", &testbed.programs.nic_image)
        .file("kernel", &testbed.kernel_tree.kernel.image)
        .bytes("initrd", initrd(testbed)?);
    for (name, _) in VMS {
        job = job
            .fetch(&format!("{name}.before"))
            .fetch(&format!("{name}.json"));
    }
    let machine = testbed.machine(VIEWS)?.memory_mb(MEMORY + 768);
    let outcome = machine.run(job)?.success()?;
    let mut boots = Vec::new();
    for (name, _) in VMS {
        let before = String::from_utf8_lossy(outcome.file(&format!("{name}.before"))?);
        let json = outcome.file(&format!("{name}.json"))?;
        boots.push(read(&before, json).with_context(|| format!("the VM {name}"))?);
    }
    boots.try_into().ok().context("there are as many VMs")
}

/// The parts of `postern run --stats` that are read.
#[derive(Deserialize)]
struct Stats {
    start: Start,
    marks: Vec<Mark>,
}

#[derive(Deserialize)]
struct Start {
    counters: Vec<Counters>,
}

#[derive(Deserialize)]
struct Mark {
    counters: Counters,
}

#[derive(Deserialize)]
struct Counters {
    total_instructions: u64,
    guest_instructions: u64,
    vm_exits: u64,
}

/// Counts of a VM, from a line of `postern-init counters` and its statistics.
fn read(before: &str, json: &[u8]) -> Result<Boot> {
    let mut words = before.split_ascii_whitespace();
    let before: u64 = match (words.next(), words.next()) {
        (Some("instructions"), Some(number)) => number.parse()?,
        _ => anyhow::bail!("the counters before it are {before:?}"),
    };
    let stats: Stats = serde_json::from_slice(json).context("reading its statistics")?;
    let start = stats.start.counters.first().context("no vCPU has begun")?;
    let end = stats.marks.first().context("no process has begun")?;
    let end = &end.counters;
    Ok(Boot {
        set_up: start.total_instructions.saturating_sub(before),
        boot: end
            .total_instructions
            .saturating_sub(start.total_instructions),
        guest: end
            .guest_instructions
            .saturating_sub(start.guest_instructions),
        exits: end.vm_exits.saturating_sub(start.vm_exits),
    })
}

/// The initial file system of the machine, and the directory of its job.
fn initrd(testbed: &EmulatedTestbed) -> Result<Vec<u8>> {
    let mut root = first_process(&testbed.files)?;
    root.directory("job/0");
    root.archive().context("making an initrd")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of one setup sector and the header's, whose code begins so.
    fn image(begin: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image.extend_from_slice(begin);
        image
    }

    #[test]
    fn a_kernel_that_is_counted_goes_on_as_before() {
        let begin = [0xfc, 0xfa, 0x8d, 0xa6, 0xe8, 1, 0, 0];
        let counted = counted_from_its_start(&image(&[&begin[..], &[0x90]].concat())).unwrap();
        let code = &counted[1024..];
        // To the first paragraph behind the kernel's two.
        assert_eq!(code[..5], [0xe9, 11, 0, 0, 0]);
        assert_eq!(code[8], 0x90);
        assert_eq!(code[16..22], [0xba, 0x10, 0x89, 0, 0, 0xef]);
        assert_eq!(code[22..30], begin);
        assert_eq!(code[30], 0xe9);
        let distance = code[31..35].try_into().unwrap();
        assert_eq!(35 + i32::from_le_bytes(distance), 8);
        assert_eq!((code.len(), counted[0x1f4]), (48, 3));
        for bad in [&[][..], &image(&[]), &image(&[0x90; 8])] {
            assert!(counted_from_its_start(bad).is_err());
        }
    }

    #[test]
    fn a_boot_is_what_is_between_counters() {
        let counters = |total: u64| {
            serde_json::json!({
                "total_instructions": total,
                "guest_instructions": total / 2,
                "vm_exits": total / 100,
            })
        };
        let stats = serde_json::json!({
            "start": { "counters": [counters(3000)] },
            "marks": [{ "label": 0, "counters": counters(9000) }],
        });
        let before = "instructions 1000 guest 0 vmfuncs 0 exits 0 entries 0\n";
        let boot = read(before, stats.to_string().as_bytes()).unwrap();
        let expected = Boot {
            set_up: 2000,
            boot: 6000,
            guest: 3000,
            exits: 60,
        };
        assert_eq!(boot, expected);
        assert!(read("", stats.to_string().as_bytes()).is_err());
        assert!(read(before, b"{\"start\":{\"counters\":[]},\"marks\":[]}").is_err());
    }
}
