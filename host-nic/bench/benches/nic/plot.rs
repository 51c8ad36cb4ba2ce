//! The plot: the ratio of each case to the floor by vector registers, of both builds, with a panel for
//! each scope.

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::host::HostFacts;
use crate::measure::{NAMES, RATIOS, Row};
use postern_nic_bench::case::Case;
use postern_nic_bench::floor::Scope;

/// Width of the plot, and heights of what surrounds the rows and of a row, in pixels.
const WIDTH: u32 = 1600;
const MARGIN: u32 = 150;
const ROW: u32 = 44;
/// Colours of the ratios, in the order of [`RATIOS`]: one for each build, the lighter to `memcpy`.
const COLOURS: [RGBColor; RATIOS.len()] = [
    RGBColor(230, 159, 0),
    RGBColor(190, 70, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 90, 160),
];
/// The font in which letters are drawn and measured.
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";

/// Writes `nic.svg` and `nic.png`, where there is a font to draw with.
///
/// # Errors
///
/// The font cannot be used, or a file cannot be written.
pub fn write(rows: &[Row], machine: &HostFacts, directory: &Path) -> anyhow::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let Ok(font) = fs::read(FONT) else {
        println!("no plot: {FONT} is missing; apt-get install fonts-dejavu-core");
        return Ok(());
    };
    register_font("sans-serif", FontStyle::Normal, font.leak())
        .map_err(|_| anyhow::anyhow!("{FONT} is not a font"))?;
    let cases = rows.len().div_ceil(Scope::ALL.len()) as u32;
    let size = (WIDTH, MARGIN + ROW * cases);
    let path = directory.join("nic.svg");
    draw(
        &SVGBackend::new(&path, size).into_drawing_area(),
        rows,
        machine,
    )?;
    let path = directory.join("nic.png");
    draw(
        &BitMapBackend::new(&path, size).into_drawing_area(),
        rows,
        machine,
    )
}

/// Draws the plot: a half for each scope.
fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    rows: &[Row],
    machine: &HostFacts,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let area = area.titled(
        "Time of a frame through the NIC, as a multiple of plain copies of it",
        ("sans-serif", 24),
    )?;
    let about = format!("{}: native code, no VM; {machine}", machine.kind);
    let area = area.titled(&about, ("sans-serif", 14))?;
    let titles = [
        "switch: one call, against a copy from ring to ring",
        "whole: written, switched and read, against three copies",
    ];
    let all = || rows.iter().flat_map(|row| row.ratios);
    let low = all().map(|ratio| ratio.p10).fold(0.8, f64::min) * 0.9;
    let high = all().map(|ratio| ratio.p90).fold(2.0, f64::max) * 1.1;
    let halves = area.split_evenly((1, Scope::ALL.len()));
    for ((half, scope), title) in halves.iter().zip(Scope::ALL).zip(titles) {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.scope == scope).collect();
        panel(half, &rows, title, low..high)?;
    }
    area.present()?;
    Ok(())
}

/// Draws the cases of a scope, one below the other.
fn panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    rows: &[&Row],
    title: &str,
    range: std::ops::Range<f64>,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    // The axis draws those outside of its range, too.
    let ticks = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0];
    let ticks = ticks
        .into_iter()
        .filter(|tick| range.contains(tick))
        .collect();
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(46)
        .y_label_area_size(250)
        .build_cartesian_2d(range.clone().log_scale().with_key_points(ticks), count..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_desc("multiple of the floor, log scale (median; bars: 10th to 90th percentile)")
        .x_label_formatter(&|ratio| format!("{ratio}"))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 14))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let floor = [(1.0, 0.0), (1.0, count)];
    chart.draw_series(LineSeries::new(floor, BLACK.stroke_width(2)))?;
    let right = Pos::new(HPos::Right, VPos::Center);
    let style = ("sans-serif", 14).into_text_style(area).pos(right);
    for (row, number) in rows.iter().zip(0..) {
        let at = (range.start, f64::from(number) + 0.5);
        let Case {
            pattern,
            ports,
            length,
            batch,
        } = row.case;
        let name = format!(
            "{}, {ports} ports, {length} B, batch {batch}",
            pattern.name()
        );
        let text = EmptyElement::at(at) + Text::new(name, (-8, 0), style.clone());
        chart.plotting_area().draw(&text)?;
    }
    for (index, ((side, floor), colour)) in RATIOS.into_iter().zip(COLOURS).enumerate() {
        let points = rows.iter().zip(0..).map(move |(row, number)| {
            let y = f64::from(number) + 0.2 * (index as f64 + 1.0);
            (row.ratios[index], y)
        });
        let bars = points.clone().map(|(ratio, y)| {
            ErrorBar::new_horizontal(y, ratio.p10, ratio.median, ratio.p90, colour.filled(), 5)
        });
        chart.draw_series(bars)?;
        chart
            .draw_series(
                points.map(|(ratio, y)| Circle::new((ratio.median, y), 4, colour.filled())),
            )?
            .label(format!("{} switch, to {}", NAMES[side], NAMES[floor]))
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}
