//! The plots of the report, as SVG by `plotters`. Each is drawn for a light and for a dark page.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Group, Report};

/// More rows than these are not readable; the table has all.
const MOST_ROWS: usize = 14;
const WIDTH: u32 = 760;

/// Colours for one kind of page.
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
    marks: [RGBColor(120, 170, 225), RGBColor(40, 110, 190), RGBColor(15, 60, 120)],
    bad: RGBColor(190, 70, 50),
};
pub(super) const DARK: Palette = Palette {
    text: RGBColor(225, 229, 235),
    line: RGBColor(62, 70, 82),
    marks: [RGBColor(70, 110, 165), RGBColor(110, 165, 235), RGBColor(190, 220, 255)],
    bad: RGBColor(240, 130, 105),
};

/// Why a plot could not be drawn.
pub(super) type Failed = Box<dyn std::error::Error + Send + Sync>;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn svg(height: u32, draw: impl FnOnce(&Area<'_>) -> Result<(), Failed>) -> Result<String, Failed> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(|error| error.to_string())?;
    }
    Ok(text)
}

fn words(size: u32, palette: Palette) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&palette.text)
}

/// Success against money: up is better, left is cheaper. The whiskers are where the rate of more such tasks would be, with a
/// confidence of 95 % (Wilson).
pub(super) fn worth(groups: &[&Group], palette: Palette) -> Result<String, Failed> {
    let points: Vec<(&Group, f64, f64)> = groups
        .iter()
        .filter_map(|group| Some((*group, dollars(group)?, group.success_rate? * 100.0)))
        .take(MOST_ROWS)
        .collect();
    let dearest = points.iter().map(|(_, cost, _)| *cost).fold(0.0, f64::max);
    let right = if dearest > 0.0 { dearest * 1.1 } else { 1.0 };
    svg(380, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(58)
            .build_cartesian_2d(-right * 0.03..right, -4f64..104f64)?;
        let mut mesh = chart.configure_mesh();
        mesh.axis_style(palette.line).bold_line_style(palette.line).light_line_style(TRANSPARENT);
        mesh.label_style(words(13, palette)).axis_desc_style(words(14, palette)).y_labels(6).x_labels(7);
        mesh.x_label_formatter(&|cost| money(*cost)).y_label_formatter(&|rate| format!("{rate:.0} %"));
        mesh.x_desc("cost for each succeeded task").y_desc("succeeded").draw()?;
        for (group, cost, rate) in &points {
            let (low, high) = wilson(group.succeeded, group.decided());
            let whisker =
                PathElement::new([(*cost, low * 100.0), (*cost, high * 100.0)], palette.marks[0].stroke_width(2));
            chart.draw_series([whisker])?;
            let mark = Circle::new((*cost, *rate), radius(group.tasks), palette.marks[1].mix(0.85).filled());
            chart.draw_series([mark])?;
        }
        name_points(&chart, &points, palette)
    })
}

/// Names beside the points, on the side where there is room, moved down where they would cover each other.
fn name_points(chart: &Plane<'_, '_>, points: &[(&Group, f64, f64)], palette: Palette) -> Result<(), Failed> {
    const LINE: i32 = 17;
    const LETTER: i32 = 7;
    let area = chart.plotting_area().strip_coord_spec();
    let (left, top) = area.get_base_pixel();
    let half = i32::try_from(area.dim_in_pixel().0).unwrap_or(i32::MAX) / 2;
    let mut places: Vec<(i32, i32, &Group)> = points
        .iter()
        .map(|(group, cost, rate)| {
            let (x, y) = chart.backend_coord(&(*cost, *rate));
            (x - left, y - top, *group)
        })
        .collect();
    places.sort_by_key(|(x, y, _)| (*y, *x));
    let mut taken: Vec<(i32, i32, i32)> = Vec::new();
    for (x, point, group) in places {
        let name = short(&group.name);
        let long = LETTER * i32::try_from(name.chars().count()).unwrap_or(i32::MAX);
        let gap = radius(group.tasks) + 6;
        let (from, to, side, at) = match x < half {
            true => (x, x + gap + long, HPos::Left, x + gap),
            false => (x - gap - long, x, HPos::Right, x - gap),
        };
        let mut y = point;
        // A name is moved below each that it would cover; those are sorted by their height.
        for (other_from, other_to, other_y) in &taken {
            if from < *other_to && to > *other_from && (y - other_y).abs() < LINE {
                y = other_y + LINE;
            }
        }
        taken.push((from, to, y));
        taken.sort_by_key(|(.., y)| *y);
        let style = words(14, palette).pos(Pos::new(side, VPos::Center));
        area.draw(&Text::new(name, (at, y), style))?;
    }
    Ok(())
}

/// Half, nine of ten and 99 of 100 tasks took no longer than this.
pub(super) fn durations(groups: &[&Group], palette: Palette) -> Result<String, Failed> {
    let rows: Vec<(&str, [f64; 3])> = groups
        .iter()
        .filter_map(|group| Some((group.name.as_str(), group.duration_ms.map(|p| [p.p50, p.p90, p.p99].map(seconds))?)))
        .take(MOST_ROWS)
        .collect();
    let longest = rows.iter().map(|(_, [.., p99])| *p99).fold(0.0, f64::max).max(0.001);
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    let axis = ("seconds of the deciding attempt: p50, p90, p99", longest * 1.1);
    lanes(&names, axis, palette, |chart| {
        for (row, (_, times)) in rows.iter().enumerate() {
            let y = middle(row);
            let span = PathElement::new([(times[0], y), (times[2], y)], palette.line.stroke_width(6));
            chart.draw_series([span])?;
            for (time, colour) in times.iter().zip(palette.marks) {
                chart.draw_series([Circle::new((*time, y), 7, colour.filled())])?;
            }
        }
        Ok(())
    })
}

/// Tasks that did not succeed, by class.
pub(super) fn failures(report: &Report, palette: Palette) -> Result<String, Failed> {
    let mut rows: Vec<(&str, u64)> =
        report.total.failures.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    rows.truncate(MOST_ROWS);
    let most = rows.iter().map(|(_, count)| number(*count)).fold(1.0, f64::max);
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    lanes(&names, ("tasks", most * 1.1), palette, |chart| {
        for (row, (_, count)) in rows.iter().enumerate() {
            let (top, bottom) = (middle(row) - 0.3, middle(row) + 0.3);
            let bar = Rectangle::new([(0.0, top), (number(*count), bottom)], palette.bad.mix(0.85).filled());
            chart.draw_series([bar])?;
        }
        Ok(())
    })
}

/// A row for each name, and a scale from 0 on below them.
fn lanes(
    names: &[&str],
    (axis, end): (&str, f64),
    palette: Palette,
    draw: impl FnOnce(&mut Plane<'_, '_>) -> Result<(), Failed>,
) -> Result<String, Failed> {
    const NAMES: u32 = 250;
    let count = u32::try_from(names.len().max(1)).unwrap_or(1);
    svg(34 * count + 66, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_left(NAMES)
            .x_label_area_size(44)
            .build_cartesian_2d(0f64..end, f64::from(count)..0f64)?;
        let mut mesh = chart.configure_mesh();
        mesh.axis_style(palette.line).bold_line_style(palette.line).light_line_style(TRANSPARENT).disable_y_mesh();
        mesh.label_style(words(13, palette)).axis_desc_style(words(14, palette)).x_labels(7).x_desc(axis);
        mesh.x_label_formatter(&|value| plain(*value)).draw()?;
        draw(&mut chart)?;
        for (row, name) in names.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(0.0, middle(row)));
            let style = words(14, palette).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(short(name), (x - 10, y), style))?;
        }
        Ok(())
    })
}

fn middle(row: usize) -> f64 {
    f64::from(u32::try_from(row).unwrap_or(u32::MAX)) + 0.5
}

/// What fits beside a plot.
fn short(name: &str) -> String {
    const FITS: usize = 34;
    match name.char_indices().nth(FITS) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None => name.to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a plot needs no more than 52 bits")]
fn number(value: u64) -> f64 {
    value as f64
}

fn seconds(ms: u64) -> f64 {
    number(ms) / 1000.0
}

/// For the place in a plot only: money is counted in whole micro-dollars.
fn dollars(group: &Group) -> Option<f64> {
    group.cost_per_succeeded_usd.map(|cost| number(cost.0) / 1_000_000.0)
}

fn money(dollars: f64) -> String {
    if dollars.abs() < 1e-9 { "$0".to_owned() } else { format!("${}", plain(dollars)) }
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

/// An area for each task, up to a size.
fn radius(tasks: u64) -> i32 {
    const SIZES: [(u64, i32); 4] = [(10, 5), (50, 7), (200, 10), (1000, 13)];
    SIZES.iter().find(|(up_to, _)| tasks <= *up_to).map_or(16, |(_, radius)| *radius)
}

/// Wilson's interval of a rate, with a confidence of 95 %.
pub(super) fn wilson(part: u64, whole: u64) -> (f64, f64) {
    const Z: f64 = 1.96;
    let n = number(whole.max(1));
    let rate = number(part) / n;
    let middle = rate + Z * Z / (2.0 * n);
    let spread = Z * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((middle - spread) / scale).max(0.0), ((middle + spread) / scale).min(1.0))
}
