//! Tables of a figure: what was measured and projected, and what was published.

use std::collections::BTreeMap;

use super::points::{Ours, published};
use super::view::{Column, Table, Titled};
use crate::experiment::{Experiment, PlottedQuantity, PublishedValue, Step};
use crate::model::{Band, CostModel, Counts};
use crate::plot::{Kind, number};
use crate::quantity::Quantity;
use crate::results::PointAbout;

/// What stands where there is no value.
pub const NOTHING: &str = "–";

/// A band in words: its middle, and its limits in brackets.
pub fn band(band: Band) -> String {
    let Band { low, middle, high } = band;
    if low == high {
        return number(middle);
    }
    format!("{} ({} to {})", number(middle), number(low), number(high))
}

/// The values of a figure: a row for each point, a column for each quantity with its label.
pub fn of_figure(experiment: &Experiment, ours: &Ours<'_>) -> Table {
    let definition = &experiment.definition;
    let points = &ours.results.about.points;
    let mut table = Table::new(&["series"]);
    let mut cells: Vec<Vec<String>> = points
        .iter()
        .map(|point| vec![point.series.clone()])
        .collect();
    let mut add = |column: Column, cell: &dyn Fn(&PointAbout) -> Option<String>| {
        let new: Vec<Option<String>> = points.iter().map(cell).collect();
        if new.iter().any(Option::is_some) {
            table.columns.push(column);
            for (row, new) in cells.iter_mut().zip(new) {
                row.push(new.unwrap_or_else(|| NOTHING.to_owned()));
            }
        }
    };
    if let Some(axis) = &definition.axis {
        add(Column::plain(&axis.name), &|point| {
            point.x.map(|x| x.to_string())
        });
    }
    for quantity in Quantity::ALL {
        add(Column::labelled(quantity.heading(), ours.label), &|point| {
            let value = ours.results.band(&point.series, point.x, quantity);
            match quantity {
                Quantity::Repelled => value.map(|_| "yes".to_owned()),
                _ => value.map(band),
            }
        });
    }
    if let Some(base) = &definition.base {
        let name = format!("instr of {base} / own");
        add(Column::labelled(&name, ours.label), &|point| {
            let value = |series| {
                ours.results
                    .value(series, point.x, Quantity::TotalInstructions)
            };
            let ratio = value(base)? / value(&point.series)?;
            ratio.is_finite().then(|| number(ratio))
        });
    }
    // What follows from the measured values: projected, or on hardware a measured time.
    let mut follows = vec![(PlottedQuantity::Cycles, "cycles".to_owned())];
    for plot in &definition.plots {
        let name = match plot.quantity {
            PlottedQuantity::Rate => "rate, M/s".to_owned(),
            PlottedQuantity::Ratio => "ratio to base".to_owned(),
            _ => continue,
        };
        follows.push((plot.quantity, name));
    }
    for (quantity, name) in follows {
        for kind in [Kind::Projected, Kind::Measured] {
            let label = match kind {
                Kind::Projected => "projected",
                _ => ours.label,
            };
            add(Column::labelled(&name, label), &|point| {
                let (found, value) = ours.value(quantity, &point.series, point.x)?;
                (found == kind).then(|| band(value))
            });
        }
    }
    for plot in &definition.plots {
        let Some(drawn) = &plot.published else {
            continue;
        };
        let all = published(experiment, plot.quantity, drawn);
        let name = match plot.quantity {
            PlottedQuantity::Ratio => "ratio to base",
            _ => &drawn.unit,
        };
        add(Column::labelled(name, "published"), &|point| {
            let mut series = definition.series.iter();
            let series = series.find(|series| series.name == point.series)?;
            let system = series.published.as_ref()?;
            let system = all.iter().find(|one| one.system == *system)?;
            let place = point.x.map(f64::from);
            let mut points = system.points.iter();
            let (_, value) = points.find(|(x, _)| *x == place)?;
            Some(number(*value))
        });
    }
    table.rows = cells;
    table
}

/// The steps of work of each series, as the code says them, and what the cost model makes of them;
/// nothing if there are none.
pub fn of_steps(steps: &[Step], model: &CostModel) -> Option<Titled> {
    let mut table = Table::new(&["series", "step", "instructions", "VMFUNCs"]);
    table.columns.push(Column::labelled("cycles", "projected"));
    let mut add = |series: &str, name: &str, steps: &mut dyn Iterator<Item = &Step>| {
        let (mut instructions, mut vmfuncs) = (0, 0);
        for step in steps {
            instructions += step.instructions;
            vmfuncs += step.vmfuncs;
        }
        let cycles = model.cycles(&Counts {
            guest_instructions: f64::from(instructions - vmfuncs),
            vmfuncs: f64::from(vmfuncs),
            ..Counts::default()
        });
        table.row([
            series.to_owned(),
            name.to_owned(),
            instructions.to_string(),
            vmfuncs.to_string(),
            band(cycles),
        ]);
    };
    let mut rest = steps;
    while let Some(first) = rest.first() {
        let same = |step: &&Step| step.series == first.series;
        let count = rest.iter().take_while(same).count();
        let (of_series, others) = rest.split_at(count);
        for step in of_series {
            add(&step.series, &step.step, &mut std::iter::once(step));
        }
        add(&first.series, "all", &mut of_series.iter());
        rest = others;
    }
    (!steps.is_empty()).then(|| Titled {
        title: "Step by step, as the code says it".to_owned(),
        table,
    })
}

/// The published values: a grid for each unit of those that lie on an axis, a list of the others.
pub fn of_published(values: &[PublishedValue]) -> Vec<Titled> {
    let mut grids: BTreeMap<(&str, &str), Vec<&PublishedValue>> = BTreeMap::new();
    let mut others: Vec<&PublishedValue> = Vec::new();
    for value in values {
        match (value.x(), value.y()) {
            (Some(_), Some(_)) => grids
                .entry((&value.figure, &value.unit))
                .or_default()
                .push(value),
            _ => others.push(value),
        }
    }
    let mut tables = Vec::new();
    for ((figure, unit), values) in grids {
        match grid(&values) {
            Some(table) => tables.push(Titled {
                title: format!("{figure}, {unit}"),
                table,
            }),
            None => tables.push(Titled {
                title: format!("{figure}, {unit}"),
                table: by_system(&values),
            }),
        }
    }
    if !others.is_empty() {
        tables.push(Titled {
            title: "Single values".to_owned(),
            table: list(&others),
        });
    }
    tables
}

/// Rows of places and columns of systems; none for systems whose places are not the same.
fn grid(values: &[&PublishedValue]) -> Option<Table> {
    let mut systems: Vec<&str> = Vec::new();
    let mut places: Vec<f64> = Vec::new();
    for value in values {
        if !systems.contains(&&value.system[..]) {
            systems.push(&value.system);
        }
        let x = value.x()?;
        if !places.contains(&x) {
            places.push(x);
        }
    }
    if places.len() * systems.len() > 2 * values.len() || places.len() < 2 {
        return None;
    }
    places.sort_by(f64::total_cmp);
    let mut table = Table::new(&["x"]);
    let labelled = systems.iter();
    table
        .columns
        .extend(labelled.map(|system| Column::labelled(system, "published")));
    for x in places {
        let mut row = vec![number(x)];
        for system in &systems {
            let mut all = values.iter();
            let value = all.find(|value| value.system == *system && value.x() == Some(x));
            row.push(value.map_or(NOTHING.to_owned(), |value| value.y.clone()));
        }
        table.row(row);
    }
    Some(table)
}

/// A row for each system, with places and values: for systems whose places differ.
fn by_system(values: &[&PublishedValue]) -> Table {
    let mut table = Table::new(&["system"]);
    let column = Column::labelled("place: value", "published");
    table.columns.push(column);
    for value in values {
        let point = format!("{}: {}", value.x, value.y);
        let mut rows = table.rows.iter_mut();
        match rows.find(|row| row[0] == value.system) {
            Some(row) => row[1] += &format!("; {point}"),
            None => table.row([value.system.clone(), point]),
        }
    }
    table
}

fn list(values: &[&PublishedValue]) -> Table {
    let mut table = Table::new(&["paper", "system", "what", "at"]);
    table.columns.push(Column::labelled("value", "published"));
    table.columns.push(Column::plain("how exact"));
    for value in values {
        let y = match &value.y[..] {
            "" => "an image alone".to_owned(),
            y if value.unit == "category" => y.to_owned(),
            y => format!("{y} {}", value.unit),
        };
        table.row([
            short_paper(&value.paper),
            value.system.clone(),
            value.workload.clone(),
            value.x.clone(),
            y,
            value.exactness.clone(),
        ]);
    }
    table
}

/// The publication without its identifier.
pub fn short_paper(paper: &str) -> String {
    let words = paper.split_whitespace();
    let words: Vec<&str> = words.filter(|word| !word.starts_with("doi:")).collect();
    words.join(" ")
}

/// Where values were published: each publication with its identifier, and each source, once.
pub fn sources(values: &[PublishedValue]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for value in values {
        let source = format!("{}: {}", value.paper, value.source);
        if !all.contains(&source) {
            all.push(source);
        }
    }
    all
}
