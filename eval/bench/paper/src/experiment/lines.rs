//! Lines of an experiment's CSV files.

use serde::de::DeserializeOwned;

/// The lines of a file with a head, each with its number in the file.
///
/// # Errors
///
/// Of a line: that it is none of this kind.
pub fn read<T: DeserializeOwned>(text: &str) -> impl Iterator<Item = csv::Result<(usize, T)>> {
    let reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    // The first line is the head.
    (2..)
        .zip(reader.into_deserialize())
        .map(|(number, line)| Ok((number, line?)))
}
