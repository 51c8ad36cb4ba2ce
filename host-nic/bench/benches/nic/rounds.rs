//! Rounds in numbers: one case beside the floors, or two cases beside each other.

use serde::Serialize;

use crate::spread::Spread;
use postern_nic_bench::case::Case;

/// A case of the switch beside the floors.
#[derive(Debug)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// Time of a copy of a frame, in nanoseconds: by the switch, `memcpy` and the vector copy.
    pub nanos: [Spread; 3],
    /// Ratios of the times: switch to `memcpy`, switch to vector copy.
    pub ratios: [Spread; 2],
    /// Time of a frame in each round, in nanoseconds, in the order of `nanos`.
    pub rounds: Vec<[f64; 3]>,
}

impl Row {
    /// The row of a case, from the times of a frame in each round.
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

/// A comparison of two cases.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// What is compared.
    pub name: String,
    /// Ratio of the times of a frame.
    pub ratio: Spread,
}

impl Comparison {
    /// The ratio of the second time of each round to the first.
    pub fn new(name: String, rounds: &[[f64; 2]]) -> Comparison {
        Comparison {
            name,
            ratio: Spread::of(rounds.iter().map(|round| round[1] / round[0]).collect()),
        }
    }
}
