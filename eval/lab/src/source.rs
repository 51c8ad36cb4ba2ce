//! Where a figure comes from, for serde.

use serde::Serializer;

pub use postern_abi::source::Source;

/// Writes a label's name.
///
/// # Errors
///
/// Those of the serialiser.
pub fn serialize<S: Serializer>(source: &Source, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(source.name())
}
