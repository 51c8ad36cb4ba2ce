//! The corpus of the fuzz targets, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use postern_nic_client::protocol::Request;
use postern_nic_owner::image::Image;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

fn corpus(target: &str) -> PathBuf {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    corpora.join(target)
}

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = corpus(target);
    let mut count = 0;
    for entry in fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        // Named in the output of a failure.
        println!("{}", path.display());
        run(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count >= 3, "{} has {count} files", corpus.display());
}

macro_rules! replays {
    ($($target:ident),*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target), targets::$target::run);
        })*
    };
}

replays!(acl, capture, control, descriptor, image, ring);

#[test]
fn all_parts_of_policies_can_be_read() {
    for row in 0..8 {
        for part in 0..4 {
            targets::policies::policy(part << (row * 2));
        }
    }
}

/// Inputs of an older ABI version would test little more than the refusal of that version;
/// `fuzz/seeds.py` writes them anew.
#[test]
fn first_inputs_have_the_abi_version_of_now() {
    let read = |target: &str, name: &str| fs::read(corpus(target).join(name)).unwrap();
    Image::parse(&read("image", "good")).unwrap();
    for path in 0..5 {
        // Behind the byte that says which kind of record.
        Request::decode(&read("control", &format!("attach-{path}"))[1..]).unwrap();
    }
}
