//! The plots of the report, as SVG drawn by `plotters`. Each plot is drawn for a light and a dark
//! page, broad and narrow: text that is scaled down with a picture is unreadable on a phone.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use pool_api::report::{Group, Report};

/// More rows than this are unreadable; the table has all of them.
const MOST_ROWS: usize = 14;
/// Half of the last number of a scale extends beyond its end.
const EDGE: u32 = 34;

/// The colours for one kind of page.
#[derive(Clone, Copy)]
pub(super) struct Palette {
    text: RGBColor,
    line: RGBColor,
    /// From the mildest to the strongest.
    marks: [RGBColor; 3],
    bad: RGBColor,
}

pub(super) const LIGHT: Palette = Palette {
    text: RGBColor(32, 38, 46),
    line: RGBColor(205, 210, 217),
    marks: [
        RGBColor(120, 170, 225),
        RGBColor(40, 110, 190),
        RGBColor(15, 60, 120),
    ],
    bad: RGBColor(190, 70, 50),
};
pub(super) const DARK: Palette = Palette {
    text: RGBColor(225, 229, 235),
    line: RGBColor(62, 70, 82),
    marks: [
        RGBColor(70, 110, 165),
        RGBColor(110, 165, 235),
        RGBColor(190, 220, 255),
    ],
    bad: RGBColor(240, 130, 105),
};

/// The drawing area.
#[derive(Clone, Copy)]
pub(super) struct Paper {
    pub(super) palette: Palette,
    pub(super) narrow: bool,
}

impl Paper {
    fn width(self) -> u32 {
        if self.narrow { 340 } else { 760 }
    }

    /// How many numbers fit below the plot.
    fn marks(self) -> usize {
        if self.narrow { 4 } else { 7 }
    }

    /// The height of a row; names above the row need space.
    fn lane(self) -> u32 {
        if self.narrow { 50 } else { 34 }
    }

    /// The middle of a row's marks.
    fn middle(self, row: usize) -> f64 {
        let within = if self.narrow { 0.65 } else { 0.5 };
        f64::from(u32::try_from(row).unwrap_or(u32::MAX)) + within
    }

    fn words(self, size: u32) -> TextStyle<'static> {
        ("sans-serif", size).into_font().color(&self.palette.text)
    }
}

/// Why a plot could not be drawn.
pub(super) type DrawError = Box<dyn std::error::Error + Send + Sync>;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn svg(
    width: u32,
    height: u32,
    draw: impl FnOnce(&Area<'_>) -> Result<(), DrawError>,
) -> Result<String, DrawError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(|error| error.to_string())?;
    }
    Ok(text)
}

/// The points of [`worth`] with cost in dollars and rate, in the order of their numbers from 1.
pub(super) fn points<'a>(groups: &[&'a Group]) -> Vec<(&'a Group, f64, f64)> {
    let point = |group: &&'a Group| Some((*group, dollars(group)?, group.success_rate? * 100.0));
    groups.iter().filter_map(point).take(MOST_ROWS).collect()
}

/// Success rate against cost: up is better, left is cheaper. The whiskers are the 95 % confidence
/// interval of the rate (Wilson).
pub(super) fn worth(groups: &[&Group], paper: Paper) -> Result<String, DrawError> {
    let points = points(groups);
    let dearest = points.iter().map(|(_, cost, _)| *cost).fold(0.0, f64::max);
    let right = if dearest > 0.0 { dearest * 1.1 } else { 1.0 };
    svg(paper.width(), 380, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(EDGE)
            .x_label_area_size(46)
            .y_label_area_size(58)
            .build_cartesian_2d(-right * 0.03..right, -4f64..104f64)?;
        let mut mesh = chart.configure_mesh();
        mesh.axis_style(paper.palette.line)
            .bold_line_style(paper.palette.line)
            .light_line_style(TRANSPARENT);
        mesh.label_style(paper.words(13))
            .axis_desc_style(paper.words(14))
            .y_labels(6)
            .x_labels(paper.marks());
        let cost = |cost: &f64| money(*cost, right);
        mesh.x_label_formatter(&cost)
            .y_label_formatter(&|rate| format!("{rate:.0} %"));
        mesh.x_desc("cost per succeeded task")
            .y_desc("succeeded")
            .draw()?;
        for (group, cost, rate) in &points {
            let (low, high) = wilson(group.succeeded, group.decided());
            let whisker = PathElement::new(
                [(*cost, low * 100.0), (*cost, high * 100.0)],
                paper.palette.marks[0].stroke_width(2),
            );
            chart.draw_series([whisker])?;
            let mark = Circle::new(
                (*cost, *rate),
                radius(group.tasks),
                paper.palette.marks[1].mix(0.85).filled(),
            );
            chart.draw_series([mark])?;
        }
        number_points(&chart, &points, paper)
    })
}

/// The numbers of the points at one place.
struct PointLabel {
    x: i32,
    y: i32,
    /// Where the numbers begin, to the right of the dot.
    beside: i32,
    numbers: String,
}

impl PointLabel {
    fn add(&mut self, number: i32, beside: i32) {
        self.numbers = format!("{}, {number}", self.numbers);
        self.beside = self.beside.max(beside);
    }

    fn width(&self) -> i32 {
        const CHARACTER: i32 = 8;
        i32::try_from(self.numbers.len())
            .unwrap_or(i32::MAX / CHARACTER)
            .saturating_mul(CHARACTER)
            .max(20)
    }
}

/// Puts numbers beside the points, moved down where they would overlap. Names would cross the lines
/// of other points.
fn number_points(
    chart: &Plane<'_, '_>,
    points: &[(&Group, f64, f64)],
    paper: Paper,
) -> Result<(), DrawError> {
    const LINE: i32 = 17;
    /// Dots this close to each other look like one.
    const SAME: i32 = 3;
    let area = chart.plotting_area().strip_coord_spec();
    let (left, top) = area.get_base_pixel();
    let mut places: Vec<PointLabel> = Vec::new();
    for (number, (group, cost, rate)) in (1..).zip(points) {
        let (x, y) = chart.backend_coord(&(*cost, *rate));
        let (x, y, beside) = (x - left, y - top, x - left + radius(group.tasks) + 5);
        // Points at the same place share a label, so that one dot shows all their numbers.
        match places
            .iter_mut()
            .find(|label| (label.x - x).abs() <= SAME && (label.y - y).abs() <= SAME)
        {
            Some(label) => label.add(number, beside),
            None => places.push(PointLabel {
                x,
                y,
                beside,
                numbers: format!("{number}"),
            }),
        }
    }
    places.sort_unstable_by_key(|label| (label.y, label.beside));
    let mut taken: Vec<(i32, i32, i32)> = Vec::new();
    for label in places {
        let (x, wide) = (label.beside, label.width());
        // Labels are placed from the top, so each is moved below all earlier ones that it would
        // cover.
        let covered = |y: i32| {
            let beside =
                move |&&(other, _, width): &&(i32, i32, i32)| x - other < width && other - x < wide;
            taken
                .iter()
                .filter(beside)
                .filter(move |(_, at, _)| (y - at).abs() < LINE)
        };
        let mut y = label.y;
        while let Some(below) = covered(y).map(|(_, at, _)| at + LINE).max() {
            y = below;
        }
        taken.push((x, y, wide));
        let style = paper.words(14).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(label.numbers, (x, y), style))?;
    }
    Ok(())
}

/// The time within which 50 %, 90 % and 99 % of the tasks ended.
pub(super) fn durations(groups: &[&Group], paper: Paper) -> Result<String, DrawError> {
    let rows: Vec<(&str, [f64; 3])> = groups
        .iter()
        .filter_map(|group| {
            Some((
                group.name.as_str(),
                group
                    .duration_ms
                    .map(|p| [p.p50, p.p90, p.p99].map(seconds))?,
            ))
        })
        .take(MOST_ROWS)
        .collect();
    let longest = rows
        .iter()
        .map(|(_, [.., p99])| *p99)
        .fold(0.0, f64::max)
        .max(0.001);
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    let axis = Axis {
        name: "seconds of the run: p50, p90, p99",
        end: longest * 1.1,
    };
    lanes(&names, axis, paper, |chart| {
        for (row, (_, times)) in rows.iter().enumerate() {
            let y = paper.middle(row);
            let span = PathElement::new(
                [(times[0], y), (times[2], y)],
                paper.palette.line.stroke_width(6),
            );
            chart.draw_series([span])?;
            for (time, colour) in times.iter().zip(paper.palette.marks) {
                chart.draw_series([Circle::new((*time, y), 7, colour.filled())])?;
            }
        }
        Ok(())
    })
}

/// Tasks that did not succeed, by the kind of their error.
pub(super) fn failures(report: &Report, paper: Paper) -> Result<String, DrawError> {
    let mut rows: Vec<(&str, u64)> = report
        .total
        .failures
        .iter()
        .map(|(kind, count)| (kind.as_str(), *count))
        .collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    rows.truncate(MOST_ROWS);
    let most = rows
        .iter()
        .map(|(_, count)| number(*count))
        .fold(1.0, f64::max);
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    let axis = Axis {
        name: "tasks",
        end: most * 1.1,
    };
    lanes(&names, axis, paper, |chart| {
        for (row, (_, count)) in rows.iter().enumerate() {
            let (top, bottom) = (paper.middle(row) - 0.25, paper.middle(row) + 0.25);
            let bar = Rectangle::new(
                [(0.0, top), (number(*count), bottom)],
                paper.palette.bad.mix(0.85).filled(),
            );
            chart.draw_series([bar])?;
        }
        Ok(())
    })
}

/// A scale that begins at 0.
struct Axis {
    name: &'static str,
    end: f64,
}

/// A row for each name, above a scale that begins at 0.
fn lanes(
    names: &[&str],
    axis: Axis,
    paper: Paper,
    draw: impl FnOnce(&mut Plane<'_, '_>) -> Result<(), DrawError>,
) -> Result<String, DrawError> {
    const NAMES: u32 = 250;
    const LEFT: i32 = 12;
    const ABOVE: i32 = 22;
    let count = u32::try_from(names.len().max(1)).unwrap_or(1);
    svg(paper.width(), paper.lane() * count + 66, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_left(if paper.narrow { 12 } else { NAMES })
            .margin_right(EDGE)
            .x_label_area_size(44)
            .build_cartesian_2d(0f64..axis.end, f64::from(count)..0f64)?;
        let mut mesh = chart.configure_mesh();
        mesh.axis_style(paper.palette.line)
            .bold_line_style(paper.palette.line)
            .light_line_style(TRANSPARENT)
            .disable_y_mesh();
        mesh.label_style(paper.words(13))
            .axis_desc_style(paper.words(14))
            .x_labels(paper.marks())
            .x_desc(axis.name);
        mesh.x_label_formatter(&|value| plain(*value)).draw()?;
        draw(&mut chart)?;
        for (row, name) in names.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(0.0, paper.middle(row)));
            let (side, at) = match paper.narrow {
                true => (HPos::Left, (LEFT, y - ABOVE)),
                false => (HPos::Right, (x - 10, y)),
            };
            area.draw(&Text::new(
                short(name),
                at,
                paper.words(14).pos(Pos::new(side, VPos::Center)),
            ))?;
        }
        Ok(())
    })
}

/// Shortens a name to fit beside a plot.
fn short(name: &str) -> String {
    const FITS: usize = 34;
    match name.char_indices().nth(FITS) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None => name.to_owned(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a plot needs no more than 52 bits"
)]
fn number(value: u64) -> f64 {
    value as f64
}

fn seconds(ms: u64) -> f64 {
    number(ms) / 1000.0
}

/// Only for the position in a plot: money is counted in whole micro-dollars.
fn dollars(group: &Group) -> Option<f64> {
    group
        .cost_per_succeeded_usd
        .map(|cost| number(cost.0) / 1_000_000.0)
}

/// A number on a scale with this end: all numbers of a scale have the same decimals.
fn money(dollars: f64, end: f64) -> String {
    let places = match end {
        10.0.. => 0,
        1.0..10.0 => 2,
        0.1..1.0 => 3,
        0.01..0.1 => 4,
        _ => 6,
    };
    if dollars.abs() < 1e-9 {
        "$0".to_owned()
    } else {
        format!("${dollars:.places$}")
    }
}

/// Few digits, and no zeros at the end.
fn plain(value: f64) -> String {
    let places = if value.abs() >= 10.0 {
        0
    } else if value.abs() >= 1.0 {
        1
    } else {
        4
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// An area proportional to the number of tasks, up to a limit.
fn radius(tasks: u64) -> i32 {
    const SIZES: [(u64, i32); 4] = [(10, 5), (50, 7), (200, 10), (1000, 13)];
    SIZES
        .iter()
        .find(|(up_to, _)| tasks <= *up_to)
        .map_or(16, |(_, radius)| *radius)
}

/// Wilson's interval of a rate, with a confidence of 95 %.
pub(super) fn wilson(part: u64, whole: u64) -> (f64, f64) {
    const Z: f64 = 1.96;
    let n = number(whole.max(1));
    let rate = number(part) / n;
    let middle = rate + Z * Z / (2.0 * n);
    let spread = Z * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (
        ((middle - spread) / scale).max(0.0),
        ((middle + spread) / scale).min(1.0),
    )
}
