//! The values of a figure as a table of text.

use postern_bench::text_table::TextTable;

use crate::experiment::Experiment;
use crate::quantity::Quantity;
use crate::results::FigureResults;

/// A row for each point, a column for each quantity that was measured.
pub fn of(experiment: &Experiment, results: &FigureResults) -> TextTable {
    let definition = &experiment.definition;
    let used = |quantity: &Quantity| {
        let mut values = results.values.iter();
        values.any(|value| value.quantity == *quantity)
    };
    let columns: Vec<Quantity> = Quantity::ALL.into_iter().filter(used).collect();
    let base = definition.base.as_deref();
    // Ratios are of instructions.
    let base = base.filter(|_| columns.contains(&Quantity::TotalInstructions));
    let mut head = vec!["series"];
    head.extend(definition.axis.as_ref().map(|axis| axis.name.as_str()));
    head.extend(columns.iter().map(|quantity| quantity.heading()));
    head.extend(base.map(|_| "ratio"));
    let mut table = TextTable::new(&head);
    for point in &results.about.points {
        let value = |series: &str, quantity| results.value(series, point.x, quantity);
        let mut cells = vec![point.series.clone()];
        cells.extend(definition.axis.as_ref().map(|_| match point.x {
            Some(x) => x.to_string(),
            None => "-".to_owned(),
        }));
        let number =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        cells.extend(
            columns
                .iter()
                .map(|&quantity| number(value(&point.series, quantity))),
        );
        cells.extend(base.map(|base| {
            let of = |series| value(series, Quantity::TotalInstructions);
            let ratio = of(base)
                .zip(of(&point.series))
                .map(|(base, own)| base / own);
            number(ratio.filter(|ratio| ratio.is_finite()))
        }));
        table.row(cells);
    }
    table
}
