//! Counters of instructions, VMFUNCs, VM exits and entries, read at every snapshot that a guest
//! asks for. They are those of the emulated machine ([`postern_abi::emulated`]) or of the CPU
//! (perf).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::str::FromStr;

use perf_event_open_sys::bindings::{
    PERF_COUNT_HW_INSTRUCTIONS, PERF_FORMAT_GROUP, PERF_TYPE_HARDWARE, perf_event_attr,
};
use postern_abi::emulated;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use x86_64::instructions::port::Port;

/// Why counters cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ports of the counters are not open to this process.
    #[error(
        "no permission for the counter ports {first:#x} to {last:#x} (ioperm): run as root, or \
         without --counters emulated",
        first = emulated::PORT_LATCH,
        last = emulated::PORT_LATCH + emulated::PORT_COUNT - 1
    )]
    Permission(#[source] io::Error),
    /// This is no emulated machine of ours.
    #[error(
        "this machine has no emulated counters (port {port:#x} answers {found:#x}, not \
         {magic:#x}): use --counters perf or none",
        port = emulated::PORT_MAGIC,
        magic = emulated::MAGIC
    )]
    NotEmulated {
        /// The answer of the port.
        found: u32,
    },
    /// A hardware counter cannot be had.
    #[error(
        "cannot open the performance counter {event}: it needs a CPU with counters that the host \
         gives out, and kernel.perf_event_paranoid of 1 or less (or root)"
    )]
    Perf {
        /// Name of the counter, as perf(1) has it.
        event: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// Whose counters to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CounterSource {
    /// None.
    #[default]
    None,
    /// The exact counters of the emulated machine.
    Emulated,
    /// The CPU's performance counters, for the vCPU's thread.
    Perf,
}

impl CounterSource {
    /// Each name with its source.
    pub const ALL: [(&'static str, CounterSource); 3] = [
        ("none", CounterSource::None),
        ("emulated", CounterSource::Emulated),
        ("perf", CounterSource::Perf),
    ];

    /// Name of the source.
    pub fn name(self) -> &'static str {
        let found = CounterSource::ALL
            .into_iter()
            .find(|(_, kind)| *kind == self);
        found.map_or("", |(name, _)| name)
    }
}

/// No counters have that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such counters; there are {}", CounterSource::ALL.map(|(name, _)| name).join(", "))]
pub struct CounterSourceError;

impl FromStr for CounterSource {
    type Err = CounterSourceError;

    fn from_str(name: &str) -> Result<CounterSource, CounterSourceError> {
        let mut all = CounterSource::ALL.into_iter();
        let found = all.find(|(known, _)| *known == name);
        found.map(|(_, source)| source).ok_or(CounterSourceError)
    }
}

impl Serialize for CounterSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for CounterSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CounterSource, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(de::Error::custom)
    }
}

/// Values of counters at one moment; what is not counted is absent. They run from a moment before
/// the VM's start: only differences mean something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventCounts {
    /// Instructions of host and guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_instructions: Option<u64>,
    /// Instructions in guest mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_instructions: Option<u64>,
    /// VMFUNCs that switched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmfuncs: Option<u64>,
    /// VM exits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_exits: Option<u64>,
    /// VM entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_entries: Option<u64>,
}

/// Whether this is the emulated machine, as far as this process may ask (as root).
pub fn is_emulated() -> bool {
    EmulatedCounters::open().is_ok()
}

/// Open counters. They belong to the thread that opened them.
#[derive(Debug)]
pub enum EventCounters {
    /// EventCounts nothing.
    None,
    /// See [`CounterSource::Emulated`].
    Emulated(EmulatedCounters),
    /// See [`CounterSource::Perf`].
    Perf(PerfCounters),
}

impl EventCounters {
    /// Opens the counters for the calling thread.
    ///
    /// # Errors
    ///
    /// When the machine has none, or not for this process.
    pub fn open(source: CounterSource) -> Result<EventCounters, Error> {
        Ok(match source {
            CounterSource::None => EventCounters::None,
            CounterSource::Emulated => EventCounters::Emulated(EmulatedCounters::open()?),
            CounterSource::Perf => EventCounters::Perf(PerfCounters::open()?),
        })
    }

    /// Reads all counters as of one moment. Call it from the thread that opened them, and before
    /// any other work that is to be measured from here on.
    pub fn read(&mut self) -> EventCounts {
        match self {
            EventCounters::None => EventCounts::default(),
            EventCounters::Emulated(counters) => counters.read(),
            EventCounters::Perf(counters) => counters.read(),
        }
    }
}

/// The counters of [`postern_abi::emulated`].
#[derive(Debug)]
pub struct EmulatedCounters {
    /// Port permissions are a thread's own: the value must stay on it.
    _thread: std::marker::PhantomData<*const ()>,
}

impl EmulatedCounters {
    fn open() -> Result<EmulatedCounters, Error> {
        open_ports().map_err(Error::Permission)?;
        let counters = EmulatedCounters {
            _thread: std::marker::PhantomData,
        };
        match counters.port(emulated::PORT_MAGIC) {
            emulated::MAGIC => Ok(counters),
            found => Err(Error::NotEmulated { found }),
        }
    }

    fn read(&self) -> EventCounts {
        let mut latch = Port::<u32>::new(emulated::PORT_LATCH);
        // SAFETY: `open` has opened the port for this thread, which the value cannot leave; the
        // write only makes the machine copy its counters.
        unsafe { latch.write(0) };
        let counter =
            |port| Some(u64::from(self.port(port)) | (u64::from(self.port(port + 4)) << 32));
        EventCounts {
            total_instructions: counter(emulated::PORT_INSTRUCTIONS),
            guest_instructions: counter(emulated::PORT_GUEST_INSTRUCTIONS),
            vmfuncs: counter(emulated::PORT_VMFUNCS),
            vm_exits: counter(emulated::PORT_VM_EXITS),
            vm_entries: counter(emulated::PORT_VM_ENTRIES),
        }
    }

    fn port(&self, port: u16) -> u32 {
        let mut port = Port::<u32>::new(port);
        // SAFETY: `open` has opened the port for this thread, which the value cannot leave, and a
        // read of these ports has no effect.
        unsafe { port.read() }
    }
}

/// Opens the counter ports for the calling thread.
fn open_ports() -> io::Result<()> {
    let (first, count) = (emulated::PORT_LATCH.into(), emulated::PORT_COUNT.into());
    // SAFETY: opens ports that no device of a PC has; reading and writing them changes nothing that
    // Rust knows of.
    match unsafe { libc::ioperm(first, count, 1) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Instructions of a thread in guest mode alone and with the host's, as perf's `instructions:G` and
/// `instructions:GH`.
#[derive(Debug)]
pub struct PerfCounters {
    leader: File,
    _total: File,
}

impl PerfCounters {
    fn open() -> Result<PerfCounters, Error> {
        let leader = open_event("instructions:G", None)?;
        let total = open_event("instructions:GH", Some(&leader))?;
        Ok(PerfCounters {
            leader,
            _total: total,
        })
    }

    fn read(&mut self) -> EventCounts {
        // PERF_FORMAT_GROUP: the number of counters, then their values in the order of opening.
        let mut bytes = [0; 24];
        if self.leader.read_exact(&mut bytes).is_err() {
            return EventCounts::default();
        }
        let value = |index: usize| {
            let bytes = bytes.get(index * 8..index * 8 + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        EventCounts {
            guest_instructions: value(1),
            total_instructions: value(2),
            ..EventCounts::default()
        }
    }
}

fn open_event(event: &'static str, group: Option<&File>) -> Result<File, Error> {
    let mut attributes = perf_event_attr {
        type_: PERF_TYPE_HARDWARE,
        size: size_of::<perf_event_attr>() as u32,
        config: u64::from(PERF_COUNT_HW_INSTRUCTIONS),
        read_format: u64::from(PERF_FORMAT_GROUP),
        ..Default::default()
    };
    if group.is_none() {
        attributes.set_exclude_host(1);
    }
    let group = group.map_or(-1, AsRawFd::as_raw_fd);
    const CLOEXEC: libc::c_ulong = 8;
    // SAFETY: the attributes are valid and of the size they say; the calling thread is counted.
    let fd =
        unsafe { perf_event_open_sys::perf_event_open(&mut attributes, 0, -1, group, CLOEXEC) };
    if fd < 0 {
        return Err(Error::Perf {
            event,
            source: io::Error::last_os_error(),
        });
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_are_not_there_are_refused() {
        // Only the emulated machine has these ports; wherever the tests run instead, the answer
        // must be an error, not zeros.
        match EventCounters::open(CounterSource::Emulated) {
            Ok(_) => println!("SKIP: this is the emulated machine"),
            Err(Error::NotEmulated { .. } | Error::Permission(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn perf_counts_go_up() {
        let mut counters = match EventCounters::open(CounterSource::Perf) {
            Ok(counters) => counters,
            Err(error) => return println!("SKIP: {error}"),
        };
        let first = counters.read();
        let second = counters.read();
        assert!(second.total_instructions > first.total_instructions);
        assert!(second.guest_instructions >= first.guest_instructions);
    }

    #[test]
    fn no_counters_count_nothing() {
        let counts = EventCounters::open(CounterSource::None).unwrap().read();
        assert_eq!(serde_json::to_string(&counts).unwrap(), "{}");
    }
}
