//! Things that flags call by name.

use postern_abi::machine::Path;
use postern_vmm::counters::Kind;

/// The path of that name, or what there is instead.
pub fn path(name: &str) -> Result<Path, String> {
    Path::from_name(name).ok_or_else(|| {
        let names = Path::ALL.map(Path::name);
        format!("no such path; there are {}", names.join(", "))
    })
}

/// The counters of that name, or what there is instead.
pub fn counters(name: &str) -> Result<Kind, String> {
    Kind::from_name(name).ok_or_else(|| {
        let names = Kind::ALL.map(|(name, _)| name);
        format!("no such counters; there are {}", names.join(", "))
    })
}
