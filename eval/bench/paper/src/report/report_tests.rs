use std::collections::BTreeMap;

use super::*;
use crate::experiment::{Place, PlotSpec, PlottedQuantity};
use crate::quantity::Quantity;
use crate::results::{About, FORMAT, FigureResults, Folder, PointAbout, Run, Value, sha256};

/// The experiment whose results are made up: its figure has bars, a projected ratio and published
/// values.
const FIGURE: &str = "fig-01_empty_call";

/// Something that must be escaped wherever it stands.
const HOSTILE: &str = "<script src=\"http://example.com/x.js\">|`*</script>";

fn run(label: &str) -> Run {
    Run {
        format: FORMAT,
        place: Place::Emulated,
        label: label.into(),
        revision: "abc".into(),
        abi_version: 1,
        started: 5,
        quick: false,
        repeats: 1,
        changes: Vec::new(),
        environment: BTreeMap::from([("CPU".into(), HOSTILE.into())]),
    }
}

fn experiment() -> Experiment {
    let all = experiment::all(bundle::root()).unwrap();
    all.into_iter().find(|one| one.name == FIGURE).unwrap()
}

/// Results of the experiment: all calls cost `total` instructions and one exit, or two VMFUNCs.
fn results(total: f64, label: &str) -> FigureResults {
    let experiment = experiment();
    let definition = &experiment.definition;
    let mut values = Vec::new();
    let mut points = Vec::new();
    for series in &definition.series {
        let workload = definition.workload_of(series, None, &toml::Table::new());
        points.push(PointAbout {
            series: series.name.clone(),
            x: None,
            workload: workload.unwrap(),
            failure: None,
        });
        let exits = if series.name.starts_with("exit") {
            1.0
        } else {
            0.0
        };
        for (quantity, value) in [
            (Quantity::TotalInstructions, total),
            (Quantity::GuestInstructions, 50.0),
            (Quantity::VmExits, exits),
            (Quantity::Vmfuncs, 2.0 * (1.0 - exits)),
        ] {
            values.push(Value {
                series: series.name.clone(),
                x: None,
                quantity,
                value,
                low: value,
                high: value,
                label: label.into(),
            });
        }
    }
    FigureResults {
        about: About {
            experiment: FIGURE.into(),
            definition_sha256: sha256(experiment.text.as_bytes()),
            points_sha256: String::new(),
            repeats_sha256: String::new(),
            points,
            kernel: HOSTILE.into(),
            machine: "a machine".into(),
            seconds: 1.5,
        },
        values,
        repeats: Vec::new(),
    }
}

fn folder(path: &Path, results: &FigureResults) -> PathBuf {
    let label = results.values[0].label.clone();
    let folder = Folder::create(path, &run(&label)).unwrap();
    folder.write(results).unwrap();
    path.to_owned()
}

fn made(folders: &[PathBuf], out: &Path) -> (String, String) {
    let html = write(folders, None, out).unwrap();
    // The templates escape slashes, too.
    let read = |file: PathBuf| fs::read_to_string(file).unwrap().replace("&#x2f;", "/");
    (read(html), read(out.join("report.md")))
}

/// What stands in attributes that make a browser load something.
fn loaded(html: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for attribute in [" src=\"", " href=\"", "url(", "@import"] {
        for (at, _) in html.match_indices(attribute) {
            let rest = &html[at + attribute.len()..];
            found.push(rest.split(['"', ')']).next().unwrap());
        }
    }
    found
}

#[test]
fn a_report_is_one_file_that_loads_nothing_and_escapes_what_it_is_given() {
    let directory = tempfile::tempdir().unwrap();
    let folder = folder(&directory.path().join("a"), &results(1000.0, "emulated"));
    let (html, markdown) = made(std::slice::from_ref(&folder), &folder);
    assert!(!html.contains("<script"), "a value was not escaped");
    assert!(html.contains("&lt;script src="));
    assert!(!markdown.contains("<script"));
    for link in loaded(&html) {
        let inside = link.starts_with('#') && html.contains(&format!("id=\"{}\"", &link[1..]));
        let raw = link.ends_with("/points.csv") && folder.join(link).is_file();
        assert!(inside || raw, "the report refers to {link:?}");
    }
    assert!(html.matches("<svg").count() == html.matches("</svg>").count());
    assert!(html.matches("<svg").count() > 3);
    for label in ["emulated", "projected", "published"] {
        assert!(
            html.contains(&format!("class=\"label {label}\"")),
            "{label}"
        );
        assert!(markdown.contains(&format!("*{label}*")), "{label}");
    }
    assert!(html.contains("cargo paper run fig-01_empty_call"));
    // 699 ns and 196 ns, as published.
    assert!(html.contains("3.57"), "the published ratio is missing");
}

#[test]
fn what_is_missing_partial_edited_or_of_another_revision_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut failed = results(1000.0, "emulated");
    failed.about.points[1].failure = Some("the machine died".into());
    failed.about.definition_sha256 = "other".into();
    let folder = folder(&path.join("a b"), &failed);
    let (html, markdown) = made(std::slice::from_ref(&folder), path);
    for text in [
        "Other revision: these results are of abc",
        "Partial: not run: fig-02_rx_nic",
        "Partial: 4 of 5 points have values",
        "Edited: experiment.toml is not the one that was run",
        "elisa-strict: the machine died",
        "Not yet: there is no key-value store",
    ] {
        assert!(html.contains(text), "{text}");
        assert!(markdown.contains(text), "{text}");
    }
    assert!(html.contains("href=\"a%20b/fig-01_empty_call/points.csv\""));

    let file = folder.join(FIGURE).join("points.csv");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("1000.0", "10.0")).unwrap();
    let (html, _) = made(&[folder], path);
    assert!(html.contains("points.csv was changed after it was measured"));
    assert!(!html.contains("class=\"label emulated\">emulated</span></th>"));
}

#[test]
fn claims_are_judged_by_what_was_measured() {
    let verdict = |total: f64, label: &str| {
        let directory = tempfile::tempdir().unwrap();
        let folder = folder(&directory.path().join("a"), &results(total, label));
        let (_, markdown) = made(std::slice::from_ref(&folder), &folder);
        let claim = "| An empty call by ELISA";
        let line = markdown.lines().find(|line| line.starts_with(claim));
        line.unwrap().to_owned()
    };
    // An exit costs far more than two VMFUNCs, until both drown in other instructions.
    let few = verdict(60.0, "emulated");
    assert!(
        few.contains("*projected*") && few.contains("| more"),
        "{few}"
    );
    let many = verdict(1e6, "emulated");
    assert!(many.contains("| less |"), "{many}");
    let nested = verdict(60.0, "nested");
    assert!(nested.contains("| not measured here |"), "{nested}");
}

#[test]
fn times_of_hardware_are_measured_ratios_and_rates() {
    let directory = tempfile::tempdir().unwrap();
    let mut timed = results(60.0, "hardware");
    let time = |series: &str| {
        if series.starts_with("exit") {
            700.0
        } else {
            200.0
        }
    };
    for series in experiment().definition.series {
        timed.values.push(Value {
            value: time(&series.name),
            low: time(&series.name),
            high: time(&series.name),
            series: series.name,
            x: None,
            quantity: Quantity::Nanoseconds,
            label: "hardware".into(),
        });
    }
    let folder = folder(&directory.path().join("a"), &timed);
    let (html, markdown) = made(std::slice::from_ref(&folder), &folder);
    let claim = "| An empty call by ELISA";
    let line = markdown
        .lines()
        .find(|line| line.starts_with(claim))
        .unwrap();
    assert!(line.contains("3.50 times *hardware* | holds |"), "{line}");
    let figure = html.split(&format!("id=\"{FIGURE}\"")).nth(1).unwrap();
    let figure = figure.split("</section>").next().unwrap();
    let measured = figure.split("Step by step").next().unwrap();
    assert!(!measured.contains("projected"), "{measured}");
}

#[test]
fn published_ratios_are_those_of_times_or_rates_at_the_same_place() {
    let all = experiment::all(bundle::root()).unwrap();
    let ratios = |name: &str| {
        let experiment = all.iter().find(|one| one.name == name).unwrap();
        let ratio = |spec: &&PlotSpec| spec.quantity == PlottedQuantity::Ratio;
        let spec = experiment.definition.plots.iter().find(ratio).unwrap();
        points::published(experiment, spec.quantity, spec.published.as_ref().unwrap())
    };
    for (name, place, expected) in [
        (FIGURE, None, 699.0 / 196.0),
        ("fig-04_inter_vm", Some(1472.0), 2.831 / 1.071),
    ] {
        let ratios = ratios(name);
        let elisa = ratios.iter().find(|one| one.system == "ELISA").unwrap();
        let mut found = elisa.points.iter();
        let (_, ratio) = found.find(|(x, _)| *x == place).unwrap();
        assert!((ratio - expected).abs() < 1e-9, "{name}: {ratio}");
    }
    let memcached = all
        .iter()
        .find(|one| one.name == "fig-07_memcached")
        .unwrap();
    let drawn = memcached
        .definition
        .plots
        .iter()
        .find_map(|spec| spec.published.as_ref());
    let quantity = memcached.definition.plots[0].quantity;
    let alone = points::published(memcached, quantity, drawn.unwrap());
    assert_eq!(alone.len(), 5, "all systems are drawn where they are alone");
}

#[test]
fn a_comparison_shows_what_moved_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let first = results(1000.0, "emulated");
    let mut second = first.clone();
    for value in second.values.iter_mut().take(1) {
        (value.value, value.low, value.high) = (1100.0, 1100.0, 1100.0);
    }
    let a = folder(&path.join("a"), &first);
    let b = folder(&path.join("b"), &second);
    let same = compare::write(&a, &a, path).unwrap();
    assert_eq!((same.different, same.equal), (0, first.values.len()));
    let moved = compare::write(&a, &b, path).unwrap();
    assert_eq!((moved.different, moved.equal), (1, first.values.len() - 1));
    let row = &moved.figures[0].differences.rows[0];
    assert_eq!(row[3..], ["1000", "1100", "+10.00 %"]);
    let html = fs::read_to_string(path.join("compare.html")).unwrap();
    assert!(html.contains("+10.00 %") && loaded(&html).is_empty());
    // Intervals that overlap are no difference.
    second.values[0].low = 990.0;
    let d = folder(&path.join("d"), &second);
    let near = compare::write(&a, &d, path).unwrap();
    assert_eq!((near.different, near.equal), (0, first.values.len()));

    let c = folder(&path.join("c"), &results(1000.0, "nested"));
    let other = compare::write(&a, &c, path).unwrap();
    assert!(other.meaning.contains("other labels"), "{}", other.meaning);
}

#[test]
fn folders_of_another_format_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let error = write(&[path.join("none")], None, path)
        .unwrap_err()
        .to_string();
    assert!(error.contains("none is no folder of results"), "{error}");
    let folder = folder(&path.join("a"), &results(1000.0, "emulated"));
    let file = folder.join("run.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"format\": 2", "\"format\": 99")).unwrap();
    let error = write(std::slice::from_ref(&folder), None, path)
        .unwrap_err()
        .to_string();
    assert!(error.contains("of format 99"), "{error}");
    let error = compare::write(&folder, &folder, path).unwrap_err();
    assert!(error.to_string().contains("of format 99"), "{error}");
}

#[test]
fn links_lead_from_one_folder_to_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for (from, to, expected) in [
        ("a", "a", ""),
        ("a", "b", "../b/"),
        ("a", "a/b c", "b%20c/"),
        ("a/b c", ".", "../../"),
    ] {
        for folder in [from, to] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        assert_eq!(link(&path.join(from), &path.join(to)), expected);
    }
}

/// Names in `experiment.toml` are those of `cargo suite --list`.
#[test]
fn tests_that_are_named_exist() {
    let file = bundle::root().join("eval/suite/src/tests/attacks.rs");
    let suite = fs::read_to_string(file).unwrap();
    let exists = |name: &str| {
        let repelled = name
            .strip_prefix("attacks/")
            .and_then(|name| name.strip_suffix(" is repelled"))
            .and_then(|name| name.split_once(" on "));
        match repelled {
            // They are made by macros of attack and path, or of the path alone.
            Some(("no-secret", path)) => suite.contains(&format!("refused!(\"{path}\")")),
            Some((attack, path)) => suite.contains(&format!("(\"{attack}\", \"{path}\")")),
            None => suite.contains(&format!("\"{name}\"")),
        }
    };
    assert!(!exists("attacks/nonsense on elisa is repelled") && !exists("attacks/nonsense"));
    let mut count = 0;
    for experiment in experiment::all(bundle::root()).unwrap() {
        let table = experiment.definition.table.as_ref();
        for cell in table
            .iter()
            .flat_map(|table| &table.rows)
            .flat_map(|row| &row.cells)
        {
            for test in &cell.tests {
                assert!(exists(test), "{}: no test {test:?}", experiment.name);
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count}");
}
