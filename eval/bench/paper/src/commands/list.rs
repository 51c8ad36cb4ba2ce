//! `cargo paper list`.

use anyhow::Result;

use super::say;
use crate::bundle;
use crate::experiment;

/// Prints all figures: what each shows, how many points it has, and how long it takes.
///
/// # Errors
///
/// A folder that describes no experiment.
pub fn list() -> Result<()> {
    for experiment in experiment::all(bundle::root())? {
        let definition = &experiment.definition;
        let places: Vec<_> = definition.at.iter().map(|place| place.name()).collect();
        say(&format!("{}  {}", experiment.name, definition.title));
        say(&format!("    beside: {}", definition.paper));
        say(&match &definition.not_yet {
            Some(why) => format!("    not yet: {why}"),
            None if definition.table.is_some() => "    a table: nothing to run".to_owned(),
            None => format!(
                "    {} points, {} with --quick; about {:.1} min in the emulated machine; runs at: {}",
                definition.points(false),
                definition.points(true),
                definition.minutes,
                places.join(", ")
            ),
        });
    }
    Ok(())
}
