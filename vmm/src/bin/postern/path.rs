//! Paths by name, in flags and files.

use postern_abi::machine::Path;

/// The path of that name, or what there is instead.
pub fn parse(name: &str) -> Result<Path, String> {
    Path::from_name(name).ok_or_else(|| {
        let names = Path::ALL.map(Path::name);
        format!("no such path; there are {}", names.join(", "))
    })
}
