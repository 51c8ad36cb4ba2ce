//! The report: a line on the terminal for each result, and files with all of them.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use postern_abi::source::Source;
use serde::Serialize;

use crate::host::HostFacts;
use crate::plot;
use crate::rounds::{Comparison, Row};
use crate::spread::Spread;
use crate::threads::Pair;
use postern_nic_bench::case::{Case, CaseError};

/// A row as `ratios.json` has it.
#[derive(Serialize)]
struct RowFile<'a> {
    pattern: &'a str,
    ports: u32,
    length: u32,
    batch: u32,
    slots: u32,
    nanos_a_copy: Sides,
    ratio_to_memcpy: Spread,
    ratio_to_vector: Spread,
}

#[derive(Serialize)]
struct Sides {
    switch: Spread,
    memcpy: Spread,
    vector: Spread,
}

/// The contents of `ratios.json`.
#[derive(Serialize)]
struct RatiosFile<'a> {
    label: &'a str,
    machine: &'a HostFacts,
    rows: Vec<RowFile<'a>>,
    left_out: &'a [(String, String)],
    comparisons: &'a [Comparison],
    two_senders: &'a [Pair],
}

/// The report of a run: all results so far.
pub struct RatiosReport {
    machine: HostFacts,
    rows: Vec<Row>,
    left_out: Vec<(String, String)>,
    comparisons: Vec<Comparison>,
    pairs: Vec<Pair>,
}

/// The directory of the files where none is given: `ratios` in cargo's target directory.
pub fn default_directory() -> PathBuf {
    // The program is target/release/deps/ratios-0123456789abcdef.
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().nth(3).unwrap_or(Path::new("target"));
    target.join("ratios")
}

/// Prints the title of a part.
pub fn title(text: &str) {
    println!("\n{text}");
}

/// Prints the head of the table of cases.
pub fn head() {
    println!(
        "{:<46} {:>24} {:>22} {:>22}",
        "", "ns a copy (median)", "switch to memcpy", "switch to vector"
    );
    println!(
        "{:<46} {:>8}{:>8}{:>8} {:>22} {:>22}",
        "case", "switch", "memcpy", "vector", "median (p10 .. p90)", "median (p10 .. p90)"
    );
}

impl RatiosReport {
    pub fn new(machine: HostFacts) -> RatiosReport {
        RatiosReport {
            machine,
            rows: Vec::new(),
            left_out: Vec::new(),
            comparisons: Vec::new(),
            pairs: Vec::new(),
        }
    }

    /// Prints and keeps a case beside the floors.
    pub fn row(&mut self, row: Row) {
        let [switch, memcpy, vector] = row.nanos.map(|nanos| nanos.median);
        println!(
            "{:<46} {switch:8.1}{memcpy:8.1}{vector:8.1} {} {}",
            row.case.to_string(),
            row.ratios[0],
            row.ratios[1]
        );
        self.rows.push(row);
    }

    /// Prints and keeps that a case is left out.
    pub fn leave_out(&mut self, case: Case, reason: &CaseError) {
        println!("{:<46} left out: {reason}", case.to_string());
        self.left_out.push((case.to_string(), reason.to_string()));
    }

    /// Prints and keeps a comparison of two cases.
    pub fn compare(&mut self, comparison: Comparison) {
        println!("{:<46} {}", comparison.name, comparison.ratio);
        self.comparisons.push(comparison);
    }

    /// Prints and keeps a comparison of two senders with one, if there are processors for it.
    pub fn pair(&mut self, pair: Option<Pair>) {
        let Some(pair) = pair else {
            println!("left out: this process may use one processor only");
            return;
        };
        print!("{} B/batch {:<4} {}", pair.length, pair.batch, pair.ratio);
        match &pair.undisturbed {
            Some(spread) => print!(
                "; of {} rounds that nothing interrupted {spread}",
                pair.undisturbed_rounds
            ),
            None => print!("; something interrupted every round"),
        }
        println!(
            "; processors {:.0}% busy with one, {:.0}% with two, at most {:.1}% stolen",
            pair.one_busy, pair.two_busy, pair.stolen
        );
        self.pairs.push(pair);
    }

    /// Writes all files into a directory, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// The system cannot make the directory or write a file.
    pub fn write(&self, directory: &Path) -> Result<(), Box<dyn Error>> {
        fs::create_dir_all(directory)?;
        let label = Source::of_this_cpu().name();
        let mut csv = fs::File::create(directory.join("ratios.csv"))?;
        writeln!(
            csv,
            "label,pattern,ports,length,batch,slots,round,switch_ns,memcpy_ns,vector_ns"
        )?;
        for row in &self.rows {
            let Case {
                ports,
                length,
                batch,
                slots,
                ..
            } = row.case;
            let pattern = row.case.pattern.name();
            for (round, [switch, memcpy, vector]) in row.rounds.iter().enumerate() {
                writeln!(
                    csv,
                    "{label},{pattern},{ports},{length},{batch},{slots},{round},\
                     {switch:.3},{memcpy:.3},{vector:.3}"
                )?;
            }
        }
        let rows = self.rows.iter().map(|row| {
            let [switch, memcpy, vector] = row.nanos;
            RowFile {
                pattern: row.case.pattern.name(),
                ports: row.case.ports,
                length: row.case.length,
                batch: row.case.batch,
                slots: row.case.slots,
                nanos_a_copy: Sides {
                    switch,
                    memcpy,
                    vector,
                },
                ratio_to_memcpy: row.ratios[0],
                ratio_to_vector: row.ratios[1],
            }
        });
        let file = RatiosFile {
            label,
            machine: &self.machine,
            rows: rows.collect(),
            left_out: &self.left_out,
            comparisons: &self.comparisons,
            two_senders: &self.pairs,
        };
        fs::write(
            directory.join("ratios.json"),
            serde_json::to_vec_pretty(&file)?,
        )?;
        plot::write(&self.rows, directory)
    }
}
