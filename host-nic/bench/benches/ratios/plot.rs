//! The plot: ratios of unicast between two ports by length of frames, a line for each size of
//! batches.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::rounds::Row;
use postern_nic_bench::case::{BATCHES, LENGTHS, Pattern};

const SIZE: (u32, u32) = (1500, 640);
const COLOURS: [RGBColor; BATCHES.len()] = [
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(90, 60, 140),
];
/// The font in which letters are drawn and measured.
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";

/// Writes `ratios.svg` and `ratios.png`, where there is a font to draw with.
///
/// # Errors
///
/// The font cannot be used, or a file cannot be written.
pub fn write(rows: &[Row], directory: &Path) -> Result<(), Box<dyn Error>> {
    let rows: Vec<&Row> = rows
        .iter()
        .filter(|row| row.case.pattern == Pattern::Unicast && row.case.ports == 2)
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let Ok(font) = fs::read(FONT) else {
        println!("no plot: {FONT} is missing; apt-get install fonts-dejavu-core");
        return Ok(());
    };
    register_font("sans-serif", FontStyle::Normal, font.leak())
        .map_err(|_| format!("{FONT} is not a font"))?;
    let path = directory.join("ratios.svg");
    draw(&SVGBackend::new(&path, SIZE).into_drawing_area(), &rows)?;
    let path = directory.join("ratios.png");
    draw(&BitMapBackend::new(&path, SIZE).into_drawing_area(), &rows)
}

/// Draws the plot: a half for each floor.
fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    rows: &[&Row],
) -> Result<(), Box<dyn Error>>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let area = area.titled(
        "One packet through the switch against a plain copy of it (hardware, unicast, 2 ports)",
        ("sans-serif", 24),
    )?;
    let halves = area.split_evenly((1, 2));
    let names = ["to libc memcpy", "to an inline vector copy"];
    for (floor, (half, name)) in halves.iter().zip(names).enumerate() {
        half_of(half, rows, floor, name)?;
    }
    area.present()?;
    Ok(())
}

/// Draws the ratios to one floor.
fn half_of<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    rows: &[&Row],
    floor: usize,
    name: &str,
) -> Result<(), Box<dyn Error>>
where
    B::ErrorType: 'static,
{
    // Both halves have one range of ratios.
    let medians = rows
        .iter()
        .flat_map(|row| row.ratios.map(|ratio| ratio.median));
    let (lowest, highest) = medians.fold((0.5, 2.0), |(low, high): (f64, f64), ratio| {
        (low.min(ratio), high.max(ratio))
    });
    let (lowest, highest) = (lowest * 0.8, highest * 1.3);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("ratio {name}"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (54f64..11_000f64)
                .log_scale()
                .with_key_points(LENGTHS.map(f64::from).to_vec()),
            (lowest..highest)
                .log_scale()
                .with_key_points(vec![0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0]),
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("bytes of a frame (rings of 128 slots, of 1024 where a batch does not fit)")
        .y_desc("switch / copy (median; bars: 10th to 90th percentile)")
        .x_label_formatter(&|length| format!("{length:.0}"))
        .y_label_formatter(&|ratio| format!("{ratio}"))
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 16))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let parity = [(54.0, 1.0), (11_000.0, 1.0)];
    chart.draw_series(LineSeries::new(parity, BLACK.stroke_width(2)))?;
    for (number, (batch, colour)) in BATCHES.into_iter().zip(COLOURS).enumerate() {
        // Points of one length stand beside each other, so that their bars can be told apart.
        let x = move |row: &Row| f64::from(row.case.length) * (0.955 + 0.018 * number as f64);
        // Where a case was measured with several rings, the smallest one counts.
        let mut points: Vec<&&Row> = rows.iter().filter(|row| row.case.batch == batch).collect();
        points.sort_by_key(|row| (row.case.length, row.case.slots));
        points.dedup_by_key(|row| row.case.length);
        if points.is_empty() {
            continue;
        }
        let line = points.iter().map(|row| (x(row), row.ratios[floor].median));
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(format!("batch {batch}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(3)));
        chart.draw_series(line.map(|point| Circle::new(point, 4, colour.filled())))?;
        chart.draw_series(points.iter().map(|row| {
            let (x, ratio) = (x(row), row.ratios[floor]);
            let (low, high) = (ratio.p10.max(lowest), ratio.p90.min(highest));
            ErrorBar::new_vertical(x, low, ratio.median, high, colour.filled(), 6)
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 15))
        .draw()?;
    Ok(())
}
