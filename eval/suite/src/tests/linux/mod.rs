//! Linux guests: kernels and programs of Debian in VMs, beside a host that has network and programs,
//! too.
//!
//! A test is a script for the machine's shell. These are defined before it (`prelude.sh`), and `guest`
//! is the name of the guest whose files it has:
//!
//! | name | is |
//! | --- | --- |
//! | `GUEST/kernel`, `GUEST/initrd`, `GUEST/root.erofs` | files of the guest: `small`, `debian-12` or `debian-13` |
//! | `run NAME GUEST 'CMDLINE' FLAGS...` | runs a VM to its end; its console goes to `NAME.log`, what the VMM says to `NAME.out` |
//! | `begin NAME GUEST 'CMDLINE' FLAGS...` | the same in the background |
//! | `await NAME TEXT` | waits for the text on a VM's console, while the VM runs |
//! | `ended NAME` | waits for the end of a VM; its status becomes that of the command |
//! | `show NAME` | prints the ends of `NAME.log` and `NAME.out` |
//! | `memory` | memory of VMs that begin from then on |
//! | `debian PROGRAM...` | runs a program of the guest's root file system on the host |
//! | `tap NAME ADDRESS/PREFIX [MTU]` | makes a TAP for VMs |
//! | `check NAME COMMAND...` | says whether a command succeeds; `failed` is 1 once one did not |

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_lab::job::{Job, JobOutcome};
use postern_lab::machine::initramfs::Initramfs;
use postern_lab::setup;
use postern_lab::testbed::{EmulatedTestbed, VIEWS};
use postern_lab::topology_files::{self, DEBIAN};

use crate::own_boots::OwnBootTest;

pub mod programs;

/// Definitions for scripts.
const PRELUDE: &str = include_str!("prelude.sh");

/// A machine with Linux guests.
struct Scene<'a> {
    /// The guest whose files the script finds.
    guest: &'a str,
    /// Memory of the machine in MiB.
    memory_mb: u32,
    script: &'a str,
    /// Seconds of the machine's clock.
    seconds: u64,
}

impl Scene<'_> {
    /// Boots the machine and runs the script.
    fn play(&self, testbed: &EmulatedTestbed) -> Result<JobOutcome> {
        self.play_with(testbed, |job| job)
    }

    /// The same with more files in the script's directory.
    fn play_with(
        &self,
        testbed: &EmulatedTestbed,
        add: impl FnOnce(Job) -> Job,
    ) -> Result<JobOutcome> {
        let timeout = Duration::from_secs(self.seconds);
        let name = self.guest;
        let guest = topology_files::guest(name)?;
        let guest = guest.with_context(|| format!("there is no guest {name}"))?;
        let script = format!("{DEBIAN}{PRELUDE}guest={name}\n{}", self.script);
        let mut job = Job::new("linux", &script)
            .file("postern", &testbed.programs.postern)
            .file("nic-image", &testbed.programs.nic_image)
            .file("postern-init", &testbed.programs.init)
            .file(&format!("{name}/kernel"), guest.kernel)
            .file(&format!("{name}/initrd"), guest.initrd)
            .timeout(timeout);
        if let Some(image) = guest.image {
            job = job.file(&format!("{name}/root.erofs"), image);
        }
        let machine = testbed.machine(VIEWS)?.memory_mb(self.memory_mb);
        Ok(machine.timeout(REAL_TIME).run(add(job))?)
    }
}

/// Real time that a machine has.
const REAL_TIME: Duration = Duration::from_secs(5400);

/// A topology of the examples.
macro_rules! example {
    ($file:literal) => {
        OwnBootTest::new(
            concat!("examples/", $file, " runs as it stands"),
            |testbed| example(testbed, $file),
        )
    };
}

/// A test of one guest: its name, what holds, the function and what that is told besides.
macro_rules! guest {
    ($guest:literal, $what:literal, $test:ident $(, $argument:expr)*) => {
        OwnBootTest::new(concat!("linux/", $guest, "/", $what), |testbed| {
            $test(testbed, $guest $(, $argument)*)
        })
    };
}

/// The tests.
#[rustfmt::skip] // A row each.
pub const TESTS: &[OwnBootTest] = &[
    guest!("small", "kernel, processors, timers, resets", platform, "no-init", "all"),
    guest!("debian-12", "kernel, processors, timers, resets", platform, "request", "some"),
    guest!("debian-13", "kernel, processors, timers, resets", platform, "request", "some").on_request(),
    guest!("small", "memory from 32 MiB to 4 GiB, as bzImage and as vmlinux", memory),
    guest!("small", "console: what is typed reaches a process, and its answer comes back", console),
    guest!("small", "a guest's status comes back", status_comes_back),
    guest!("debian-12", "a guest's status comes back", status_comes_back),
    guest!("debian-13", "a guest's status comes back", status_comes_back),
    guest!("small", "the PCI bus: random bytes, the NIC's window, a hostile guest", pci),
    guest!("small", "two VMs over a bridge, with either backend of virtio-net", bridge),
    guest!("small", "a VM with all devices is reset, joined, stopped and taken down", devices),
    guest!("small", "aborted calls: where each was, and how many of each vCPU", aborted_calls),
    guest!("debian-12", "files of a disk have the checksums that the host sees", files_of_a_disk),
    guest!("debian-13", "files of a disk have the checksums that the host sees", files_of_a_disk),
    guest!("debian-12", "programs over virtio-net with vhost-net", network, "vhost"),
    guest!("debian-12", "programs over virtio-net with the backend of the VMM", network, "user").on_request(),
    guest!("debian-13", "programs over virtio-net with vhost-net", network, "vhost").on_request(),
    guest!("debian-13", "programs over virtio-net with the backend of the VMM", network, "user").on_request(),
    example!("linux-chain.toml").on_request(),
    example!("linux-pair.toml").on_request(),
    example!("linux-paths.toml"),
    example!("linux-sixteen.toml"),
    example!("linux-two-hosts.toml"),
    example!("linux-uplink.toml"),
];

/// Folder of the topologies, from the top of the checkout.
const EXAMPLES: &str = "vmm/examples";

/// A topology as `cargo machine up` runs it: all VMs end with status 0.
fn example(testbed: &EmulatedTestbed, file: &str) -> Result<()> {
    let path = setup::root().join(EXAMPLES).join(file);
    let job = topology_files::job(&path, &testbed.programs)?.timeout(Duration::from_secs(600));
    let machine = testbed.machine(VIEWS)?.memory_mb(2048);
    machine.timeout(REAL_TIME).run(job)?.success().map(drop)
}

/// The kernel boots, its root file system is there if it has one, the program runs, and what it says
/// and how it ends is seen.
fn status_comes_back(testbed: &EmulatedTestbed, guest: &str) -> Result<()> {
    let script = r#"
run one $guest 'postern.run="echo it is $(uname -m); ls /; exit 7"'; status=$?
show one; echo status $status"#;
    let scene = Scene {
        guest,
        memory_mb: 1024,
        script,
        seconds: 120,
    };
    let text = scene.play(testbed)?.success()?.text();
    ensure!(
        text.contains("it is x86_64") && text.ends_with("\nstatus 7\n"),
        "it printed {text:?}"
    );
    Ok(())
}

/// The entropy device gives bytes. The NIC's window is in sysfs, interrupts by its pin and moves. A
/// guest that puts it over RAM and the platform's registers, and floods configuration space, harms
/// itself alone.
fn pci(testbed: &EmulatedTestbed, guest: &str) -> Result<()> {
    let script = format!(
        "cat > guest.sh << 'END'\n{}END\n{}",
        include_str!("pci-guest.sh"),
        include_str!("pci.sh")
    );
    let scene = Scene {
        guest,
        memory_mb: 512,
        script: &script,
        seconds: 200,
    };
    checks(scene.play(testbed)?)
}

/// All threads of a confined VMM do all that they do: no call is missing in its filters.
fn devices(testbed: &EmulatedTestbed, guest: &str) -> Result<()> {
    let script = format!(
        "cat > guest.sh << 'END'\n{}END\n{}",
        include_str!("devices-guest.sh"),
        include_str!("devices.sh")
    );
    let scene = Scene {
        guest,
        memory_mb: 768,
        script: &script,
        seconds: 300,
    };
    checks(scene.play(testbed)?)
}

/// The kernel finds processors, timers, interrupts and memory as the VMM has them, and switches off,
/// resets and panics with the effects that are promised. `ways` says whether it does so in all ways or
/// in some: in those that depend on the kernel.
fn platform(testbed: &EmulatedTestbed, guest: &str, panic: &str, ways: &str) -> Result<()> {
    let script = format!("panic={panic} ways={ways}\n{}", include_str!("platform.sh"));
    let scene = Scene {
        guest,
        memory_mb: 1024,
        script: &script,
        seconds: 600,
    };
    checks(scene.play(testbed)?)
}

/// The small kernel in little and in much memory, by the Linux boot protocol and by PVH.
fn memory(testbed: &EmulatedTestbed, guest: &str) -> Result<()> {
    let scene = Scene {
        guest,
        memory_mb: 1024,
        script: include_str!("memory.sh"),
        seconds: 300,
    };
    let vmlinux = testbed.kernel_tree.build.join("vmlinux");
    let tiny = Initramfs::with_program(&testbed.programs.init).context("making an initrd")?;
    let tiny = tiny.archive().context("making an initrd")?;
    let add = |job: Job| job.file("vmlinux", vmlinux).bytes("tiny", tiny);
    checks(scene.play_with(testbed, add)?)
}

/// Lines typed into a guest's serial port, which a process adds up.
fn console(testbed: &EmulatedTestbed, guest: &str) -> Result<()> {
    let scene = Scene {
        guest,
        memory_mb: 512,
        script: include_str!("console.sh"),
        seconds: 200,
    };
    checks(scene.play(testbed)?)
}

/// Ping between two guests.
fn bridge(testbed: &EmulatedTestbed, guest: &str) -> Result<()> {
    let scene = Scene {
        guest,
        memory_mb: 1024,
        script: include_str!("bridge.sh"),
        seconds: 300,
    };
    checks(scene.play(testbed)?)
}

/// Calls that are aborted by an EPT violation and by an exception, traced and counted.
fn aborted_calls(testbed: &EmulatedTestbed, guest: &str) -> Result<()> {
    let scene = Scene {
        guest,
        memory_mb: 768,
        script: include_str!("trace.sh"),
        seconds: 300,
    };
    let image = &testbed.programs.faulty_image;
    checks(scene.play_with(testbed, |job| job.file("faulty-image", image))?)
}

/// The root file system of a guest is on a disk: Debian's kernel reads the same as the host's.
fn files_of_a_disk(testbed: &EmulatedTestbed, guest: &str) -> Result<()> {
    let sums = "find /usr/bin -type f -size -200k | sort | head -n 40 | xargs sha256sum";
    let script = format!(
        "run one $guest 'postern.run=\"{sums}\"' || {{ show one; exit 90; }}
         tr -d '\\r' < one.log | grep '  /usr/bin/' > guest
         debian sh -c '{sums}' > host
         cmp guest host || {{ show one; exit 91; }}
         wc -l < guest"
    );
    let scene = Scene {
        guest,
        memory_mb: 1024,
        script: &script,
        seconds: 240,
    };
    let text = scene.play(testbed)?.success()?.text();
    ensure!(text.trim().ends_with("40"), "it printed {text:?}");
    Ok(())
}

/// Size in pieces of about a megabyte of the file that a guest's nginx gives: the queues of its network
/// wrap several times. The test takes some seconds for each.
const PIECES: u32 = 24;

/// Ping, iperf3, curl, ssh and DHCP between the host and a guest, with packets of 1500 and of 9000
/// bytes.
fn network(testbed: &EmulatedTestbed, guest: &str, backend: &str) -> Result<()> {
    let script = format!(
        "backend={backend} pieces={PIECES}\n{}",
        include_str!("network.sh")
    );
    let scene = Scene {
        guest,
        memory_mb: 2048,
        script: &script,
        seconds: 900,
    };
    checks(scene.play(testbed)?)
}

/// Makes one verdict of the lines of all checks of a script, and shows what it has counted.
fn checks(outcome: JobOutcome) -> Result<()> {
    let text = outcome.text();
    for line in text.lines().filter(|line| line.starts_with("count ")) {
        eprintln!("{line}");
    }
    ensure!(!text.contains("FAILED "), "{text}");
    outcome.success()?;
    ensure!(
        text.lines().any(|line| line.starts_with("ok ")),
        "it checked nothing: {text}"
    );
    Ok(())
}

#[cfg(test)]
mod names {
    use super::*;

    #[test]
    fn each_example_with_linux_guests_has_a_test() {
        let entries = std::fs::read_dir(setup::root().join(EXAMPLES)).unwrap();
        let files = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        for file in files.filter(|file| file.starts_with("linux-")) {
            let name = format!("examples/{file} runs as it stands");
            assert!(TESTS.iter().any(|test| test.name == name), "{name}");
        }
    }
}
