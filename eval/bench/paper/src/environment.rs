//! Circumstances of a run, for people who compare it with another: processor, mitigations, clocks,
//! versions of programs.
//!
//! Nothing here is needed for a measurement. What cannot be found out is left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use postern_lab::machine::CPU_MODEL;
use postern_lab::setup::bochs;
use postern_lab::testbed::{Testbed, host_release};

/// Where the kernel tells of processors.
const CPUS: &str = "/sys/devices/system/cpu";

/// Packages whose versions are recorded, where they are installed.
const PACKAGES: [&str; 4] = ["gcc", "binutils", "qemu-system-x86", "libc6"];

/// Facts by their names.
type Facts = BTreeMap<String, String>;

/// Finds out the circumstances of a run on a testbed.
pub fn collect(testbed: &Testbed) -> Facts {
    let mut facts = Facts::new();
    match testbed {
        Testbed::Emulated(_) => {
            add(
                &mut facts,
                "emulated CPU",
                Some(format!("{CPU_MODEL}, one of it")),
            );
            add(&mut facts, "emulator", Some(bochs::TITLE.to_owned()));
            let host = format!(
                "{}, Linux {}",
                cpu_model().unwrap_or_default(),
                host_release()
            );
            add(&mut facts, "emulator's host (does not count)", Some(host));
        }
        Testbed::Host(_) => processor(&mut facts),
    }
    add(&mut facts, "rustc", first_line("rustc", &["--version"]));
    add(&mut facts, "C compiler", first_line("cc", &["--version"]));
    for package in PACKAGES {
        let version = first_line("dpkg-query", &["-W", "-f", "${Version}", package]);
        add(&mut facts, &format!("package {package}"), version);
    }
    facts
}

/// Facts about this host's processor and kernel, which times depend on.
fn processor(facts: &mut Facts) {
    add(facts, "CPU", cpu_model());
    add(facts, "microcode", cpuinfo("microcode"));
    add(facts, "kernel", Some(host_release()));
    add(
        facts,
        "kernel's arguments",
        read(Path::new("/proc/cmdline")),
    );
    let cpus = Path::new(CPUS);
    let file = |name: &str| read(&cpus.join(name));
    add(facts, "CPUs online", file("online"));
    add(facts, "CPUs isolated", file("isolated"));
    add(facts, "SMT", file("smt/control"));
    add(
        facts,
        "NUMA nodes",
        read(Path::new("/sys/devices/system/node/online")),
    );
    add(
        facts,
        "threads of CPU 0's core",
        file("cpu0/topology/thread_siblings_list"),
    );
    add(
        facts,
        "CPUs of CPU 0's package",
        file("cpu0/topology/package_cpus_list"),
    );
    add(
        facts,
        "frequency governor",
        file("cpu0/cpufreq/scaling_governor"),
    );
    add(
        facts,
        "frequency driver",
        file("cpu0/cpufreq/scaling_driver"),
    );
    let no_turbo = file("intel_pstate/no_turbo").map(|text| match &text[..] {
        "1" => "off".to_owned(),
        _ => "on".to_owned(),
    });
    add(facts, "turbo", no_turbo);
    add(facts, "idle driver", file("cpuidle/current_driver"));
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    add(facts, "clock source", read(Path::new(clock)));
    for (name, text) in folder(&cpus.join("vulnerabilities")) {
        add(facts, &format!("mitigation of {name}"), Some(text));
    }
    for module in ["kvm", "kvm_intel"] {
        let version = read(&Path::new("/sys/module").join(module).join("srcversion"));
        add(facts, &format!("module {module}"), version);
    }
    for (name, text) in folder(Path::new("/sys/module/kvm_intel/parameters")) {
        if name.starts_with("ept") || name == "vpid" || name == "enable_apicv" {
            add(facts, &format!("kvm_intel.{name}"), Some(text));
        }
    }
}

fn add(facts: &mut Facts, name: &str, says: Option<String>) {
    let says = says.map(|text| text.trim().to_owned());
    if let Some(says) = says.filter(|text| !text.is_empty()) {
        facts.insert(name.to_owned(), says);
    }
}

fn cpu_model() -> Option<String> {
    cpuinfo("model name")
}

/// What /proc/cpuinfo says of the first CPU.
fn cpuinfo(name: &str) -> Option<String> {
    let text = read(Path::new("/proc/cpuinfo"))?;
    text.lines().find_map(|line| {
        let (found, says) = line.split_once(':')?;
        (found.trim() == name).then(|| says.trim().to_owned())
    })
}

fn read(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok()
}

/// The files of a folder with their content, by name.
fn folder(path: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name, read(&entry.path())?))
        })
        .collect();
    files.sort();
    files
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next().map(str::to_owned);
    line.filter(|_| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told_and_nothing_else() {
        let mut facts = Facts::new();
        processor(&mut facts);
        assert_eq!(facts["kernel"], host_release());
        assert!(facts.values().all(|says| !says.is_empty()), "{facts:?}");
        assert_eq!(first_line("postern-no-such-program", &[]), None);
        assert_eq!(first_line("false", &[]), None);
        assert!(folder(Path::new("/nonexistent")).is_empty());
    }
}
