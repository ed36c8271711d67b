//! The plot of a group of measures as SVG: for each case a bar up to the median of each measure, and
//! a line from the least to the most value.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::format::{number, scale_end};
use super::record::{Record, Series};
use super::row::Measure;
use super::statistics::Spread;

const WIDTH: u32 = 760;
/// Names stand above their bars.
const NAME: u32 = 24;
const BAR: u32 = 18;
const GAP: u32 = 12;
const HEAD: u32 = 30;
const SCALE: u32 = 46;
const MARGIN: i32 = 14;
/// The value beside the longest bar needs this part of the scale.
const BESIDE: f64 = 1.12;
const TEXT: RGBColor = RGBColor(32, 38, 46);
const LINE: RGBColor = RGBColor(205, 210, 217);
const WHISKER: RGBColor = RGBColor(90, 96, 104);
const BARS: [RGBColor; 4] = [
    RGBColor(40, 110, 190),
    RGBColor(225, 145, 60),
    RGBColor(80, 150, 110),
    RGBColor(150, 100, 170),
];

type DrawError = Box<dyn std::error::Error + Send + Sync>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws a group. The background is white, so that the picture can be read on every page.
///
/// # Errors
/// When the record has no such group.
pub fn draw(record: &Record, group: &str) -> anyhow::Result<String> {
    let plot = Plot::of(record, group);
    anyhow::ensure!(
        !plot.lanes.is_empty(),
        "there is no group {group:?} in the result; it has {:?}",
        record.groups()
    );
    let mut text = String::new();
    {
        let size = (WIDTH, HEAD + SCALE + plot.height());
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        plot.draw(&area).map_err(|error| anyhow::anyhow!(error))?;
        area.present()?;
    }
    Ok(text)
}

struct Plot<'a> {
    title: String,
    measures: Vec<&'a Measure>,
    lanes: Vec<Lane<'a>>,
}

/// A case with its bars, from the top in pixels.
struct Lane<'a> {
    name: String,
    top: u32,
    bars: Vec<Bar<'a>>,
}

struct Bar<'a> {
    series: &'a Series,
    colour: RGBColor,
}

impl<'a> Plot<'a> {
    fn of(record: &'a Record, group: &str) -> Self {
        let measures = record.measures(group);
        let unit = measures.first().map_or("", |measure| &*measure.unit);
        let mut lanes: Vec<Lane<'a>> = Vec::new();
        for case in record.cases() {
            let coloured = measures.iter().zip(BARS.into_iter().cycle());
            let bars = coloured.filter_map(|(measure, colour)| {
                let series = record.find(case, measure)?;
                Some(Bar { series, colour })
            });
            let bars: Vec<Bar<'_>> = bars.collect();
            if !bars.is_empty() {
                let top = lanes.last().map_or(0, Lane::bottom);
                let name = case.title();
                lanes.push(Lane { name, top, bars });
            }
        }
        Self {
            title: format!("{group}, {unit}"),
            measures,
            lanes,
        }
    }

    fn height(&self) -> u32 {
        self.lanes.last().map_or(0, Lane::bottom)
    }

    fn end(&self) -> f64 {
        let bars = self.lanes.iter().flat_map(|lane| &lane.bars);
        let most = bars.filter_map(|bar| Spread::of(&bar.series.rounds));
        scale_end(most.map(|spread| spread.most).fold(0.0, f64::max))
    }

    fn draw(&self, area: &Area<'_>) -> Result<(), DrawError> {
        area.fill(&WHITE)?;
        self.draw_head(area)?;
        let mut chart = ChartBuilder::on(area)
            .margin_left(MARGIN)
            .margin_right(MARGIN)
            .margin_top(HEAD)
            .x_label_area_size(SCALE)
            .build_cartesian_2d(0f64..self.end() * BESIDE, f64::from(self.height())..0f64)?;
        let mut mesh = chart.configure_mesh();
        mesh.axis_style(LINE)
            .bold_line_style(LINE)
            .light_line_style(TRANSPARENT)
            .disable_y_mesh();
        mesh.label_style(words(13))
            .axis_desc_style(words(14))
            .x_labels(6)
            .x_desc(&self.title);
        mesh.x_label_formatter(&|value| number(*value)).draw()?;
        for lane in &self.lanes {
            lane.draw(&mut chart, area)?;
        }
        Ok(())
    }

    /// The colour of each measure.
    fn draw_head(&self, area: &Area<'_>) -> Result<(), DrawError> {
        if self.measures.len() < 2 {
            return Ok(());
        }
        let mut left = MARGIN;
        for (measure, colour) in self.measures.iter().zip(BARS.into_iter().cycle()) {
            let square = [(left, 9), (left + 12, 21)];
            area.draw(&Rectangle::new(square, colour.filled()))?;
            let name = measure.name.to_string();
            let step = i32::try_from(name.chars().count() * 8 + 40)?;
            area.draw(&Text::new(name, (left + 18, 15), beside(14)))?;
            left += step;
        }
        Ok(())
    }
}

impl Lane<'_> {
    fn bottom(&self) -> u32 {
        let bars = u32::try_from(self.bars.len()).unwrap_or(u32::MAX);
        self.top + NAME + BAR * bars + GAP
    }

    fn draw(&self, chart: &mut Chart<'_, '_>, area: &Area<'_>) -> Result<(), DrawError> {
        let (left, y) = chart.backend_coord(&(0.0, f64::from(self.top + NAME / 2)));
        area.draw(&Text::new(self.name.clone(), (left + 2, y), beside(14)))?;
        let mut top = f64::from(self.top + NAME);
        for bar in &self.bars {
            let bottom = top + f64::from(BAR);
            bar.draw(chart, area, (top, bottom))?;
            top = bottom;
        }
        Ok(())
    }
}

impl Bar<'_> {
    fn draw(
        &self,
        chart: &mut Chart<'_, '_>,
        area: &Area<'_>,
        (top, bottom): (f64, f64),
    ) -> Result<(), DrawError> {
        let value = self.series.median;
        let corners = [(0.0, top + 2.0), (value, bottom - 2.0)];
        chart.draw_series([Rectangle::new(corners, self.colour.filled())])?;
        let middle = f64::midpoint(top, bottom);
        let mut right = value;
        if let Some(Spread { least, most }) = Spread::of(&self.series.rounds) {
            let line = [(least, middle), (most, middle)];
            chart.draw_series([PathElement::new(line, WHISKER.stroke_width(2))])?;
            right = right.max(most);
        }
        let (x, y) = chart.backend_coord(&(right, middle));
        area.draw(&Text::new(number(value), (x + 6, y), beside(13)))?;
        Ok(())
    }
}

fn words(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&TEXT)
}

fn beside(size: u32) -> TextStyle<'static> {
    words(size).pos(Pos::new(HPos::Left, VPos::Center))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::record;

    #[test]
    fn a_plot_names_every_case_measure_and_value() {
        let record = record();
        let rate = draw(&record, "throughput").expect("a plot");
        for text in [
            "bare loop",
            "pool, warm",
            "3,000",
            "1,400",
            "throughput, tasks/s",
        ] {
            assert!(rate.contains(text), "{text} is in the plot: {rate}");
        }
        let latency = draw(&record, "latency").expect("a plot");
        for text in ["p50", "p99", "5.30", "7.70"] {
            assert!(latency.contains(text), "{text} is in the plot: {latency}");
        }
        assert!(
            !latency.contains("bare loop"),
            "a case without a value has no lane: {latency}"
        );
    }

    #[test]
    fn a_group_that_was_not_measured_is_named() {
        let refused = draw(&record(), "memory").expect_err("no such group");
        assert!(
            refused.to_string().contains("\"memory\"") && refused.to_string().contains("latency"),
            "the group and the ones that exist: {refused}"
        );
    }
}
