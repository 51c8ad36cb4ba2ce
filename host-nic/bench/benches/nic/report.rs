//! The report: tables on the terminal, in Markdown, and files with all results.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::host::{HostFacts, Load, Shares};
use crate::measure::{NAMES, RATIOS, Row};
use crate::plot;
use crate::spread::Spread;
use crate::threads::Pair;
use postern_nic_bench::case::{Case, CaseError};

/// A row as `nic.json` has it.
#[derive(Serialize)]
struct RowFile {
    case: String,
    scope: &'static str,
    rounds: usize,
    nanos_a_copy: Vec<(&'static str, Spread)>,
    ratios: Vec<(String, Spread)>,
}

/// The contents of `nic.json`.
#[derive(Serialize)]
struct NicFile<'a> {
    machine: &'a HostFacts,
    load: [f64; 2],
    shares: Option<Shares>,
    rows: Vec<RowFile>,
    left_out: &'a [(String, String)],
    two_senders: &'a [Pair],
}

/// The report of a run: all results so far.
pub struct NicReport {
    machine: HostFacts,
    load: [f64; 2],
    shares: Option<Shares>,
    rows: Vec<Row>,
    left_out: Vec<(String, String)>,
    pairs: Vec<Pair>,
}

/// Prints a row of a table, in Markdown.
fn print_row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// Prints the head of a table.
fn print_head(names: &[String]) {
    println!();
    print_row(names);
    println!("|{}", " --- |".repeat(names.len()));
}

/// The name of a ratio, such as "native/memcpy".
fn name_of((side, floor): (usize, usize)) -> String {
    format!("{}/{}", NAMES[side], NAMES[floor])
}

impl NicReport {
    /// Prints what is measured where.
    pub fn new(machine: HostFacts, load: Load) -> NicReport {
        println!("{machine}; load {:.2} before", load.average);
        println!(
            "kind {}: native code on this host's CPU, no VM",
            machine.kind
        );
        let mut names = vec!["kind", "case", "scope", "ns a copy: native", "view"];
        names.extend(["memcpy", "vector"]);
        let ratios = RATIOS.map(name_of);
        let names: Vec<String> = names.into_iter().map(str::to_owned).chain(ratios).collect();
        print_head(&names);
        NicReport {
            machine,
            load: [load.average; 2],
            shares: None,
            rows: Vec::new(),
            left_out: Vec::new(),
            pairs: Vec::new(),
        }
    }

    /// Prints and keeps a row.
    pub fn row(&mut self, row: Row) {
        let mut cells = vec![self.machine.kind.into(), row.case.to_string()];
        cells.push(row.scope.name().into());
        cells.extend(row.nanos.iter().map(|nanos| format!("{:.1}", nanos.median)));
        cells.extend(row.ratios.iter().map(Spread::to_string));
        print_row(&cells);
        self.rows.push(row);
    }

    /// Whether anything was measured.
    pub fn has_rows(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Prints and keeps that a case is left out.
    pub fn leave_out(&mut self, case: Case, reason: &CaseError) {
        print_row(&[
            self.machine.kind.into(),
            case.to_string(),
            format!("left out: {reason}"),
        ]);
        self.left_out.push((case.to_string(), reason.to_string()));
    }

    /// Prints and keeps the comparisons of two senders with one, if there are processors for it.
    pub fn senders(&mut self, pairs: Option<Vec<Pair>>) {
        let Some(pairs) = pairs else {
            println!("\ntwo senders are left out: this process may use one processor only");
            return;
        };
        let names = [
            "kind",
            "two senders on two CPUs",
            "frames in the time of one",
            "in undisturbed rounds",
            "calls",
            "repeated",
            "CPUs busy, stolen",
        ];
        print_head(&names.map(str::to_owned));
        for pair in &pairs {
            let [one, other] = pair.receivers;
            let to = if one == other {
                "one receiver"
            } else {
                "a receiver each"
            };
            let [rounds, undisturbed] = pair.rounds;
            print_row(&[
                self.machine.kind.into(),
                format!("to {to}, {} B, batch {}", pair.length, pair.batch),
                pair.ratio.to_string(),
                match &pair.undisturbed {
                    Some(spread) => format!("{spread}, {undisturbed} of {rounds}"),
                    None => format!("none of {rounds}"),
                },
                pair.calls[0].to_string(),
                pair.calls[1].to_string(),
                format!("{:.0}%, {:.1}%", pair.load.busy, pair.load.stolen),
            ]);
        }
        self.pairs = pairs;
    }

    /// Prints how busy the host was from the beginning on.
    pub fn end(&mut self, before: Load, time: Duration) {
        let now = Load::now();
        let shares = before.until(now);
        println!(
            "\nload {:.2} before, {:.2} after {:.0} s; CPUs {:.0}% busy, {:.0}% with this program, {:.1}% stolen",
            before.average,
            now.average,
            time.as_secs_f64(),
            shares.busy,
            shares.own,
            shares.stolen
        );
        self.load[1] = now.average;
        self.shares = Some(shares);
    }

    /// Writes all files into a directory, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// The system cannot make the directory or write a file.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(directory)?;
        let kind = self.machine.kind;
        let mut csv = fs::File::create(directory.join("nic.csv"))?;
        let names = NAMES.map(|name| format!("{name}_ns")).join(",");
        writeln!(csv, "kind,case,scope,round,{names}")?;
        for row in &self.rows {
            for (number, round) in row.rounds.iter().enumerate() {
                let nanos = round.map(|nanos| format!("{nanos:.3}")).join(",");
                writeln!(
                    csv,
                    "{kind},{},{},{number},{nanos}",
                    row.case,
                    row.scope.name()
                )?;
            }
        }
        let rows = self.rows.iter().map(|row| RowFile {
            case: row.case.to_string(),
            scope: row.scope.name(),
            rounds: row.rounds.len(),
            nanos_a_copy: NAMES.into_iter().zip(row.nanos).collect(),
            ratios: RATIOS.map(name_of).into_iter().zip(row.ratios).collect(),
        });
        let file = NicFile {
            machine: &self.machine,
            load: self.load,
            shares: self.shares,
            rows: rows.collect(),
            left_out: &self.left_out,
            two_senders: &self.pairs,
        };
        fs::write(
            directory.join("nic.json"),
            serde_json::to_vec_pretty(&file)?,
        )?;
        plot::write(&self.rows, &self.machine, directory)
    }
}
