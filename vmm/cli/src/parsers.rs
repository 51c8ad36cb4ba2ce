//! Things that flags call by name.
#![deny(unsafe_code)]

use postern_abi::machine::Path;
use postern_vmm::event_counters::CounterSource;

/// The path of that name, or what there is instead.
pub fn path(name: &str) -> Result<Path, String> {
    Path::from_name(name).ok_or_else(|| {
        let names = Path::ALL.map(Path::name);
        format!("no such path; there are {}", names.join(", "))
    })
}

/// The counters of that name, or what there is instead.
pub fn counters(name: &str) -> Result<CounterSource, String> {
    CounterSource::from_name(name).ok_or_else(|| {
        let names = CounterSource::ALL.map(|(name, _)| name);
        format!("no such counters; there are {}", names.join(", "))
    })
}
