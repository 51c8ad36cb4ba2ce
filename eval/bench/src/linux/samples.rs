//! What scripts have counted, as they print it.
//!
//! | line | is |
//! | --- | --- |
//! | `sample WHAT units N before NAME VALUE ... after NAME VALUE ...` | counters before and after N units of work |
//! | `exits WHAT units N packets P NAME COUNT ...` | exits of N units of work and P packets, by reason, and what they were for |

use std::collections::BTreeMap;

/// Counters by name.
pub type Counts = BTreeMap<String, u64>;

/// Numbers that cannot be made of what was printed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SamplesError {
    /// A line that is not as it has to be.
    #[error("reading what was counted: {line:?} has no {what}")]
    Line {
        /// The line.
        line: String,
        /// What is missing.
        what: &'static str,
    },
    /// Nothing was counted of a kind, or not twice with different numbers of units.
    #[error("there are no two runs of {what} with different numbers of units")]
    Runs {
        /// Kind of work.
        what: String,
    },
    /// A counter is not among those that were read.
    #[error("{what} has no counter {counter}")]
    Counter {
        /// Kind of work.
        what: String,
        /// Name of the counter.
        counter: String,
    },
}

/// All that was counted on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    runs: BTreeMap<String, Vec<(u64, Counts)>>,
    exits: BTreeMap<String, Vec<(u64, Counts)>>,
}

impl Samples {
    /// Reads the lines of a script; others are passed over.
    ///
    /// # Errors
    ///
    /// [`SamplesError::Line`].
    pub fn read(text: &str) -> Result<Samples, SamplesError> {
        let mut samples = Samples::default();
        for line in text.lines().map(str::trim_end) {
            let error = |what| SamplesError::Line {
                line: line.to_owned(),
                what,
            };
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words[..] {
                ["sample", what, "units", units, "before", ref rest @ ..] => {
                    let units = units.parse().map_err(|_| error("number of units"))?;
                    let middle = rest.iter().position(|word| *word == "after");
                    let middle = middle.ok_or_else(|| error("word 'after'"))?;
                    let before = counts(&rest[..middle]).ok_or_else(|| error("counters"))?;
                    let after = counts(&rest[middle + 1..]).ok_or_else(|| error("counters"))?;
                    let moved = |(name, value): (String, u64)| {
                        let before = before.get(&name)?;
                        Some((name, value.saturating_sub(*before)))
                    };
                    let moved = after.into_iter().filter_map(moved).collect();
                    let runs = samples.runs.entry(what.to_owned()).or_default();
                    runs.push((units, moved));
                }
                ["exits", what, "units", units, ref rest @ ..] => {
                    let units = units.parse().map_err(|_| error("number of units"))?;
                    let counts = counts(rest).ok_or_else(|| error("counters"))?;
                    let runs = samples.exits.entry(what.to_owned()).or_default();
                    runs.push((units, counts));
                }
                _ => {}
            }
        }
        Ok(samples)
    }

    /// What one unit of a kind of work costs: what the longest run counted more than the shortest one.
    ///
    /// # Errors
    ///
    /// There are no such runs, or there is no such counter.
    pub fn per_unit(&self, what: &str, counter: &str) -> Result<f64, SamplesError> {
        let (units, counted) = self.more(what, counter)?;
        Ok(counted / units)
    }

    /// Units that the longest run of a kind has more than the shortest, and what it counted more.
    fn more(&self, what: &str, counter: &str) -> Result<(f64, f64), SamplesError> {
        let missing = || SamplesError::Runs {
            what: what.to_owned(),
        };
        let runs = self.runs.get(what).ok_or_else(missing)?;
        let by_units = |run: &&(u64, Counts)| run.0;
        let (short, long) = (
            runs.iter().min_by_key(by_units).ok_or_else(missing)?,
            runs.iter().max_by_key(by_units).ok_or_else(missing)?,
        );
        if short.0 == long.0 {
            return Err(missing());
        }
        let of = |run: &(u64, Counts)| self.value(what, &run.1, counter);
        let counted = of(long)? as f64 - of(short)? as f64;
        Ok(((long.0 - short.0) as f64, counted))
    }

    fn value(&self, what: &str, counts: &Counts, counter: &str) -> Result<u64, SamplesError> {
        let value = counts.get(counter).copied();
        value.ok_or_else(|| SamplesError::Counter {
            what: what.to_owned(),
            counter: counter.to_owned(),
        })
    }

    /// What one unit of `counter` goes with of `other`, in the same runs: exits a packet, say.
    ///
    /// # Errors
    ///
    /// As [`Self::per_unit`].
    pub fn ratio(&self, what: &str, counter: &str, other: &str) -> Result<f64, SamplesError> {
        Ok(self.more(what, counter)?.1 / self.more(what, other)?.1.max(1.0))
    }

    /// The sum of a counter over all runs of a kind.
    ///
    /// # Errors
    ///
    /// There are none, or there is no such counter.
    pub fn total(&self, what: &str, counter: &str) -> Result<u64, SamplesError> {
        let runs = self.runs.get(what).ok_or_else(|| SamplesError::Runs {
            what: what.to_owned(),
        })?;
        let values = runs.iter().map(|run| self.value(what, &run.1, counter));
        values.sum()
    }

    /// What the only run of a kind counted, less what the last one of `nothing` before it did.
    ///
    /// # Errors
    ///
    /// As [`Self::total`].
    pub fn alone(&self, what: &str, counter: &str) -> Result<u64, SamplesError> {
        let nothing = self.runs.get("nothing").into_iter().flatten();
        let least = nothing.map(|run| self.value("nothing", &run.1, counter));
        let least = least.collect::<Result<Vec<_>, _>>()?.into_iter().min();
        let least = least.ok_or_else(|| SamplesError::Runs {
            what: "nothing".to_owned(),
        })?;
        Ok(self.total(what, counter)?.saturating_sub(least))
    }

    /// Exits by reason, and what they were for, a unit of a kind of work; the most frequent first. What
    /// a reason has of its own is what the longest run has more than the shortest.
    ///
    /// # Errors
    ///
    /// There are no such runs.
    pub fn exits(&self, what: &str) -> Result<Vec<(String, f64)>, SamplesError> {
        let (units, more) = self.traced(what)?;
        let each = |(name, count): (String, f64)| (name, count / units);
        let mut exits: Vec<_> = more.into_iter().map(each).collect();
        exits.sort_by(|one, other| other.1.total_cmp(&one.1));
        Ok(exits)
    }

    /// Exits a packet that no timer causes.
    ///
    /// # Errors
    ///
    /// As [`Self::exits`].
    pub fn exits_beyond_timers(&self, what: &str) -> Result<f64, SamplesError> {
        let (_, more) = self.traced(what)?;
        let sum = |wanted: &dyn Fn(&str) -> bool| -> f64 {
            let counts = more.iter().filter(|(name, _)| wanted(name));
            counts.map(|(_, count)| count).sum()
        };
        let exits = sum(&|name| name.starts_with("exit_"));
        // A guest that tells KVM of an interrupt's end by a bit of memory (KVM_FEATURE_PV_EOI) exits for
        // few of them.
        let ends = sum(&|name| name == TIMER_INTERRUPTS).min(sum(&|name| name == ENDS));
        let timers = sum(&|name| TIMERS.contains(&name)) + ends;
        Ok((exits - timers).max(0.0) / sum(&|name| name == PACKETS).max(1.0))
    }

    /// Units that the longest traced run of a kind has more than the shortest, and what it has more.
    fn traced(&self, what: &str) -> Result<(f64, BTreeMap<String, f64>), SamplesError> {
        let runs = self.exits.get(what).map(Vec::as_slice).unwrap_or_default();
        let by_units = |run: &&(u64, Counts)| run.0;
        let (short, long) = (
            runs.iter().min_by_key(by_units),
            runs.iter().max_by_key(by_units),
        );
        match (short, long) {
            (Some(short), Some(long)) if short.0 < long.0 => {
                let mut more: BTreeMap<String, f64> = BTreeMap::new();
                for (name, count) in &long.1 {
                    *more.entry(name.clone()).or_default() += *count as f64;
                }
                for (name, count) in &short.1 {
                    *more.entry(name.clone()).or_default() -= *count as f64;
                }
                Ok(((long.0 - short.0) as f64, more))
            }
            _ => Err(SamplesError::Runs {
                what: what.to_owned(),
            }),
        }
    }
}

/// Name of the number of packets among the exits.
const PACKETS: &str = "packets";

/// What `breakdown` of `pair.sh` calls the exits of timers: the host's (or the guest's, which the
/// host's timer stands for), and the deadline (IA32_TSC_DEADLINE, SDM volume 4, 6e0).
const TIMERS: [&str; 2] = ["exit_EXTERNAL_INTERRUPT", "msr_write_6e0"];

/// Interrupts of the vector of Linux' local timer.
const TIMER_INTERRUPTS: &str = "irq_0xec";

/// Exits for ends of interrupts of any vector (x2APIC EOI register, SDM volume 4, 80b).
const ENDS: &str = "msr_write_80b";

fn counts(words: &[&str]) -> Option<Counts> {
    if !words.len().is_multiple_of(2) {
        return None;
    }
    let pair = |pair: &[&str]| Some((pair[0].to_owned(), pair[1].parse().ok()?));
    words.chunks_exact(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "PING\r
sample nothing units 0 before instructions 10 after instructions 15
sample nothing units 0 before instructions 10 after instructions 13
sample idle units 10 before instructions 20 after instructions 100
sample ping units 100 before packets 0 instructions 100 after instructions 1100 packets 210 exits 7
sample ping units 300 before packets 300 instructions 2000 after instructions 5000 packets 900 exits 7
exits ping units 50 packets 100 exit_HLT 40 exit_EXTERNAL_INTERRUPT 1 irq_0xec 1
exits ping units 150 packets 300 exit_HLT 240 exit_EXTERNAL_INTERRUPT 11 exit_MSR_WRITE 27 msr_write_6e0 20 msr_write_80b 4 irq_0xec 6 irq_0x22 3 \r
";

    #[test]
    fn a_unit_costs_what_a_long_run_has_more() {
        let samples = Samples::read(TEXT).unwrap();
        assert_eq!(samples.per_unit("ping", "instructions"), Ok(10.0));
        assert_eq!(
            samples.ratio("ping", "instructions", "packets"),
            Ok(2000.0 / 390.0)
        );
        assert_eq!(samples.total("ping", "packets"), Ok(810));
        assert_eq!(samples.alone("idle", "instructions"), Ok(77));
        assert_eq!(
            samples.exits("ping").unwrap()[0],
            ("exit_HLT".to_owned(), 2.0)
        );
        // Of 237 exits 34 are of timers: for one of five interrupts the guest did not exit.
        assert_eq!(samples.exits_beyond_timers("ping"), Ok(203.0 / 200.0));
        assert!(samples.exits("tcp").is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let samples = Samples::read(TEXT).unwrap();
        let runs = |what: &str| SamplesError::Runs {
            what: what.to_owned(),
        };
        assert_eq!(samples.per_unit("tcp", "instructions"), Err(runs("tcp")));
        assert_eq!(samples.per_unit("idle", "instructions"), Err(runs("idle")));
        let error = samples.per_unit("ping", "exits").unwrap_err();
        assert_eq!(error.to_string(), "ping has no counter exits");
        for bad in [
            "sample x units y before after",
            "sample x units 1 before a 1",
            "sample x units 1 before a after a 1",
            "exits x units 1 a",
        ] {
            let error = Samples::read(bad).unwrap_err();
            assert!(matches!(error, SamplesError::Line { .. }), "{bad}: {error}");
        }
    }
}
