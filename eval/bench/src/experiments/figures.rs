//! Figures of an experiment: measured and published values, each with its label.

use std::fmt;
use std::io;
use std::path::Path as FilePath;

use postern_lab::output;
use postern_lab::source::{self, Source};
use serde::Serialize;

use super::published::PublishedValue;
use super::quantity::Quantity;
use crate::report::CallRow;
use crate::text_table::TextTable;

/// Label of a figure: where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", untagged)]
pub enum Label {
    /// Measured here.
    #[serde(serialize_with = "source::serialize")]
    Measured(Source),
    /// Published by others.
    Published(Published),
}

/// The label of a published figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Published {
    /// Published by others.
    Published,
}

impl Label {
    /// Published by others.
    pub const PUBLISHED: Label = Label::Published(Published::Published);

    /// Name of the label in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Label::Measured(source) => source.name(),
            Label::Published(_) => "published",
        }
    }
}

/// A figure: one number of one system.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Our path, or the system as its paper calls it.
    pub system: String,
    /// Quantity that it is a number of.
    pub quantity: Quantity,
    /// The number.
    pub value: f64,
    /// Label that says where it comes from.
    pub label: Label,
    /// Publication and place in it, of a published figure.
    pub source: String,
}

/// All figures of an experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// The figures of measured calls and of published values.
    pub fn new(source: Source, calls: &[CallRow], published: &[PublishedValue]) -> Figures {
        let mut figures = Vec::new();
        for call in calls {
            let values = [
                (Quantity::GuestInstructions, Some(call.guest_instructions)),
                (Quantity::TotalInstructions, Some(call.total_instructions)),
                (Quantity::VmExits, Some(call.vm_exits)),
                (Quantity::Vmfuncs, call.vmfuncs),
                (Quantity::RatioToExitKernel, call.ratio_to_exit_kernel),
            ];
            for (quantity, value) in values {
                figures.extend(value.map(|value| Figure {
                    system: call.path.name().to_owned(),
                    quantity,
                    value,
                    label: Label::Measured(source),
                    source: String::new(),
                }));
            }
        }
        figures.extend(published.iter().map(|value| Figure {
            system: value.system.clone(),
            quantity: value.quantity,
            value: value.value,
            label: Label::PUBLISHED,
            source: format!("{} ({})", value.source, value.exactness),
        }));
        Figures(figures)
    }

    /// The systems in the order of the table, each with the label of its figures.
    fn systems(&self) -> Vec<(&str, Label)> {
        let mut systems = Vec::new();
        for figure in &self.0 {
            let system = (figure.system.as_str(), figure.label);
            if !systems.contains(&system) {
                systems.push(system);
            }
        }
        systems
    }

    fn value(&self, (system, label): (&str, Label), quantity: Quantity) -> Option<f64> {
        let mut figures = self.0.iter();
        let found = figures.find(|figure| {
            figure.system == system && figure.label == label && figure.quantity == quantity
        });
        found.map(|figure| figure.value)
    }

    /// Each system that has a figure of this quantity, with its label and that figure.
    pub fn of(&self, quantity: Quantity) -> Vec<(&str, Label, f64)> {
        let systems = self.systems().into_iter();
        systems
            .filter_map(|system| Some((system.0, system.1, self.value(system, quantity)?)))
            .collect()
    }

    /// Writes all figures as CSV, one a line, to a file that appears whole or not at all.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn write_csv(&self, file: &FilePath) -> io::Result<()> {
        output::write_whole(file, |out| {
            let mut writer = csv::Writer::from_writer(out);
            for figure in &self.0 {
                writer.serialize(figure).map_err(io::Error::other)?;
            }
            writer.flush()
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = |quantity: &Quantity| self.0.iter().any(|figure| figure.quantity == *quantity);
        let columns: Vec<_> = Quantity::ALL.into_iter().filter(used).collect();
        let mut head = vec!["system"];
        head.extend(columns.iter().map(|quantity| quantity.heading()));
        head.push("label");
        let mut table = TextTable::new(&head);
        for system in self.systems() {
            let mut cells = vec![system.0.to_owned()];
            cells.extend(columns.iter().map(|&quantity| {
                let value = self.value(system, quantity);
                value.map_or("-".to_owned(), |value| format!("{value:.2}"))
            }));
            cells.push(system.1.name().to_owned());
            table.row(cells);
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let figure = |system: &str, quantity, value, label| Figure {
            system: system.to_owned(),
            quantity,
            value,
            label,
            source: String::new(),
        };
        let emulated = Label::Measured(Source::Emulated);
        Figures(vec![
            figure("elisa", Quantity::TotalInstructions, 27.0, emulated),
            figure("elisa", Quantity::RatioToExitKernel, 30.0, emulated),
            figure("ELISA", Quantity::RoundTripNs, 196.0, Label::PUBLISHED),
        ])
    }

    #[test]
    fn every_row_and_line_has_its_label() {
        let text = figures().to_string();
        let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(row("elisa").ends_with("emulated"), "{text}");
        assert!(row("ELISA").ends_with("published"), "{text}");
        // What a system has no figure of is no zero.
        assert!(row("ELISA").contains(" - "), "{text}");
        assert!(!text.contains("VMFUNCs"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results.csv");
        figures().write_csv(&file).unwrap();
        let csv = std::fs::read_to_string(&file).unwrap();
        assert!(
            csv.starts_with("system,quantity,value,label,source\n"),
            "{csv}"
        );
        assert!(
            csv.contains("elisa,total_instructions,27.0,emulated,"),
            "{csv}"
        );
        assert!(
            csv.contains("ELISA,round_trip_ns,196.0,published,"),
            "{csv}"
        );
    }

    #[test]
    fn a_quantity_is_that_of_the_systems_that_have_it() {
        let figures = figures();
        let ratios = figures.of(Quantity::RatioToExitKernel);
        assert_eq!(ratios.len(), 1);
        assert_eq!((ratios[0].0, ratios[0].2), ("elisa", 30.0));
    }
}
