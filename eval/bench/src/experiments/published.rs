//! Values that others published, from an experiment's `published.csv`.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::quantity::Quantity;

/// A published value: one line of the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedValue {
    /// System that was measured, as its paper calls it.
    pub system: String,
    /// Quantity that was measured.
    pub quantity: Quantity,
    /// The value, in the quantity's unit.
    pub value: f64,
    /// How exact it is: `quoted` (printed as a number), `derived` (our arithmetic on quoted
    /// values).
    pub exactness: String,
    /// Publication, and place in it.
    pub source: String,
}

/// The first line of the file.
#[cfg(test)]
pub const HEAD: &str = "system,quantity,value,exactness,source\n";

/// Reads the file's content.
///
/// # Errors
///
/// The first line that is no published value, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<PublishedValue>> {
    let mut values = Vec::new();
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    for value in reader.deserialize() {
        let value: PublishedValue = value.context("a line is no published value")?;
        let name = format!("{}, {}", value.system, value.quantity.name());
        ensure!(!value.source.is_empty(), "{name}: no source is named");
        ensure!(
            ["quoted", "derived"].contains(&value.exactness.as_str()),
            "{name}: exactness is {:?}, where quoted or derived is possible",
            value.exactness
        );
        ensure!(value.value.is_finite(), "{name}: the value is no number");
        values.push(value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        let text = format!("{HEAD}X,round_trip_ns,196,quoted,\"slides, p. 62\"\n");
        let values = parse(&text).unwrap();
        assert_eq!(values.len(), 1);
        assert_eq!(
            (values[0].value, &*values[0].source),
            (196.0, "slides, p. 62")
        );
    }

    #[test]
    fn mistakes_are_told() {
        for (line, part) in [
            ("X,round_trip_ns,fast,quoted,y", "line: 2"),
            ("X,speed,1,quoted,y", "speed"),
            ("X,round_trip_ns,1,guessed,y", "guessed"),
            ("X,round_trip_ns,1,quoted,", "no source"),
            ("X,round_trip_ns,NaN,quoted,y", "no number"),
            ("X,round_trip_ns,1,quoted", "line: 2"),
        ] {
            let error = format!("{:#}", parse(&format!("{HEAD}{line}\n")).unwrap_err());
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
