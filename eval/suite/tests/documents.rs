//! The documents show the way: every file, directory and link that they name exists.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// Directories of the repository's top level.
const TOP: [&str; 5] = ["eval", "guest-lib", "host-nic", "kernel-patches", "vmm"];

/// Placeholders, which name no file.
const PLACEHOLDERS: [&str; 5] = ["AREA", "NN", "X.Y", "FILE", "DIR"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The Markdown files of a directory, and of the directories of source in it.
fn documents(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "corpus", "results"].contains(&&name[..]) {
                documents(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// What stands between two marks in a text.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    let parts = text.split(open).skip(1);
    parts.filter_map(|part| part.split(close).next()).collect()
}

/// The paths of the repository that a document names in code spans, and its relative links.
fn named(text: &str) -> Vec<String> {
    let spans = text.split('`').skip(1).step_by(2);
    let paths = spans.filter(|span| {
        let top = span.split('/').next().unwrap_or_default();
        span.contains('/')
            && TOP.contains(&top)
            && !span.contains(|c: char| c.is_whitespace() || "{}*$=(".contains(c))
            && !PLACEHOLDERS.iter().any(|word| span.contains(word))
    });
    let links = between(text, "](", ')').into_iter().filter(|link| {
        !link.contains("://") && !link.starts_with('#') && !link.contains(char::is_whitespace)
    });
    paths.chain(links).map(str::to_owned).collect()
}

#[test]
fn every_path_that_a_document_names_exists() {
    let (root, mut found) = (root(), Vec::new());
    documents(&root, &mut found);
    assert!(found.len() >= 10, "only {found:?}");
    let (mut missing, mut checked) = (Vec::new(), 0);
    for document in &found {
        let directory = document.parent().unwrap();
        for name in named(&fs::read_to_string(document).unwrap()) {
            checked += 1;
            let path = name.split('#').next().unwrap();
            if !root.join(path).exists() && !directory.join(path).exists() {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(checked > 50, "only {checked} paths were looked at");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn no_document_waits_to_be_filled_in() {
    let mut found = Vec::new();
    documents(&root(), &mut found);
    for document in &found {
        let text = fs::read_to_string(document).unwrap();
        for mark in ["@FIRST@", "TODO", "FIXME", "TBD"] {
            assert!(!text.contains(mark), "{}: {mark}", document.display());
        }
    }
}

#[test]
fn what_does_not_exist_is_found() {
    let text = "see `vmm/src/nothing.rs`, [this](eval/none.md), `eval/suite/src/tests/AREA.rs`";
    assert_eq!(named(text), ["vmm/src/nothing.rs", "eval/none.md"]);
}
