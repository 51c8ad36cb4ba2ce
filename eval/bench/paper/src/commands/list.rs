//! `cargo paper list`.

use anyhow::Result;
use postern_bench::text_table::TextTable;

use super::say;
use crate::experiment;

/// Prints all figures: what each shows, how many points it has, and how long it takes.
///
/// # Errors
///
/// A folder that describes no experiment.
pub fn list() -> Result<()> {
    let mut table = TextTable::new(&["figure", "points", "quick", "minutes", "what it shows"]);
    for experiment in experiment::all(experiment::root())? {
        let definition = &experiment.definition;
        let points = |quick| (definition.places(quick).len() * definition.series.len()).to_string();
        table.row(vec![
            experiment.name.clone(),
            points(false),
            points(true),
            match &definition.not_yet {
                Some(_) => "not yet".to_owned(),
                None => format!("{:.1}", definition.minutes),
            },
            format!("{} ({})", definition.title, definition.paper),
        ]);
    }
    say(&table.to_string());
    Ok(())
}
