//! The structure of the workspace: which crate may depend on which, and no file that imports in a
//! circle.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Crates of this workspace, and those of it that each may depend on. Tests may depend on any.
const MAY_DEPEND_ON: [(&str, &[&str]); 30] = [
    ("abi", &[]),
    ("switch", &["abi"]),
    ("guest", &["abi", "switch"]),
    ("guest-bare", &["abi", "guest", "switch"]),
    ("guest-linux", &["abi", "guest"]),
    ("bridge", &["abi", "guest", "tap"]),
    ("nic-image", &["abi", "switch"]),
    ("nic-kernel", &["abi", "switch"]),
    ("nic-models", &["abi"]),
    ("nic-bench", &["abi", "guest", "switch"]),
    ("kvm", &["abi"]),
    ("confine", &["abi"]),
    ("nic-client", &["abi", "switch"]),
    ("fuzz-input", &[]),
    ("tap", &["abi", "switch"]),
    (
        "nic-owner",
        &[
            "abi",
            "confine",
            "guest",
            "kvm",
            "nic-client",
            "switch",
            "tap",
        ],
    ),
    (
        "vmm",
        &["abi", "confine", "kvm", "nic-client", "switch", "tap"],
    ),
    (
        "cli",
        &["abi", "confine", "nic-client", "nic-owner", "switch", "vmm"],
    ),
    ("init", &["abi"]),
    ("guest-init", &["abi"]),
    ("lab", &["abi", "init", "kvm", "vmm"]),
    ("bench", &["abi", "lab", "vmm"]),
    ("paper", &["abi", "bench", "lab"]),
    ("viewtest", &["abi", "kvm", "nic-client", "switch"]),
    ("words", &[]),
    ("disktest", &["words"]),
    ("nettest", &["words"]),
    ("exitcost", &[]),
    ("inject", &["abi"]),
    ("suite", &["abi", "bench", "lab", "paper"]),
];

/// What cargo says of the workspace.
fn metadata() -> serde_json::Value {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn crates_depend_on_what_their_role_allows() {
    let allowed: BTreeMap<_, _> = MAY_DEPEND_ON.into_iter().collect();
    let metadata = metadata();
    let short = |name: &serde_json::Value| {
        let name = name.as_str().unwrap();
        name.strip_prefix("postern-").map(str::to_owned)
    };
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = short(&package["name"]).expect("our packages begin with postern-");
        let may = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("postern-{name} is not in the list of this test"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let ours = short(&dependency["name"]);
            if let (Some(ours), true) = (ours, dependency["kind"].is_null()) {
                assert!(
                    may.contains(&ours.as_str()),
                    "postern-{name} may not depend on postern-{ours}"
                );
            }
        }
        seen.insert(name);
    }
    assert_eq!(seen.len(), allowed.len(), "only {seen:?}");
}

/// A crate's source files, by module path: `["switch", "lane"]` for `src/switch/lane.rs`.
type Modules = BTreeMap<Vec<String>, PathBuf>;

fn modules(directory: &Path, path: &[String], found: &mut Modules) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (file, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if file.is_dir() {
            if name != "tests" {
                modules(&file, &[path, &[name]].concat(), found);
            }
        } else if let Some(stem) = name.strip_suffix(".rs") {
            match stem {
                "lib" | "main" | "mod" => drop(found.insert(path.to_vec(), file)),
                "tests" => {}
                _ => drop(found.insert([path, &[stem.to_owned()]].concat(), file)),
            }
        }
    }
}

/// The paths of a `use` tree such as `a::{b, c::{self, D}}`, as segments.
fn leaves(tree: &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let (mut depth, mut start) = (0, 0);
    let mut parts = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    for part in parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let part = part.split(" as ").next().unwrap().trim();
        match part.split_once("::") {
            Some((first, rest)) => {
                let prefix = [prefix, &[first.trim().to_owned()]].concat();
                let rest = rest.trim();
                let inner = rest
                    .strip_prefix('{')
                    .and_then(|rest| rest.strip_suffix('}'));
                leaves(inner.unwrap_or(rest), &prefix, found);
            }
            None => found.push([prefix, &[part.to_owned()]].concat()),
        }
    }
}

/// The modules of the crate that a file imports from.
fn imports(module: &[String], text: &str, all: &Modules) -> BTreeSet<Vec<String>> {
    // Tests within a file come last, and import what they test.
    let code = text.split("#[cfg(test)]").next().unwrap();
    let mut paths = Vec::new();
    for line in code.split(';') {
        let statement = line.rsplit('\n').next().map(|_| line).unwrap();
        let statement = statement.trim_start();
        let at = statement
            .lines()
            .position(|line| line.trim_start().starts_with("use ") || line.contains(" use "));
        let Some(at) = at else { continue };
        let lines: Vec<&str> = statement.lines().skip(at).collect();
        let joined = lines.join(" ");
        if let Some((_, tree)) = joined.split_once("use ") {
            leaves(tree.trim(), &[], &mut paths);
        }
    }
    let mut found = BTreeSet::new();
    for path in paths {
        let mut full: Vec<String> = match path[0].as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module[..module.len().saturating_sub(1)].to_vec(),
            child if all.contains_key(&[module, &[child.to_owned()]].concat()) => {
                [module, &[child.to_owned()]].concat()
            }
            _ => continue,
        };
        for segment in &path[1..] {
            match segment.as_str() {
                "super" => drop(full.pop()),
                segment => {
                    let next = [&full[..], &[segment.to_owned()]].concat();
                    if !all.contains_key(&next) {
                        break;
                    }
                    full = next;
                }
            }
        }
        if full != module {
            found.insert(full);
        }
    }
    found
}

/// A circle among the imports, if there is one.
fn circle(edges: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Option<Vec<Vec<String>>> {
    fn visit<'a>(
        at: &'a Vec<String>,
        edges: &'a BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
        path: &mut Vec<&'a Vec<String>>,
        done: &mut BTreeSet<&'a Vec<String>>,
    ) -> Option<Vec<Vec<String>>> {
        if let Some(begin) = path.iter().position(|other| *other == at) {
            return Some(
                path[begin..]
                    .iter()
                    .map(|module| (*module).clone())
                    .collect(),
            );
        }
        if !done.insert(at) {
            return None;
        }
        path.push(at);
        let next = edges.get(at).into_iter().flatten();
        let found = next.into_iter().find_map(|to| visit(to, edges, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    edges
        .keys()
        .find_map(|module| visit(module, edges, &mut Vec::new(), &mut done))
}

#[test]
fn no_file_imports_in_a_circle() {
    let metadata = metadata();
    let (mut circles, mut files) = (Vec::new(), 0);
    for package in metadata["packages"].as_array().unwrap() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let mut all = Modules::new();
        modules(&manifest.parent().unwrap().join("src"), &[], &mut all);
        files += all.len();
        let edges = all.iter().map(|(module, file)| {
            let text = fs::read_to_string(file).unwrap();
            (module.clone(), imports(module, &text, &all))
        });
        if let Some(found) = circle(&edges.collect()) {
            let names: Vec<String> = found.iter().map(|module| module.join("::")).collect();
            circles.push(format!("{}: {}", package["name"], names.join(" -> ")));
        }
    }
    assert!(files > 200, "only {files} files were looked at");
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn circles_are_found() {
    let all: Modules = [vec![], vec!["a".to_owned()], vec!["b".to_owned()]]
        .into_iter()
        .map(|module| (module, PathBuf::new()))
        .collect();
    let name = |name: &str| vec![name.to_owned()];
    let of_a = imports(
        &name("a"),
        "use std::fmt;\n\nuse crate::b::{self, C};\n",
        &all,
    );
    assert_eq!(of_a, BTreeSet::from([name("b")]));
    let of_b = imports(&name("b"), "/// A doc.\nuse super::a::D;\n", &all);
    assert_eq!(of_b, BTreeSet::from([name("a")]));
    let edges = BTreeMap::from([(name("a"), of_a), (name("b"), of_b)]);
    assert_eq!(circle(&edges), Some(vec![name("a"), name("b")]));
    assert_eq!(
        circle(&BTreeMap::from([(name("a"), BTreeSet::from([name("b")]))])),
        None
    );
}
