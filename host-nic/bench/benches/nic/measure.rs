//! The measurement: sides take turns, and each turn is timed.

use std::time::{Duration, Instant};

use postern_abi::window::Geometry;
use postern_nic_bench::case::Case;
use postern_nic_bench::exchange::Exchange;
use postern_nic_bench::floor::{Copy, Floor, Scope};
use postern_nic_bench::image::ViewImage;
use postern_nic_bench::memory::BenchNic;
use postern_nic_bench::traffic::Traffic;

use crate::host;
use crate::spread::Spread;

/// How long is measured.
pub struct Turns {
    /// Time for a line of the table.
    pub seconds: Duration,
    /// Length of a turn of a round.
    pub length: Duration,
}

/// Least number of rounds.
pub const MIN_ROUNDS: usize = 21;

/// Number of sides: the native switch, that of the view's image, and the two floors.
pub const SIDES: usize = 4;
/// Names of the sides.
pub const NAMES: [&str; SIDES] = ["native", "view", "memcpy", "vector"];
/// The ratios of a row: one side to another one.
pub const RATIOS: [(usize, usize); 4] = [(0, 2), (0, 3), (1, 2), (1, 3)];

/// A case in a scope: a line of the table.
#[derive(Debug)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// The scope.
    pub scope: Scope,
    /// Time of a copy of a frame, in nanoseconds, of each side.
    pub nanos: [Spread; SIDES],
    /// The ratios of times, as [`RATIOS`] has them.
    pub ratios: [Spread; RATIOS.len()],
    /// Time of a copy of a frame, in nanoseconds, of each side in each round.
    pub rounds: Vec<[f64; SIDES]>,
}

impl Row {
    /// The row of these rounds.
    pub fn new(case: Case, scope: Scope, rounds: Vec<[f64; SIDES]>) -> Row {
        let all =
            |value: &dyn Fn(&[f64; SIDES]) -> f64| Spread::of(rounds.iter().map(value).collect());
        let mut nanos = [Spread::default(); SIDES];
        for (side, nanos) in nanos.iter_mut().enumerate() {
            *nanos = all(&|round| round[side]);
        }
        Row {
            case,
            scope,
            nanos,
            ratios: RATIOS.map(|(side, floor)| all(&|round| round[side] / round[floor])),
            rounds,
        }
    }
}

/// A side: one of those that take turns.
struct Side<'a> {
    /// Number of copies of frames that a step makes.
    copies: u32,
    /// Number of steps that touch all of the memory that the side uses.
    around: u64,
    /// Number of steps of a turn.
    steps: u64,
    /// Makes a number of steps.
    run: Box<dyn FnMut(u64) + 'a>,
}

impl<'a> Side<'a> {
    /// A side of a case whose rings have `lap` frames.
    fn new(case: Case, lap: u32, run: impl FnMut(u64) + 'a) -> Side<'a> {
        Side {
            copies: case.batch * case.copies(),
            around: u64::from(lap.div_ceil(case.batch)),
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

    /// Takes a turn. Returns the time of a copy of a frame, in nanoseconds.
    fn turn(&mut self) -> f64 {
        (self.run)(self.around);
        let time = self.time();
        time.as_secs_f64() * 1e9 / (self.steps * u64::from(self.copies)) as f64
    }
}

/// The time of a copy of a frame, in nanoseconds, of each side in each round. Rounds in which this
/// thread had to give its processor to another one count only where there are few others.
fn alternate(mut sides: [Side<'_>; SIDES], turns: &Turns) -> Vec<[f64; SIDES]> {
    for side in &mut sides {
        side.calibrate(turns.length);
    }
    let start = Instant::now();
    let (mut clean, mut disturbed) = (Vec::new(), Vec::new());
    for number in 0.. {
        if start.elapsed() >= turns.seconds && clean.len() + disturbed.len() >= MIN_ROUNDS {
            break;
        }
        // A thread that has yielded begins with a time slice longer than a round.
        std::thread::yield_now();
        let before = host::involuntary_switches();
        let mut nanos = [0.0; SIDES];
        // The order changes from round to round, so that no side always follows one other side.
        for i in 0..SIDES {
            let at = (number + i) % SIDES;
            nanos[at] = sides[at].turn();
        }
        match host::involuntary_switches() == before {
            true => clean.push(nanos),
            false => disturbed.push(nanos),
        }
    }
    let missing = MIN_ROUNDS.saturating_sub(clean.len());
    clean.extend(disturbed.into_iter().take(missing));
    clean
}

/// Measures a case in a scope. Returns the rounds.
pub fn rounds(
    case: Case,
    geometry: Geometry,
    scope: Scope,
    image: &mut ViewImage,
    turns: &Turns,
) -> Vec<[f64; SIDES]> {
    let native = BenchNic::new(geometry).unwrap();
    let view = BenchNic::in_view(geometry).unwrap();
    let port = geometry.port(0).unwrap();
    let (direct, _) = native.open(port);
    let call = image.call(&view, port);
    let mut floors = [(); 2].map(|()| Floor::new(case).unwrap());
    let [memcpy, vector] = &mut floors;
    let lap = memcpy.lap();
    let third = Side::new(case, lap, |steps| memcpy.run(Copy::Memcpy, scope, steps));
    let fourth = Side::new(case, lap, |steps| vector.run(Copy::Vector, scope, steps));
    match scope {
        Scope::Switch => {
            let mut first = Traffic::new(&native, case, direct);
            let mut second = Traffic::new(&view, case, call);
            let lap = first.lap();
            let sides = [
                Side::new(case, lap, |steps| first.run(steps)),
                Side::new(case, lap, |steps| second.run(steps)),
                third,
                fourth,
            ];
            let rounds = alternate(sides, turns);
            first.check();
            second.check();
            rounds
        }
        Scope::Whole => {
            let mut first = Exchange::new(&native, case, direct);
            let mut second = Exchange::new(&view, case, call);
            let lap = first.lap();
            let sides = [
                Side::new(case, lap, |steps| first.run(steps)),
                Side::new(case, lap, |steps| second.run(steps)),
                third,
                fourth,
            ];
            let rounds = alternate(sides, turns);
            first.check();
            second.check();
            rounds
        }
    }
}
