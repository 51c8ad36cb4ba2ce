//! The host of the measurement: processor, kernel, revision, and how busy it was.

use std::fmt;
use std::fs;
use std::process::Command;

use postern_abi::source::Source;
use serde::Serialize;

/// Facts about the host, for whoever reads the results.
#[derive(Debug, Serialize)]
pub struct HostFacts {
    /// What kind the figures are ([`Source`]).
    pub kind: &'static str,
    /// The revision of the source, as `git describe` names it.
    pub revision: String,
    /// Model name of the processor.
    pub processor: String,
    /// Number of processors that this program may use.
    pub processors: usize,
    /// Release of the kernel.
    pub kernel: String,
}

impl HostFacts {
    /// The facts about this host.
    pub fn here() -> HostFacts {
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = information
            .lines()
            .find(|line| line.starts_with("model name"));
        let model = line.and_then(|line| line.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        HostFacts {
            kind: Source::of_this_cpu().name(),
            revision: revision().unwrap_or_else(|| "unknown".into()),
            processor: model
                .map_or("unknown", |(_, model)| model.trim())
                .to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
        }
    }
}

impl fmt::Display for HostFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostFacts {
            processor,
            processors,
            kernel,
            revision,
            ..
        } = self;
        write!(
            f,
            "{processor}, {processors} CPUs, Linux {kernel}, revision {revision}"
        )?;
        match Source::of_this_cpu() {
            Source::Nested => f.write_str("; a hypervisor is below"),
            _ => Ok(()),
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

/// The host's load at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Average number of runnable threads in the last minute (proc_loadavg(5)).
    pub average: f64,
    /// Times that the processors have spent until now, in clock ticks (proc_stat(5)): all, not idle,
    /// given to other VMs, and for this program (proc_pid_stat(5)).
    all: u64,
    busy: u64,
    stolen: u64,
    own: u64,
}

/// Shares of the processors' time between two moments, in percent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shares {
    /// Share in which the processors worked.
    pub busy: f64,
    /// Share in which they worked for this program.
    pub own: f64,
    /// Share that the hypervisor gave to other VMs.
    pub stolen: f64,
}

impl Load {
    /// The load now.
    pub fn now() -> Load {
        let first = |path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().next().unwrap_or_default().to_owned()
        };
        let average = first("/proc/loadavg");
        let average = average.split(' ').next().and_then(|word| word.parse().ok());
        // user, nice, system, idle, iowait, irq, softirq, steal
        let times: Vec<u64> = first("/proc/stat")
            .split_whitespace()
            .skip(1)
            .take(8)
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let time = |number: usize| times.get(number).copied().unwrap_or(0);
        let (all, stolen) = (times.iter().sum(), time(7));
        // Behind the program's name: state, and ten fields on utime and stime.
        let own = first("/proc/self/stat");
        let own = own.rsplit(") ").next().unwrap_or_default().split(' ');
        let own = own
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok());
        Load {
            average: average.unwrap_or(0.0),
            all,
            busy: all - time(3) - time(4) - stolen,
            stolen,
            own: own.sum(),
        }
    }

    /// The shares of the time from this moment to a later one.
    pub fn until(self, later: Load) -> Shares {
        let share = |time: fn(&Load) -> u64| {
            let all = (later.all - self.all).max(1);
            (time(&later) - time(&self)) as f64 * 100.0 / all as f64
        };
        Shares {
            busy: share(|load| load.busy),
            own: share(|load| load.own),
            stolen: share(|load| load.stolen),
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
