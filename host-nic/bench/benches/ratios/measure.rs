//! Turns that are taken.

use std::time::{Duration, Instant};

use crate::machine;
use postern_abi::window::Geometry;
use postern_nic_bench::case::Case;
use postern_nic_bench::floor::{Copy, Floor};
use postern_nic_bench::memory::Nic;
use postern_nic_bench::nic::Traffic;

/// How often and how long.
pub struct Turns {
    pub rounds: u32,
    pub length: Duration,
}

/// One of those that take turns.
struct Side<'a> {
    /// Frames of a step.
    frames: u32,
    /// Steps that touch all of the memory that it uses.
    around: u64,
    /// Steps of a turn.
    steps: u64,
    run: Box<dyn FnMut(u64) + 'a>,
}

impl<'a> Side<'a> {
    fn new(frames: u32, lap: u32, run: impl FnMut(u64) + 'a) -> Side<'a> {
        Side {
            frames,
            around: u64::from(lap.div_ceil(frames)),
            steps: 1,
            run: Box::new(run),
        }
    }

    fn time(&mut self) -> Duration {
        let start = Instant::now();
        (self.run)(self.steps);
        start.elapsed()
    }

    fn calibrate(&mut self, length: Duration) {
        (self.run)(self.around);
        while self.time() < length {
            self.steps *= 2;
        }
        let best = (0..3).map(|_| self.time()).min().unwrap_or(length);
        let scale = length.as_secs_f64() / best.as_secs_f64();
        self.steps = ((self.steps as f64 * scale) as u64).max(1);
    }

    /// Nanoseconds of a frame.
    fn turn(&mut self) -> f64 {
        (self.run)(self.around);
        let time = self.time();
        time.as_secs_f64() * 1e9 / (self.steps * u64::from(self.frames)) as f64
    }
}

/// Nanoseconds of a frame, of each side in each round. Rounds in which this thread had to give its
/// processor to another are repeated, as long as there are not too many.
fn alternate<const N: usize>(mut sides: [Side<'_>; N], turns: &Turns) -> Vec<[f64; N]> {
    for side in &mut sides {
        side.calibrate(turns.length);
    }
    let wanted = turns.rounds as usize;
    let (mut clean, mut disturbed) = (Vec::new(), Vec::new());
    for number in 0..wanted * 4 {
        // A round is short beside what a thread gets that has just come to its turn.
        std::thread::yield_now();
        let before = machine::involuntary_switches();
        let mut nanos = [0.0; N];
        // Nobody always comes after the same one.
        for i in 0..N {
            let at = (number + i) % N;
            nanos[at] = sides[at].turn();
        }
        if machine::involuntary_switches() == before {
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

/// The switch, `memcpy`, vector copy.
pub fn against_floors(case: Case, geometry: Geometry, turns: &Turns) -> Vec<[f64; 3]> {
    let nic = Nic::new(geometry).unwrap();
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

/// Two NICs, a case on each.
pub fn against_each_other(sides: [(Case, Geometry); 2], turns: &Turns) -> Vec<[f64; 2]> {
    let [(one, _), (other, _)] = sides;
    let nics = sides.map(|(_, geometry)| Nic::new(geometry).unwrap());
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
