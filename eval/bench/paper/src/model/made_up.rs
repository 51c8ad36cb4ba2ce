//! Made-up results, for tests.

use crate::quantity::Quantity;
use crate::results::{About, FigureResults, PointAbout, Value};
use crate::workload::Workload;

/// A point: series, place on the axis, workload, values.
pub type Point<'a> = (&'a str, Option<u32>, Workload, &'a [(Quantity, f64)]);

/// Results of these points.
pub fn results(points: &[Point<'_>]) -> FigureResults {
    let about = |(series, x, workload, _): &Point<'_>| PointAbout {
        series: (*series).to_owned(),
        x: *x,
        workload: workload.clone(),
        failure: None,
    };
    let values = |(series, x, _, values): &Point<'_>| -> Vec<Value> {
        let value = |&(quantity, value): &(Quantity, f64)| Value {
            series: (*series).to_owned(),
            x: *x,
            quantity,
            value,
            low: value,
            high: value,
            label: "emulated".into(),
        };
        values.iter().map(value).collect()
    };
    FigureResults {
        about: About {
            experiment: "fig-00_x".into(),
            definition_sha256: String::new(),
            points_sha256: String::new(),
            repeats_sha256: String::new(),
            points: points.iter().map(about).collect(),
            kernel: String::new(),
            machine: String::new(),
            seconds: 0.0,
        },
        values: points.iter().flat_map(values).collect(),
        repeats: Vec::new(),
    }
}

/// Traffic on a path, of frames of a size.
pub fn traffic(path: &str, size: u32) -> Workload {
    let text = format!("kind = 'traffic'\npath = {path:?}\nsize = {size}\nbatch = 32");
    toml::from_str(&text).unwrap()
}
