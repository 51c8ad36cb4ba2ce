//! The measurement: sides take turns, and each turn is timed.

use std::time::{Duration, Instant};

use crate::host;
use postern_abi::window::Geometry;
use postern_nic_bench::case::Case;
use postern_nic_bench::floor::{Copy, Floor};
use postern_nic_bench::memory::BenchNic;
use postern_nic_bench::nic::Traffic;

/// The number of rounds, and the length of a turn.
pub struct Turns {
    /// Number of rounds.
    pub rounds: u32,
    /// Length of a turn of a round.
    pub length: Duration,
}

/// A side: one of those that take turns.
struct Side<'a> {
    /// Number of frames of a step.
    frames: u32,
    /// Number of steps that touch all of the memory that the side uses.
    around: u64,
    /// Number of steps of a turn.
    steps: u64,
    /// Makes a number of steps.
    run: Box<dyn FnMut(u64) + 'a>,
}

impl<'a> Side<'a> {
    /// A side whose steps have `frames` frames, and whose rings have `lap` frames.
    fn new(frames: u32, lap: u32, run: impl FnMut(u64) + 'a) -> Side<'a> {
        Side {
            frames,
            around: u64::from(lap.div_ceil(frames)),
            steps: 1,
            run: Box::new(run),
        }
    }

    /// The time of the steps of a turn.
    fn time(&mut self) -> Duration {
        let start = Instant::now();
        (self.run)(self.steps);
        start.elapsed()
    }

    /// Finds the number of steps that take as long as a turn.
    fn calibrate(&mut self, length: Duration) {
        (self.run)(self.around);
        while self.time() < length {
            self.steps *= 2;
        }
        let best = (0..3).map(|_| self.time()).min().unwrap_or(length);
        let scale = length.as_secs_f64() / best.as_secs_f64();
        self.steps = ((self.steps as f64 * scale) as u64).max(1);
    }

    /// Takes a turn. Returns the time of a frame, in nanoseconds.
    fn turn(&mut self) -> f64 {
        (self.run)(self.around);
        let time = self.time();
        time.as_secs_f64() * 1e9 / (self.steps * u64::from(self.frames)) as f64
    }
}

/// The time of a frame, in nanoseconds, of each side in each round. Rounds in which this thread had
/// to give its processor to another one are repeated, as long as there are not too many.
fn alternate<const N: usize>(mut sides: [Side<'_>; N], turns: &Turns) -> Vec<[f64; N]> {
    for side in &mut sides {
        side.calibrate(turns.length);
    }
    let wanted = turns.rounds as usize;
    let (mut clean, mut disturbed) = (Vec::new(), Vec::new());
    for number in 0..wanted * 4 {
        // A thread that has yielded begins with a time slice longer than a round.
        std::thread::yield_now();
        let before = host::involuntary_switches();
        let mut nanos = [0.0; N];
        // The order changes from round to round, so that no side always follows one other side.
        for i in 0..N {
            let at = (number + i) % N;
            nanos[at] = sides[at].turn();
        }
        if host::involuntary_switches() == before {
            clean.push(nanos);
        } else {
            disturbed.push(nanos);
        }
        if clean.len() == wanted {
            return clean;
        }
    }
    let missing = wanted - clean.len();
    clean.extend(disturbed.into_iter().take(missing));
    clean
}

/// Measures the switch beside the floors: times of a frame by the switch, `memcpy` and vector copy.
pub fn against_floors(case: Case, geometry: Geometry, turns: &Turns) -> Vec<[f64; 3]> {
    let nic = BenchNic::new(geometry).unwrap();
    let mut traffic = Traffic::new(&nic, case, 0);
    let mut floors = [(); 2].map(|()| Floor::new(case).unwrap());
    let [first, second] = &mut floors;
    let (own, lap) = (traffic.lap(), first.lap());
    let sides = [
        Side::new(case.batch, own, |steps| traffic.run(steps)),
        Side::new(case.batch, lap, |steps| first.run(Copy::Memcpy, steps)),
        Side::new(case.batch, lap, |steps| second.run(Copy::Vector, steps)),
    ];
    let rounds = alternate(sides, turns);
    traffic.check();
    rounds
}

/// Measures two cases beside each other, each on a NIC of its own.
pub fn against_each_other(sides: [(Case, Geometry); 2], turns: &Turns) -> Vec<[f64; 2]> {
    let [(one, _), (other, _)] = sides;
    let nics = sides.map(|(_, geometry)| BenchNic::new(geometry).unwrap());
    let mut first = Traffic::new(&nics[0], one, 0);
    let mut second = Traffic::new(&nics[1], other, 0);
    let (lap, other_lap) = (first.lap(), second.lap());
    let sides = [
        Side::new(one.batch, lap, |steps| first.run(steps)),
        Side::new(other.batch, other_lap, |steps| second.run(steps)),
    ];
    let rounds = alternate(sides, turns);
    first.check();
    second.check();
    rounds
}
