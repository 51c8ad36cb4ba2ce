//! The host of the measurement: processor, kernel, revision, and how busy it was.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// Facts about the host, for whoever reads the files.
#[derive(Debug, Serialize)]
pub struct HostFacts {
    /// The revision of the source, as `git describe` names it.
    revision: String,
    /// Model name of the processor.
    processor: String,
    /// Number of processors that this program may use.
    processors: usize,
    /// Whether the host runs under a hypervisor.
    hypervisor: bool,
    /// Release of the kernel.
    kernel: String,
}

impl HostFacts {
    /// The facts about this host.
    pub fn here() -> HostFacts {
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = information.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        HostFacts {
            revision: revision().unwrap_or_else(|| "unknown".into()),
            processor: field("model name").unwrap_or_else(|| "unknown".into()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            hypervisor: field("flags").is_some_and(|flags| flags.contains(" hypervisor")),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// The revision of the source, if git knows it.
fn revision() -> Option<String> {
    let output = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Times that the host's processors have spent until a moment, in clock ticks.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    total: u64,
    busy: u64,
    stolen: u64,
}

/// Shares of the processors' time between two moments, in percent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shares {
    /// Share in which the processors worked.
    pub busy: f64,
    /// Share that the hypervisor gave to other VMs.
    pub stolen: f64,
}

impl Times {
    /// The times until now: line "cpu" of /proc/stat, proc_stat(5).
    pub fn now() -> Times {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let fields: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let field = |number: usize| fields.get(number).copied().unwrap_or(0);
        // The fields are user, nice, system, idle, iowait, irq, softirq, steal.
        let idle = field(3) + field(4);
        let total: u64 = fields.iter().take(8).sum();
        let stolen = field(7);
        Times {
            total,
            busy: total - idle - stolen,
            stolen,
        }
    }

    /// The shares of the time from this moment to a later one.
    pub fn until(self, later: Times) -> Shares {
        let total = (later.total - self.total).max(1) as f64;
        Shares {
            busy: (later.busy - self.busy) as f64 * 100.0 / total,
            stolen: (later.stolen - self.stolen) as f64 * 100.0 / total,
        }
    }
}

/// Number of times that this thread had to give its processor to another one.
pub fn involuntary_switches() -> u64 {
    // SAFETY: the structure is made of integers, for which all zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes to the structure that it is given, which lives through the call.
    let status = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    assert_eq!(status, 0, "getrusage fails for wrong arguments only");
    usage.ru_nivcsw as u64
}
