//! Reader of the experiments' folders.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::definition::Definition;
use super::published::{self, PublishedValue};
use super::steps::{self, Step};

/// Folder of all experiments, from the top of the checkout.
const FOLDER: &str = "eval/experiments";

/// Largest file of an experiment that is read, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// An experiment, as its folder describes it.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Name of the experiment: that of its folder.
    pub name: String,
    /// Content of `experiment.toml`.
    pub definition: Definition,
    /// That content as it is written, whose hash results carry.
    pub text: String,
    /// Content of `published.csv`.
    pub published: Vec<PublishedValue>,
    /// Content of `steps.csv`; nothing where there is none.
    pub steps: Vec<Step>,
}

/// Reads all experiments, by name.
///
/// # Errors
///
/// The first folder that describes no experiment, with the file and what is wrong in it.
pub fn all(root: &Path) -> Result<Vec<Experiment>> {
    let folder = root.join(FOLDER);
    let mut folders: Vec<PathBuf> = fs::read_dir(&folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("reading {}", folder.display()))?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders.iter().map(|folder| read(folder)).collect()
}

/// Reads the experiments of these names: whole ones, or their numbers, as `fig-01`. All of them for no name.
///
/// # Errors
///
/// A name that no experiment has, with the one that is nearest to it; and a folder that describes none.
pub fn load(root: &Path, names: &[String]) -> Result<Vec<Experiment>> {
    let all = all(root)?;
    if names.is_empty() {
        return Ok(all);
    }
    let mut chosen: Vec<Experiment> = Vec::new();
    for name in names {
        let found = all.iter().find(|one| one.is_called(name));
        let Some(found) = found else {
            let nearest = all.iter().max_by(|a, b| {
                let likeness = |one: &Experiment| strsim::jaro_winkler(&one.name, name);
                likeness(a).total_cmp(&likeness(b))
            });
            let nearest = nearest.map_or("none", |one| &one.name);
            bail!(
                "there is no figure {name:?}; the nearest is {nearest} (cargo paper list shows all)"
            );
        };
        if !chosen.iter().any(|one| one.name == found.name) {
            chosen.push(found.clone());
        }
    }
    Ok(chosen)
}

impl Experiment {
    /// Whether this is its name, or its number: `fig-04`, `fig-4` or `4`.
    fn is_called(&self, name: &str) -> bool {
        let number = |name: &str| {
            let number = name.strip_prefix("fig-").unwrap_or(name);
            number.parse::<u32>().ok()
        };
        let own = self.name.split('_').next().unwrap_or_default();
        self.name == name || number(own).is_some_and(|own| number(name) == Some(own))
    }
}

fn read(folder: &Path) -> Result<Experiment> {
    let name = folder.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let file = folder.join("experiment.toml");
    let fail = || format!("{} describes no experiment", file.display());
    let text = read_text(&file)?;
    let definition: Definition = toml::from_str(&text).with_context(fail)?;
    definition.check().with_context(fail)?;
    let csv = folder.join("published.csv");
    let published = published::parse(&read_text(&csv)?)
        .with_context(|| format!("{} holds no published values", csv.display()))?;
    if let Some(table) = &definition.table {
        table.check(&published).with_context(fail)?;
    }
    for series in &definition.series {
        if let Some(system) = &series.published {
            ensure!(
                published.iter().any(|value| value.system == *system),
                "{}: series {} names {system:?}, a system without a value in published.csv",
                folder.display(),
                series.name
            );
        }
    }
    let csv = folder.join("steps.csv");
    let steps = match csv.exists() {
        true => {
            let series: Vec<&str> = definition.series.iter().map(|one| &one.name[..]).collect();
            steps::parse(&read_text(&csv)?, &series)
                .with_context(|| format!("{} holds no steps", csv.display()))?
        }
        false => Vec::new(),
    };
    ensure!(
        folder.join("README.md").is_file(),
        "{} has no README.md, which says what is measured",
        folder.display()
    );
    Ok(Experiment {
        name,
        definition,
        text,
        published,
        steps,
    })
}

fn read_text(file: &Path) -> Result<String> {
    let fail = || format!("reading {}", file.display());
    let data = fs::metadata(file).with_context(fail)?;
    ensure!(data.is_file(), "{} is no file", file.display());
    ensure!(
        data.len() <= MAX_FILE_SIZE,
        "{} has over {MAX_FILE_SIZE} bytes",
        file.display()
    );
    fs::read_to_string(file).with_context(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
title = 'Calls'
paper = 'A paper'
shows = 'What calls cost.'
per = 'call'
base = 'b'
[axis]
key = 'calls'
name = 'calls'
values = [1, 2, 5]
quick = [1, 5]
[workload]
kind = 'calls'
[[series]]
name = 'a'
published = 'A'
workload = { path = 'elisa' }
[[series]]
name = 'b'
workload = { path = 'exit-kernel' }
[[plot]]
kind = 'lines'
quantity = 'ratio'
axis = 'times'
published = { unit = 'ns' }
";

    fn folder(definition: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(FOLDER).join("fig-00_x");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("README.md"), "# X").unwrap();
        fs::write(folder.join("experiment.toml"), definition).unwrap();
        let published = format!("{}P,f,A,w,1,2,ns,quoted,s\n", published::HEAD);
        fs::write(folder.join("published.csv"), published).unwrap();
        root
    }

    #[test]
    fn the_experiments_of_this_checkout_can_be_read() {
        let all = all(crate::bundle::root()).unwrap();
        assert!(all.iter().any(|one| one.name == "fig-01_empty_call"));
    }

    #[test]
    fn mistakes_are_told_with_the_file() {
        all(folder(GOOD).path()).unwrap();
        for (old, new, part) in [
            ("title", "titel", "titel"),
            ("'elisa'", "'teleport'", "there are elisa, elisa-strict"),
            ("kind = 'calls'", "kind = 'flights'", "flights"),
            ("values = [1,", "values = [0, 1,", "no calls"),
            ("values = [1, 2, 5]", "values = [1, 5, 2]", "do not ascend"),
            ("quick = [1, 5]", "quick = [1, 6]", "6 is none"),
            ("quick = [1, 5]", "quick = []", "axis.quick is empty"),
            ("name = 'b'", "name = 'a'", "twice"),
            ("base = 'b'", "base = 'c'", "none of the series"),
            ("'ratio'", "'beauty'", "beauty"),
            ("published = 'A'", "published = 'B'", "without a value"),
            ("per = 'call'", "per = 'call'\nnot_yet = 'why'", "not_yet"),
        ] {
            assert!(GOOD.contains(old), "{old}");
            let root = folder(&GOOD.replacen(old, new, 1));
            let error = format!("{:#}", all(root.path()).unwrap_err());
            assert!(
                error.contains("fig-00_x") && error.contains(part),
                "{new}: {error}"
            );
        }
        let root = folder(GOOD);
        fs::remove_file(root.path().join(FOLDER).join("fig-00_x/README.md")).unwrap();
        assert!(all(root.path()).is_err());
    }

    #[test]
    fn names_are_whole_or_numbers_and_unknown_ones_are_told_with_the_nearest() {
        let root = folder(GOOD);
        let named =
            |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.into()).collect() };
        let load = |names: &[&str]| load(root.path(), &named(names));
        for names in [
            &[][..],
            &["fig-00_x"],
            &["fig-00"],
            &["0"],
            &["fig-00", "fig-00_x"],
        ] {
            assert_eq!(load(names).unwrap().len(), 1);
        }
        for name in ["fig", "", "..", "../experiments", "fig-00_x/."] {
            let error = load(&[name]).unwrap_err().to_string();
            assert!(error.contains("nearest is fig-00_x"), "{error}");
        }
    }

    #[test]
    fn a_later_table_wins() {
        let experiment = &all(folder(GOOD).path()).unwrap()[0];
        let definition = &experiment.definition;
        assert_eq!(definition.places(true), [Some(1), Some(5)]);
        let changes = "calls = 7".parse().unwrap();
        let workload = definition.workload_of(&definition.series[0], Some(2), &changes);
        let expected = toml::from_str("kind = 'calls'\npath = 'elisa'\ncalls = 7").unwrap();
        assert_eq!(workload.unwrap(), expected);
        let changes = "speed = 7".parse().unwrap();
        let error = definition.workload_of(&definition.series[0], Some(2), &changes);
        assert!(format!("{:#}", error.unwrap_err()).contains("speed"));
    }
}
