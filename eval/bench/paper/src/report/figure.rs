//! A figure of the report.

use anyhow::Result;
use serde::Serialize;

use super::own_table;
use super::points::{Ours, PublishedSeries, published};
use super::source::{Source, State};
use super::tables;
use super::view::{Plot, Sample, Table, Titled};
use crate::experiment::{Experiment, PlotKind, PlotSpec, Scale};
use crate::model::{Band, CostModel};
use crate::plot::{self, Bar, Curve, Kind, LinePlot, Look, Point};

/// A figure of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Name of the experiment.
    pub name: String,
    /// Title.
    pub title: String,
    /// Publication, section and figure.
    pub paper: String,
    /// What it shows.
    pub shows: String,
    /// Why there are no values of ours, if there are none.
    pub without: Option<String>,
    /// Command that makes its values anew, if one does.
    pub command: Option<String>,
    /// Legend of all its plots.
    pub legend: Vec<Sample>,
    /// Its tables, if it is one of published facts; the steps of its work, if the code says them.
    pub tables: Vec<Titled>,
    /// What each folder of results has of it.
    pub runs: Vec<FigureRun>,
    /// Plots of published values alone, where no folder has any.
    pub plots: Vec<Plot>,
    /// Published values.
    pub published: Vec<Titled>,
    /// Where those were published.
    pub sources: Vec<String>,
}

/// What a folder of results has of a figure.
#[derive(Clone, Debug, Serialize)]
pub struct FigureRun {
    /// Name of the folder.
    pub folder: String,
    /// The raw values, from where the report is.
    pub csv: String,
    /// Label of what was measured.
    pub label: String,
    /// Kernel, machine and time.
    pub circumstances: String,
    /// What readers must know.
    pub notes: Vec<String>,
    /// Points that failed, and why.
    pub failures: Vec<String>,
    /// Plots.
    pub plots: Vec<Plot>,
    /// Values.
    pub table: Table,
}

/// Makes a figure of what folders of results have of an experiment. `links` are the folders' paths
/// from where the report is.
///
/// # Errors
///
/// Those of drawing.
pub fn figure(
    experiment: &Experiment,
    sources: &[Source],
    links: &[String],
    model: &CostModel,
) -> Result<Figure> {
    let definition = &experiment.definition;
    let mut runs = Vec::new();
    let (mut not_run, mut unusable) = (Vec::new(), Vec::new());
    for (source, link) in sources.iter().zip(links) {
        match source.state(experiment) {
            State::NotRun => not_run.push(format!("{}: not run", source.name)),
            State::Unusable(why) => unusable.push(format!("{}: not used: {why}", source.name)),
            State::Results(results, notes) => {
                let ours = Ours {
                    definition,
                    results: &results,
                    label: &source.folder.run.label,
                    model,
                };
                runs.push(run(experiment, source, link, &ours, notes)?);
            }
        }
    }
    // Where one folder has it, nobody asks for the others.
    if runs.is_empty() {
        unusable.append(&mut not_run);
    }
    let own = definition.table.as_ref();
    let without = match &definition.not_yet {
        _ if own.is_some() => None,
        Some(why) => Some(format!("Not yet: {why}")),
        None if unusable.is_empty() => None,
        None => Some(format!("No values of ours: {}.", unusable.join("; "))),
    };
    let mut plots = Vec::new();
    if runs.is_empty() {
        for spec in &definition.plots {
            plots.extend(draw(experiment, spec, None)?);
        }
    }
    Ok(Figure {
        name: experiment.name.clone(),
        title: definition.title.clone(),
        paper: definition.paper.clone(),
        shows: definition.shows.clone(),
        without,
        command: (!definition.series.is_empty())
            .then(|| format!("cargo paper run {}", experiment.name)),
        legend: legend(experiment, !runs.is_empty())?,
        tables: match own {
            Some(spec) => own_table::of(spec, &experiment.published),
            None => tables::of_steps(&experiment.steps, model)
                .into_iter()
                .collect(),
        },
        runs,
        plots,
        published: match own {
            Some(_) => Vec::new(),
            None => tables::of_published(&experiment.published),
        },
        sources: tables::sources(&experiment.published),
    })
}

fn run(
    experiment: &Experiment,
    source: &Source,
    link: &str,
    ours: &Ours<'_>,
    mut notes: Vec<String>,
) -> Result<FigureRun> {
    let about = &ours.results.about;
    let mut plots = Vec::new();
    for spec in &experiment.definition.plots {
        plots.extend(draw(experiment, spec, Some(ours))?);
        let alone = spec
            .published
            .as_ref()
            .is_some_and(|drawn| drawn.alone.is_some());
        let mut points = about.points.iter();
        let any = points.any(|point| ours.value(spec.quantity, &point.series, point.x).is_some());
        if !any && !alone {
            notes.push(format!(
                "Without values of ours: {}. It is not what was counted, and the cost model does not cover \
                 this work.",
                spec.axis
            ));
        }
    }
    let failures = about.points.iter();
    let failures = failures.filter_map(|point| {
        let place = point.x.map_or(String::new(), |x| format!(" at {x}"));
        let failure = point.failure.as_ref()?;
        Some(format!("{}{place}: {failure}", point.series))
    });
    Ok(FigureRun {
        folder: source.name.clone(),
        csv: format!("{link}{}/points.csv", experiment.name),
        label: ours.label.to_owned(),
        circumstances: format!(
            "kernel {}, {}, {:.0} s",
            about.kernel, about.machine, about.seconds
        ),
        notes,
        failures: failures.collect(),
        plots,
        table: tables::of_figure(experiment, ours),
    })
}

/// A sample of each series that plots show: published ones, and ours if there are results.
fn legend(experiment: &Experiment, with_ours: bool) -> Result<Vec<Sample>> {
    let definition = &experiment.definition;
    let lines = |plot: &&PlotSpec| plot.kind == PlotKind::Lines;
    if !definition.plots.iter().any(|plot| lines(&plot)) {
        return Ok(Vec::new());
    }
    let mut samples = Vec::new();
    if with_ours {
        let series = definition.series.iter().enumerate();
        samples.extend(series.map(|(n, series)| (series.name.clone(), n, Kind::Measured)));
    }
    let mut systems: Vec<PublishedSeries> = Vec::new();
    for plot in definition.plots.iter().filter(lines) {
        for system in plot
            .published
            .iter()
            .flat_map(|drawn| published(experiment, plot.quantity, drawn))
        {
            if !systems.iter().any(|known| known.system == system.system) {
                systems.push(system);
            }
        }
    }
    for system in systems {
        samples.push((
            format!("{}, published", system.system),
            system.look,
            Kind::Published,
        ));
    }
    let sample = |(name, look, kind): (String, usize, Kind)| {
        let svg = plot::sample(Look(look), kind)?;
        Ok(Sample { name, svg })
    };
    samples.into_iter().map(sample).collect()
}

/// Draws a plot; none if there is nothing to draw.
fn draw(experiment: &Experiment, spec: &PlotSpec, ours: Option<&Ours<'_>>) -> Result<Option<Plot>> {
    let published = spec.published.as_ref().map_or(Vec::new(), |drawn| {
        published(experiment, spec.quantity, drawn)
    });
    let svg = match spec.kind {
        PlotKind::Lines => lines(experiment, spec, ours, &published)?,
        PlotKind::Bars => bars(experiment, spec, ours, &published)?,
    };
    let title = spec.axis.clone();
    Ok(svg.map(|svg| Plot { title, svg }))
}

fn lines(
    experiment: &Experiment,
    spec: &PlotSpec,
    ours: Option<&Ours<'_>>,
    published: &[PublishedSeries],
) -> Result<Option<String>> {
    let definition = &experiment.definition;
    let Some(axis) = &definition.axis else {
        return Ok(None);
    };
    let alone = spec.published.as_ref();
    let alone = alone.and_then(|drawn| drawn.alone.as_deref());
    let ours = ours.filter(|_| alone.is_none());
    let mut curves: Vec<Curve> = published.iter().map(published_curve).collect();
    for (n, series) in definition.series.iter().enumerate() {
        let value = |x: u32| Some((x, ours?.value(spec.quantity, &series.name, Some(x))?));
        let found: Vec<(u32, (Kind, Band))> =
            axis.values.iter().filter_map(|&x| value(x)).collect();
        let Some((_, (kind, _))) = found.first() else {
            continue;
        };
        curves.push(Curve {
            look: Look(n),
            kind: *kind,
            points: found
                .iter()
                .map(|(x, (kind, band))| Point {
                    x: f64::from(*x),
                    y: band.middle,
                    band: ends(*kind, *band),
                })
                .collect(),
        });
    }
    if curves.is_empty() {
        return Ok(None);
    }
    let plot = LinePlot {
        title: &format!("{}: {}", definition.title, spec.axis),
        x_name: alone.unwrap_or(&axis.name),
        x_division: match alone {
            Some(_) => Scale::Linear,
            None => axis.scale,
        },
        curves,
    };
    plot::lines(&plot).map(Some)
}

fn published_curve(series: &PublishedSeries) -> Curve {
    let points = series.points.iter();
    Curve {
        look: Look(series.look),
        kind: Kind::Published,
        points: points
            .filter_map(|&(x, y)| {
                Some(Point {
                    x: x?,
                    y,
                    band: None,
                })
            })
            .collect(),
    }
}

fn bars(
    experiment: &Experiment,
    spec: &PlotSpec,
    ours: Option<&Ours<'_>>,
    published: &[PublishedSeries],
) -> Result<Option<String>> {
    let definition = &experiment.definition;
    let mut bars = Vec::new();
    for (n, series) in definition.series.iter().enumerate() {
        let value = ours.and_then(|ours| ours.value(spec.quantity, &series.name, None));
        if let Some((kind, band)) = value {
            bars.push(Bar {
                name: series.name.clone(),
                look: Look(n),
                kind,
                value: band.middle,
                band: ends(kind, band),
            });
        }
        for system in published.iter().filter(|system| system.look == n) {
            bars.extend(system.points.iter().map(|&(_, value)| Bar {
                name: format!("{}, published", system.system),
                look: Look(n),
                kind: Kind::Published,
                value,
                band: None,
            }));
        }
    }
    if bars.is_empty() {
        return Ok(None);
    }
    let title = format!("{}: {}", definition.title, spec.axis);
    plot::bars(&title, &spec.axis, &bars).map(Some)
}

fn ends(kind: Kind, band: Band) -> Option<(f64, f64)> {
    (kind == Kind::Projected || band.low < band.high).then_some((band.low, band.high))
}
