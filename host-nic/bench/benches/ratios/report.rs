//! What is printed and written.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::machine::Machine;
use crate::plot;
use crate::threads::Pair;
use postern_nic_bench::case::{Case, Unfit};

/// Median, and what nine tenths of the values are above and below.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub p10: f64,
    pub p90: f64,
}

impl Spread {
    /// Of one value or more.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Spread {
            median: at(0.5),
            p10: at(0.1),
            p90: at(0.9),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:6.3} ({:5.2} .. {:5.2})",
            self.median, self.p10, self.p90
        )
    }
}

/// One case.
#[derive(Debug)]
pub struct Row {
    pub case: Case,
    /// Nanoseconds of a copy of a frame: switch, `memcpy`, vector.
    pub nanos: [Spread; 3],
    /// Switch to `memcpy`, switch to vector.
    pub ratios: [Spread; 2],
    rounds: Vec<[f64; 3]>,
}

impl Row {
    pub fn new(case: Case, rounds: Vec<[f64; 3]>) -> Row {
        let copies = f64::from(case.copies());
        let nanos = [0, 1, 2]
            .map(|side| Spread::of(rounds.iter().map(|round| round[side] / copies).collect()));
        let ratio =
            |floor: usize| Spread::of(rounds.iter().map(|round| round[0] / round[floor]).collect());
        Row {
            case,
            nanos,
            ratios: [ratio(1), ratio(2)],
            rounds,
        }
    }
}

/// One thing in terms of another.
#[derive(Debug, Serialize)]
pub struct Comparison {
    name: String,
    ratio: Spread,
}

impl Comparison {
    /// The second of each round to the first.
    pub fn new(name: String, rounds: &[[f64; 2]]) -> Comparison {
        Comparison {
            name,
            ratio: Spread::of(rounds.iter().map(|round| round[1] / round[0]).collect()),
        }
    }
}

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

#[derive(Serialize)]
struct File<'a> {
    label: &'a str,
    machine: &'a Machine,
    rows: Vec<RowFile<'a>>,
    left_out: &'a [(String, String)],
    comparisons: &'a [Comparison],
    two_senders: &'a [Pair],
}

/// All that was measured.
pub struct Report {
    machine: Machine,
    rows: Vec<Row>,
    left_out: Vec<(String, String)>,
    comparisons: Vec<Comparison>,
    pairs: Vec<Pair>,
}

pub fn default_directory() -> PathBuf {
    // target/release/deps/ratios-0123456789abcdef
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().nth(3).unwrap_or(Path::new("target"));
    target.join("ratios")
}

pub fn title(text: &str) {
    println!("\n{text}");
}

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

impl Report {
    pub fn new(machine: Machine) -> Report {
        Report {
            machine,
            rows: Vec::new(),
            left_out: Vec::new(),
            comparisons: Vec::new(),
            pairs: Vec::new(),
        }
    }

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

    pub fn leave_out(&mut self, case: Case, reason: &Unfit) {
        println!("{:<46} left out: {reason}", case.to_string());
        self.left_out.push((case.to_string(), reason.to_string()));
    }

    pub fn compare(&mut self, comparison: Comparison) {
        println!("{:<46} {}", comparison.name, comparison.ratio);
        self.comparisons.push(comparison);
    }

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

    pub fn write(&self, directory: &Path) -> Result<(), Box<dyn Error>> {
        fs::create_dir_all(directory)?;
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
                    "hardware,{pattern},{ports},{length},{batch},{slots},{round},{switch:.3},{memcpy:.3},{vector:.3}"
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
        let file = File {
            label: "hardware",
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
