//! Which unit tests have a word in their names, before they are built.
//!
//! Names of unit tests are known for certain once they are built. Here they are guessed from the
//! sources, so that a package is built only if one of its tests may be wanted, and a word that is in
//! no name is told at once. A guess may take a test for wanted that is not; it misses none.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use postern_lab::setup;
use serde_json::Value;

/// Package that is no default member: its tests are built otherwise than all others.
const MODELS: &str = "postern-nic-models";

/// Program of unit tests, or the documentation of a library, as a name of tests begins with it.
struct Program {
    package: String,
    /// Name of the crate, as it is in the names of its tests.
    name: String,
    /// Names of modules and functions, or more.
    identifiers: BTreeSet<String>,
    /// Files with examples in their documentation, and names in these.
    examples: BTreeSet<String>,
}

/// The unit tests that are wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    packages: BTreeSet<String>,
    /// Words that are passed to the programs; if there are none, all their tests run.
    filters: Vec<String>,
    /// Words that are in no name.
    unknown: Vec<String>,
}

impl Selection {
    /// Unit tests with one of these words in their names, or all if there is no word.
    ///
    /// # Errors
    ///
    /// The sources cannot be read.
    pub fn new(metadata: &Value, words: &[String]) -> Result<Self> {
        Ok(select(&programs(metadata)?, words))
    }

    /// Packages to be tested: those of the models of memory, or the others.
    pub fn packages(&self, models: bool) -> Vec<&str> {
        let packages = self.packages.iter().map(String::as_str);
        packages
            .filter(|name| (*name == MODELS) == models)
            .collect()
    }

    /// Words to be passed to the programs.
    pub fn filters(&self) -> &[String] {
        &self.filters
    }

    /// True if no test has this word in its name.
    pub fn lacks(&self, word: &str) -> bool {
        self.unknown.iter().any(|unknown| unknown == word)
    }

    /// True if there are no tests.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }
}

fn select(programs: &[Program], words: &[String]) -> Selection {
    let mut selection = Selection::default();
    if words.is_empty() {
        selection.packages = programs
            .iter()
            .map(|program| program.package.clone())
            .collect();
        return selection;
    }
    // A program knows the names of its tests without its own.
    let mut inside = true;
    for word in words {
        let mut known = false;
        for program in programs {
            let matched = program.may_have(word);
            if matched.is_some() {
                known = true;
                selection.packages.insert(program.package.clone());
                inside &= matched == Some(Match::Inside);
            }
        }
        if !known {
            selection.unknown.push(word.clone());
        }
    }
    if inside {
        selection.filters = words.to_vec();
    }
    selection
}

/// Part of a test's name that has a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    /// What follows the program's name.
    Inside,
    /// Another part, or several.
    Elsewhere,
}

impl Program {
    /// Whether one of its tests may have a word in its name, `unit/PROGRAM::MODULE::TEST`.
    fn may_have(&self, word: &str) -> Option<Match> {
        let example = word.contains(".rs") || word.contains("(line");
        if word.contains(' ') && !example {
            return None;
        }
        let is_in = |part: &str, set: &BTreeSet<String>| set.iter().any(|name| name.contains(part));
        let word = match word.split_once('/') {
            Some((first, rest)) if "unit".ends_with(first) => rest,
            Some(_) if example => word,
            Some(_) => return None,
            None if "unit/".contains(word) => return Some(Match::Elsewhere),
            None => word,
        };
        let parts: Vec<&str> = word
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|part| !part.is_empty())
            .collect();
        if let [part] = parts[..]
            && part == word
            && !self.name.contains(part)
        {
            let inside = is_in(part, &self.identifiers) || is_in(part, &self.examples);
            return inside.then_some(Match::Inside);
        }
        let known = |part: &&str| {
            self.name.contains(part)
                || is_in(part, &self.identifiers)
                || is_in(part, &self.examples)
                || (example && (*part == "line" || part.parse::<u32>().is_ok()))
        };
        parts.iter().all(known).then_some(Match::Elsewhere)
    }
}

/// All programs of unit tests that the suite runs.
fn programs(metadata: &Value) -> Result<Vec<Program>> {
    let list = |value: &'static str| {
        metadata[value]
            .as_array()
            .context("reading cargo's metadata")
    };
    let members = list("workspace_default_members")?;
    let mut programs = Vec::new();
    for package in list("packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        if !members.contains(&package["id"]) && name != MODELS {
            continue;
        }
        for target in package["targets"].as_array().into_iter().flatten() {
            let is = |key: &str| target[key].as_bool().unwrap_or_default();
            if is("test") || is("doctest") {
                let target_name = target["name"].as_str().unwrap_or_default();
                let source = Path::new(target["src_path"].as_str().unwrap_or_default());
                let mut program = Program {
                    package: name.to_owned(),
                    name: target_name.replace('-', "_"),
                    identifiers: BTreeSet::new(),
                    examples: BTreeSet::new(),
                };
                program.read(source, is("test"), is("doctest"))?;
                programs.push(program);
            }
        }
    }
    Ok(programs)
}

impl Program {
    /// Reads the names in the files of a crate, of which this is the first.
    fn read(&mut self, source: &Path, tests: bool, doctests: bool) -> Result<()> {
        let folder = source.parent().unwrap_or(Path::new(""));
        let is_root = ["lib.rs", "main.rs"]
            .iter()
            .any(|name| source.ends_with(name));
        let mut files = vec![source.to_owned()];
        if is_root {
            files = rust_files(folder)?;
        } else {
            // tests/x.rs has its modules in tests/x.
            files.extend(rust_files(&source.with_extension(""))?);
        }
        for file in files {
            let text = fs::read_to_string(&file);
            let text = text.with_context(|| format!("reading {}", file.display()))?;
            let path = file.strip_prefix(folder).unwrap_or(&file);
            let modules = path.with_extension("");
            if tests && text.contains("#[test]") {
                let modules = modules.components();
                let modules = modules.map(|part| part.as_os_str().to_string_lossy().into_owned());
                self.identifiers.extend(modules);
                self.identifiers.extend(names(&text, &["fn", "mod"]));
                // A macro makes functions of names that can be anywhere in the file.
                if text.contains("fn $") {
                    self.identifiers
                        .extend(identifiers(&text).map(str::to_owned));
                }
            }
            if doctests && text.contains("```") {
                let path = file.strip_prefix(setup::root()).unwrap_or(&file);
                let parts = path.to_string_lossy();
                self.examples.extend(identifiers(&parts).map(str::to_owned));
                let items = [
                    "const",
                    "enum",
                    "fn",
                    "macro_rules",
                    "mod",
                    "struct",
                    "trait",
                    "type",
                ];
                self.examples.extend(names(&text, &items));
            }
        }
        Ok(())
    }
}

/// Identifiers that follow one of these keywords.
fn names(text: &str, keywords: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    let mut words = identifiers(text).peekable();
    while let Some(word) = words.next() {
        if keywords.contains(&word)
            && let Some(name) = words.peek()
        {
            names.push((*name).to_owned());
        }
    }
    names
}

fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// All files of Rust in a folder and those in it; none if there is no such folder.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(files);
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", folder.display()))?
            .path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn select_here(list: &[&str]) -> Selection {
        let metadata = setup::metadata().unwrap();
        Selection::new(metadata, &words(list)).unwrap()
    }

    #[test]
    fn without_a_word_everything_is_selected() {
        let selection = select_here(&[]);
        assert_eq!(selection.packages(true), [MODELS]);
        let packages = selection.packages(false);
        assert!(packages.contains(&"postern-suite") && packages.contains(&"postern-switch"));
        assert!(!packages.contains(&"postern-nic-image"));
        assert!(selection.filters().is_empty());
    }

    #[test]
    fn a_word_selects_the_packages_whose_tests_may_have_it() {
        let selection = select_here(&["a_word_selects_the_packages_whose"]);
        assert_eq!(selection.packages(false), ["postern-suite"]);
        assert_eq!(selection.filters(), ["a_word_selects_the_packages_whose"]);
        for name in [
            "unit/postern_suite::unit_tests::tests::a_word_selects",
            "suite::unit_tests",
        ] {
            let selection = select_here(&[name]);
            assert_eq!(selection.packages(false), ["postern-suite"], "{name}");
            // These are no names of tests as their program knows them.
            assert!(selection.filters().is_empty(), "{name}");
        }
        assert!(select_here(&["unit"]).packages(false).len() > 10);
    }

    #[test]
    fn a_word_of_no_test_is_unknown() {
        // In one piece it would be here.
        let word = ["no", "such", "test"].join("");
        let selection = select_here(&[&word, "emulated/views"]);
        assert!(selection.is_empty() && selection.lacks(&word));
        assert!(select_here(&["a missing file is a failure"]).is_empty());
    }

    #[test]
    fn tests_that_macros_and_documentation_make_are_found() {
        let text = "macro_rules! m { ($n:ident) => { #[test] fn $n() {} } } m!(made_up);";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.rs");
        fs::write(&file, text).unwrap();
        let mut program = Program {
            package: "p".to_owned(),
            name: "x".to_owned(),
            identifiers: BTreeSet::new(),
            examples: BTreeSet::new(),
        };
        program.read(&file, true, false).unwrap();
        assert!(program.may_have("made_up") == Some(Match::Inside));
        let selection = select_here(&["postern_abi::guest-lib/abi/src/lib.rs - (line 31)"]);
        let packages = selection.packages(false);
        assert!(packages.contains(&"postern-abi") && !packages.contains(&"postern-kvm"));
        let selection = select_here(&["src/lib.rs - (line"]);
        assert!(selection.packages(false).contains(&"postern-abi"));
    }
}
