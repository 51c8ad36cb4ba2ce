//! The switch and both floors under criterion, for comparing two revisions: `cargo bench -p
//! postern-nic-bench --bench switch -- --save-baseline NAME`, later `--baseline NAME`.
//!
//! The library describes what is timed. Criterion times one side after the other, so ratios to the
//! floors are better taken from `ratios`, which lets them take turns. With `POSTERN_BENCH_FULL` set
//! all cases are measured, otherwise a selection.
#![allow(clippy::unwrap_used, reason = "a failure ends the benchmark")]
#![allow(missing_docs, reason = "criterion makes functions")]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use postern_nic_bench::case::{Case, all, chosen};
use postern_nic_bench::floor::{Copy, Floor};
use postern_nic_bench::memory::BenchNic;
use postern_nic_bench::nic::Traffic;

/// The time that a function takes.
fn elapsed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// Measures one case, if it fits.
fn case(criterion: &mut Criterion, case: Case) {
    let Ok(geometry) = case.geometry() else {
        return;
    };
    let mut group = criterion.benchmark_group(case.to_string().replace('/', ", "));
    group.throughput(Throughput::Elements(u64::from(case.batch * case.copies())));
    group.bench_function("switch", |bencher| {
        // This is called for wanted cases only: the memory of a large NIC takes a moment to make.
        let nic = BenchNic::new(geometry).unwrap();
        let mut traffic = Traffic::new(&nic, case, 0);
        bencher.iter_custom(|steps| elapsed(|| traffic.run(steps)));
        traffic.check();
    });
    for (name, copy) in [("memcpy", Copy::Memcpy), ("vector", Copy::Vector)] {
        group.bench_function(name, |bencher| {
            let mut floor = Floor::new(case).unwrap();
            bencher.iter_custom(|steps| elapsed(|| floor.run(copy, steps)));
        });
    }
    group.finish();
}

/// Measures all cases, or a selection.
fn cases(criterion: &mut Criterion) {
    let full = std::env::var_os("POSTERN_BENCH_FULL").is_some();
    for one in all() {
        if full || chosen(&one) {
            case(criterion, one);
        }
    }
}

criterion_group! {
    name = switch;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .sample_size(30);
    targets = cases
}
criterion_main!(switch);
