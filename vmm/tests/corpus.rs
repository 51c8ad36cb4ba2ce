//! The corpus of the fuzz targets, without a fuzzer, and a few inputs that are made up each time.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[path = "../fuzz/src/lib.rs"]
mod targets;

fn replay(target: &str, run: fn(&[u8])) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs = Vec::new();
    for entry in fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        // Named in the output of a failure.
        println!("{}", path.display());
        let input = fs::read(&path).unwrap();
        run(&input);
        inputs.push(input);
    }
    assert!(
        inputs.len() >= 3,
        "{} has {}",
        corpus.display(),
        inputs.len()
    );
    inputs
}

/// Inputs near those of the corpus: two of them joined, with some bytes changed.
fn near(inputs: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let one = proptest::sample::select(inputs);
    let changes = proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8);
    (one.clone(), one, changes).prop_map(|(mut input, more, changes)| {
        // Without the byte that chooses features.
        input.extend_from_slice(more.get(1..).unwrap_or_default());
        for (at, value) in changes {
            let len = input.len();
            input[usize::from(at) % len] = value;
        }
        input
    })
}

macro_rules! replays {
    ($($target:ident),*) => {
        $(#[test]
        fn $target() {
            let inputs = replay(stringify!($target), targets::$target::run);
            proptest!(|(input in near(inputs))| targets::$target::run(&input));
        })*
    };
}

replays!(blk, net, pci, power, serial, virtio);
