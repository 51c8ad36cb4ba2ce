//! Values that others published, from an experiment's `published.csv`.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::lines;

/// A published value: one line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedValue {
    /// Publication: system, venue and year.
    pub paper: String,
    /// Figure or table in it.
    pub figure: String,
    /// System that was measured, as its paper calls it.
    pub system: String,
    /// Workload, in words.
    pub workload: String,
    /// Place on the horizontal axis: a number where that has numbers, otherwise words or nothing.
    pub x: String,
    /// The value: a number, or a word of a table; empty where it was published as an image alone.
    pub y: String,
    /// Unit of the value.
    pub unit: String,
    /// How exact it is: one of [`EXACTNESS`], with the resolution of a drawing in brackets.
    pub exactness: String,
    /// Where it is to be found.
    pub source: String,
}

/// Words that say how exact a published value is.
///
/// | word | meaning |
/// | --- | --- |
/// | quoted | printed as a number in the source |
/// | vector-extracted | computed from the coordinates of a drawing |
/// | derived | our arithmetic on such values |
/// | sample-output | output of a program, printed in its documentation |
/// | secondary-quote | printed in the source as a value of somebody else |
/// | not available | published as an image alone |
pub const EXACTNESS: [&str; 6] = [
    "quoted",
    "vector-extracted",
    "derived",
    "sample-output",
    "secondary-quote",
    "not available",
];

impl PublishedValue {
    /// The place on the horizontal axis, where that is a number.
    pub fn x(&self) -> Option<f64> {
        self.x.parse().ok()
    }

    /// The value, where it is a number.
    pub fn y(&self) -> Option<f64> {
        self.y.parse().ok()
    }
}

/// The first line of the file.
pub const HEAD: &str = "paper,figure,system,workload,x,y,unit,exactness,source\n";

/// Reads the file's content.
///
/// # Errors
///
/// The first line that is no published value, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<PublishedValue>> {
    let mut values = Vec::new();
    for read in lines::read(text) {
        let (line, value): (usize, PublishedValue) =
            read.context("a line is no published value")?;
        ensure!(!value.paper.is_empty(), "line {line}: no paper is named");
        ensure!(!value.source.is_empty(), "line {line}: no source is named");
        ensure!(!value.system.is_empty(), "line {line}: no system is named");
        ensure!(
            EXACTNESS
                .iter()
                .any(|word| value.exactness.starts_with(word)),
            "line {line}: exactness is {:?}, where {} are possible",
            value.exactness,
            EXACTNESS.join(", ")
        );
        let available = !value.exactness.starts_with("not available");
        ensure!(
            available != value.y.is_empty(),
            "line {line}: a value has a y unless it is not available"
        );
        for (name, text) in [("x", &value.x), ("y", &value.y)] {
            let number = text.parse::<f64>().is_ok_and(|number| !number.is_finite());
            ensure!(!number, "line {line}: {name} is no number: {text}");
        }
        values.push(value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        let text =
            format!("{HEAD}P,f,X,w,64,8.5,Mpps,vector-extracted(+-0.005),\"slides, p. 62\"\n");
        let values = parse(&text).unwrap();
        assert_eq!(values.len(), 1);
        assert_eq!((values[0].x(), values[0].y()), (Some(64.0), Some(8.5)));
        assert_eq!(values[0].source, "slides, p. 62");
    }

    #[test]
    fn mistakes_are_told() {
        for (line, part) in [
            ("P,f,X,w,1,2,ns,guessed,s", "guessed"),
            ("P,f,X,w,1,2,ns,quoted,", "line 2: no source"),
            ("P,f,,w,1,2,ns,quoted,s", "no system"),
            (",f,X,w,1,2,ns,quoted,s", "no paper"),
            ("P,f,X,w,1,NaN,ns,quoted,s", "no number"),
            ("P,f,X,w,1,,ns,quoted,s", "has a y"),
            ("P,f,X,w,1,3,ns,not available,s", "has a y"),
            ("P,f,X,w,1,2,ns,quoted", "line: 2"),
        ] {
            let error = format!("{:#}", parse(&format!("{HEAD}{line}\n")).unwrap_err());
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
