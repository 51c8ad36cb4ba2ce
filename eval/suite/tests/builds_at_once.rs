//! Builds of the NIC view's image at once, with and without a feature, in one target directory:
//! each gets its own result.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use postern_lab::setup::root;

/// Features of the images that are built, and how many builds of each run at once.
const FEATURES: [&str; 2] = ["", "attack-lock"];
const BUILDS: usize = 3;

fn start(features: &str, out: &Path, target: &Path) -> Child {
    Command::new(root().join("host-nic/image/build.sh"))
        .args(["--features", features, "--out"])
        .args([out.as_os_str(), "--target-dir".as_ref(), target.as_os_str()])
        .spawn()
        .unwrap()
}

#[test]
fn images_are_not_mixed_up() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = scratch.join("images-at-once");
    let results = tempfile::tempdir_in(scratch).unwrap();
    let out = |n: usize| -> PathBuf { results.path().join(format!("image-{n}")) };
    // All builds of the same features also write to one file, as runs from one checkout do.
    let shared = |n: usize| out(FEATURES.len() * BUILDS + n % FEATURES.len());
    let builds: Vec<Child> = (0..FEATURES.len() * BUILDS)
        .flat_map(|n| {
            let features = FEATURES[n % FEATURES.len()];
            [
                start(features, &out(n), &target),
                start(features, &shared(n), &target),
            ]
        })
        .collect();
    let failed = builds
        .into_iter()
        .map(|mut build| build.wait().unwrap())
        .filter(|status| !status.success())
        .count();
    assert_eq!(failed, 0, "builds failed, and said why above");
    let image = |n: usize| std::fs::read(out(n)).unwrap();
    assert!(image(0) != image(1), "the feature makes no difference");
    for n in 0..FEATURES.len() * (BUILDS + 1) {
        let same = image(n) == image(n % FEATURES.len());
        assert!(same, "image {n} is not that of its features");
    }
    // Nothing else is left beside them.
    let files = std::fs::read_dir(results.path()).unwrap().count();
    assert_eq!(files, FEATURES.len() * (BUILDS + 1));
}
