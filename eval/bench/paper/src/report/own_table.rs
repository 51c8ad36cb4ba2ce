//! Tables that are no measurement.

use super::tables::{NOTHING, short_paper};
use super::view::{Column, Table, Titled};
use crate::experiment::{PublishedValue, TableShape, TableSpec};

/// The tables: published values, with our rows and what shows them, or with core counts.
pub fn of(spec: &TableSpec, published: &[PublishedValue]) -> Vec<Titled> {
    let titled = |title: &str, table| Titled {
        title: title.to_owned(),
        table,
    };
    match spec.shape {
        TableShape::Grid => vec![
            titled("Systems and their properties", grid(spec, published)),
            titled(
                "Why our cells say so, and the tests that attack them",
                reasons(spec),
            ),
        ],
        TableShape::List => vec![titled("Values of peers", list(spec, published))],
    }
}

fn grid(spec: &TableSpec, published: &[PublishedValue]) -> Table {
    let mut systems: Vec<&str> = Vec::new();
    let mut properties: Vec<&str> = Vec::new();
    for value in published {
        if !systems.contains(&&value.system[..]) {
            systems.push(&value.system);
        }
        if !properties.contains(&&value.workload[..]) {
            properties.push(&value.workload);
        }
    }
    let mut table = Table::new(&["system"]);
    let columns = properties.iter();
    table
        .columns
        .extend(columns.map(|name| Column::plain(name)));
    table.columns.push(Column::plain("label"));
    for system in systems {
        let mut row = vec![system.to_owned()];
        for property in &properties {
            let mut values = published.iter();
            let value = values.find(|value| value.system == system && value.workload == *property);
            row.push(value.map_or(NOTHING.to_owned(), |value| value.y.clone()));
        }
        row.push("published".to_owned());
        table.row(row);
    }
    for own in &spec.rows {
        let mut row = vec![own.system.clone()];
        for property in &properties {
            let cell = own.cells.iter().find(|cell| cell.column == *property);
            row.push(cell.map_or(NOTHING.to_owned(), |cell| cell.says.clone()));
        }
        row.push("attacked by tests".to_owned());
        table.row(row);
    }
    table
}

fn reasons(spec: &TableSpec) -> Table {
    let mut table = Table::new(&["system", "property", "says", "because", "tests"]);
    for own in &spec.rows {
        for cell in &own.cells {
            table.row([
                own.system.clone(),
                cell.column.clone(),
                cell.says.clone(),
                cell.why.clone(),
                cell.tests.join("; "),
            ]);
        }
    }
    table
}

fn list(spec: &TableSpec, published: &[PublishedValue]) -> Table {
    let mut table = Table::new(&["system", "paper", "what"]);
    table.columns.push(Column::labelled("value", "published"));
    table.columns.push(Column::plain("cores"));
    table.columns.push(Column::plain("how exact"));
    for value in published {
        let cores = spec.cores.iter().find(|cores| cores.is_about(value));
        // Of shares, sizes and single calls the number of cores says nothing.
        let matters = ["Mpps", "Gbps", "Ktps", "KIOPS", "M/s"].contains(&&value.unit[..]);
        let cores = match cores {
            Some(cores) => cores.says.clone(),
            None if matters => "not stated".to_owned(),
            None => NOTHING.to_owned(),
        };
        table.row([
            value.system.clone(),
            short_paper(&value.paper),
            value.workload.clone(),
            format!("{} {} {}", value.x, value.y, value.unit)
                .trim()
                .to_owned(),
            cores,
            value.exactness.clone(),
        ]);
    }
    table
}
