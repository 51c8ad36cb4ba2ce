//! The plot of an experiment: bars, one for each system, coloured by label.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};
use postern_bench::experiments::{Figures, Label, PlotSpec};

/// Width of the plot, and height without bars, in pixels.
const SIZE: (u32, u32) = (1000, 150);
/// Height of the space that a bar takes, in pixels.
const BAR: u32 = 40;
/// Width of the space for names of systems, in pixels.
const NAMES: u32 = 140;
/// Part of the plot's width that stays free for the number behind the longest bar.
const ROOM: f64 = 0.15;

const MEASURED: RGBColor = RGBColor(0, 114, 178);
const PUBLISHED: RGBColor = RGBColor(230, 159, 0);

/// Font to draw and to measure letters with.
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";

/// Draws `plot.svg` and `plot.png` in a folder, and says whether there is a font to draw with.
///
/// # Errors
///
/// Those of the file system.
pub fn draw(title: &str, spec: &PlotSpec, figures: &Figures, folder: &Path) -> Result<bool> {
    let Ok(font) = fs::read(FONT) else {
        return Ok(false);
    };
    register_font("sans-serif", FontStyle::Normal, font.leak())
        .map_err(|_| anyhow!("{FONT} is no font"))?;
    let bars = figures.of(spec.quantity);
    let size = (SIZE.0, SIZE.1 + BAR * bars.len() as u32);
    let file = folder.join("plot.svg");
    let area = SVGBackend::new(&file, size).into_drawing_area();
    draw_bars(&area, title, spec, &bars).with_context(|| format!("drawing {}", file.display()))?;
    let file = folder.join("plot.png");
    let area = BitMapBackend::new(&file, size).into_drawing_area();
    draw_bars(&area, title, spec, &bars).with_context(|| format!("drawing {}", file.display()))?;
    Ok(true)
}

fn draw_bars<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    title: &str,
    spec: &PlotSpec,
    bars: &[(&str, Label, f64)],
) -> Result<()>
where
    B::ErrorType: Send + Sync + 'static,
{
    area.fill(&WHITE)?;
    let longest = bars.iter().map(|bar| bar.2).fold(0.0, f64::max);
    let right = if longest > 0.0 { longest } else { 1.0 } * (1.0 + ROOM);
    let mut chart = ChartBuilder::on(area)
        .margin(15)
        .caption(title, ("sans-serif", 22))
        .x_label_area_size(50)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(0.0..right, 0.0..bars.len().max(1) as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc(&spec.axis)
        .label_style(("sans-serif", 15))
        .draw()?;
    for (n, (system, label, value)) in bars.iter().enumerate() {
        // The first one at the top.
        let bottom = (bars.len() - 1 - n) as f64;
        let colour = match label {
            Label::Measured(_) => MEASURED,
            Label::Published(_) => PUBLISHED,
        };
        let corners = [(0.0, bottom + 0.2), (*value, bottom + 0.8)];
        chart.draw_series([Rectangle::new(corners, colour.filled())])?;
        let (x, y) = chart.backend_coord(&(0.0, bottom + 0.5));
        let style = ("sans-serif", 15).into_text_style(area);
        let left = style.pos(Pos::new(HPos::Right, VPos::Center));
        area.draw_text(system, &left, (x - 8, y))?;
        let (x, y) = chart.backend_coord(&(*value, bottom + 0.5));
        let behind = ("sans-serif", 15).into_text_style(area);
        let behind = behind.pos(Pos::new(HPos::Left, VPos::Center));
        let text = format!("{value:.1}  {}", label.name());
        area.draw_text(&text, &behind, (x + 6, y))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_bench::experiments::Quantity;
    use postern_lab::source::Source;

    use super::*;

    #[test]
    fn a_plot_without_bars_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let spec = PlotSpec {
            quantity: Quantity::TotalInstructions,
            axis: "instructions".to_owned(),
        };
        let figures = Figures::new(Source::Emulated, &[], &[]);
        if draw("Nothing", &spec, &figures, folder.path()).unwrap() {
            let svg = fs::read_to_string(folder.path().join("plot.svg")).unwrap();
            assert!(svg.contains("Nothing"));
            assert!(folder.path().join("plot.png").exists());
        } else {
            println!("SKIP: {FONT} is missing; apt-get install fonts-dejavu-core");
        }
    }
}
