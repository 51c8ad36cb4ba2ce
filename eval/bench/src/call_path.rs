//! Paths of calls by their names, for serde.

use postern_abi::platform::CallPath;
use serde::{Deserialize, Deserializer, Serializer, de};

/// Writes a path's name.
///
/// # Errors
///
/// Those of the serialiser.
pub fn serialize<S: Serializer>(path: &CallPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(path.name())
}

/// Reads a path's name.
///
/// # Errors
///
/// A name that no path has.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CallPath, D::Error> {
    let name = String::deserialize(deserializer)?;
    CallPath::from_name(&name).ok_or_else(|| {
        let names = CallPath::ALL.map(CallPath::name).join(", ");
        de::Error::custom(format!("no path is called {name:?}; there are {names}"))
    })
}
