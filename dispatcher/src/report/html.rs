//! The report as one self-contained page: no script, font or image from outside. Names of LLMs,
//! programmers and labels are foreign texts: they are escaped, here and by `plotters`.

use std::fmt::Write as _;

use anyhow::anyhow;
use pool_api::format::{dollars, duration, tokens};
use pool_api::report::{Group, Percentiles, Report};

use super::plots::{self, DARK, DrawError, LIGHT, Paper};

const STYLE: &str = include_str!("page.css");
/// An LLM with fewer decided tasks than this is hard to judge.
const ENOUGH: u64 = 10;

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub(crate) fn page(report: &Report) -> anyhow::Result<String> {
    let mut page =
        String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.push_str("<meta name=\"color-scheme\" content=\"light dark\">\n");
    let _ = writeln!(
        page,
        "<title>Programmer Pool: report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>"
    );
    let by = escape(report.by_words());
    let _ = writeln!(
        page,
        "<h1>Tasks by {by}</h1>\n<p class=\"span\">Ended {}</p>",
        report.when()
    );
    page.push_str(&tiles(report));
    let figures = figures(report).map_err(|error| anyhow!("{error}"))?;
    let _ = writeln!(page, "<div class=\"figures\">\n{figures}</div>");
    page.push_str(&table(report));
    let _ = writeln!(
        page,
        "<p class=\"note\">{}</p>\n</main>\n</body>\n</html>",
        note(report)
    );
    Ok(page)
}

/// The most important numbers, in large.
fn tiles(report: &Report) -> String {
    let total = &report.total;
    let per_success = total.cost_per_succeeded_usd.map_or("–".to_owned(), dollars);
    let each = [
        ("tasks", total.tasks.to_string()),
        ("succeeded", rate(total.success_rate)),
        ("at the first try", rate(total.first_attempt_rate)),
        ("cost", dollars(total.cost_usd)),
        ("cost per success", per_success),
        ("failovers", total.failovers.to_string()),
    ];
    let tile =
        |(name, value): &(&str, String)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n");
    format!(
        "<dl class=\"tiles\">\n{}</dl>\n",
        each.iter().map(tile).collect::<String>()
    )
}

fn figures(report: &Report) -> Result<String, DrawError> {
    let decided: Vec<&Group> = report
        .groups
        .iter()
        .filter(|group| group.decided() > 0)
        .collect();
    if decided.is_empty() {
        return Ok(
            "<p>No task succeeded or failed in this period, so there is nothing to draw.</p>\n"
                .to_owned(),
        );
    }
    let worth = "Up is better, left is cheaper. A larger point stands for more tasks; the line through it is the 95 % confidence \
                 interval of the rate. Groups without a succeeded task are in the table only.";
    let caption = format!("{}{}", names(&decided), verdict(&decided, worth));
    let mut text = figure("Is it worth its money?", &caption, |p| {
        plots::worth(&decided, p)
    })?;
    let times = "From light to dark: the time within which 50 %, 90 % and 99 % of the tasks ended.";
    text.push_str(&figure("How long does it take?", times, |p| {
        plots::durations(&decided, p)
    })?);
    if !report.total.failures.is_empty() {
        let classes = "Tasks that did not succeed, by the kind of their error.";
        text.push_str(&figure("What went wrong?", classes, |p| {
            plots::failures(report, p)
        })?);
    }
    Ok(text)
}

/// The names of the numbered points.
fn names(groups: &[&Group]) -> String {
    let name = |(group, ..): &(&Group, f64, f64)| format!("<li>{}</li>", escape(&group.name));
    format!(
        "<ol>{}</ol>\n",
        plots::points(groups).iter().map(name).collect::<String>()
    )
}

/// The groups that no other group beats in both success rate and cost.
fn verdict(groups: &[&Group], caption: &str) -> String {
    let best = worth_it(groups);
    let few = groups
        .iter()
        .filter(|group| group.decided() < ENOUGH)
        .count();
    let names: Vec<String> = best
        .iter()
        .map(|group| format!("<strong>{}</strong>", escape(&group.name)))
        .collect();
    let few = match few {
        0 => String::new(),
        some => format!(
            " {some} of {} have fewer than {ENOUGH} tasks, too few to judge.",
            groups.len()
        ),
    };
    match names.as_slice() {
        [] => caption.to_owned(),
        [one] => {
            format!(
                "No other beats {one}: none succeeds more often or costs less per success.{few} {caption}"
            )
        }
        several => format!(
            "No other beats any of these in both success rate and cost: {}.{few} {caption}",
            several.join(", ")
        ),
    }
}

/// The groups that no other group dominates: success rate at least as high at a cost at most as
/// high, and one of both better.
pub(super) fn worth_it<'a>(groups: &[&'a Group]) -> Vec<&'a Group> {
    let value = |group: &Group| Some((group.success_rate?, group.cost_per_succeeded_usd?));
    let beats = |other: &Group, group: &Group| {
        let (Some((rate, cost)), Some((than_rate, than_cost))) = (value(other), value(group))
        else {
            return false;
        };
        rate >= than_rate && cost <= than_cost && (rate > than_rate || cost < than_cost)
    };
    let unbeaten =
        |group: &&&Group| value(group).is_some() && !groups.iter().any(|other| beats(other, group));
    groups.iter().filter(unbeaten).copied().collect()
}

/// Draws the plot four times; the page shows the variant that fits.
fn figure(
    title: &str,
    caption: &str,
    draw: impl Fn(Paper) -> Result<String, DrawError>,
) -> Result<String, DrawError> {
    let mut pictures = String::new();
    for (class, palette, narrow) in [
        ("light broad", LIGHT, false),
        ("dark broad", DARK, false),
        ("light narrow", LIGHT, true),
        ("dark narrow", DARK, true),
    ] {
        let picture = draw(Paper { palette, narrow })?;
        let _ = writeln!(
            pictures,
            "<div class=\"{class}\" role=\"img\" aria-label=\"{title}\">{picture}</div>"
        );
    }
    Ok(format!(
        "<figure>\n<h2>{title}</h2>\n{pictures}<figcaption>{caption}</figcaption>\n</figure>\n"
    ))
}

fn table(report: &Report) -> String {
    let heads = [
        report.by_words(),
        "tasks",
        "success",
        "cost",
        "cost per success",
        "failovers",
        "succeeded",
        "first try",
        "run p50",
        "p90",
        "p99",
        "queued p50",
        "p90",
        "p99",
        "calls",
        "failed calls",
        "tokens in",
        "tokens out",
    ];
    let heads: String = heads
        .iter()
        .map(|head| format!("<th scope=\"col\">{}</th>", escape(head)))
        .collect();
    let rows: String = report.groups.iter().map(|group| row(group, "")).collect();
    let total = row(&report.total, " class=\"total\"");
    format!(
        "<h2>All numbers</h2>\n<div class=\"wide\" tabindex=\"0\"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}{total}</tbody>\n</table></div>\n"
    )
}

fn row(group: &Group, class: &str) -> String {
    let time = |of: Option<Percentiles>, which: fn(Percentiles) -> u64| {
        of.map_or("–".to_owned(), |p| duration(which(p)))
    };
    let cells = [
        group.tasks.to_string(),
        rate(group.success_rate),
        dollars(group.cost_usd),
        group.cost_per_succeeded_usd.map_or("–".to_owned(), dollars),
        group.failovers.to_string(),
        group.succeeded.to_string(),
        rate(group.first_attempt_rate),
        time(group.duration_ms, |p| p.p50),
        time(group.duration_ms, |p| p.p90),
        time(group.duration_ms, |p| p.p99),
        time(group.queued_ms, |p| p.p50),
        time(group.queued_ms, |p| p.p90),
        time(group.queued_ms, |p| p.p99),
        group.calls.to_string(),
        group.failed_calls.to_string(),
        tokens(group.input_tokens),
        tokens(group.output_tokens),
    ];
    let cells: String = cells
        .iter()
        .map(|cell| format!("<td>{cell}</td>"))
        .collect();
    format!(
        "<tr{class}><th scope=\"row\">{}</th>{cells}</tr>\n",
        escape(&group.name)
    )
}

fn note(report: &Report) -> String {
    let unknown = match report.without_details {
        0 => String::new(),
        some => format!(
            " The details of {some} tasks are no longer in the log; times and tokens leave them out."
        ),
    };
    let left_out = report
        .not_in_rates()
        .map_or(String::new(), |some| format!(" ({some})"));
    format!(
        "The success rates count tasks that succeeded or failed; rejected, cancelled and expired tasks count only as tasks{left_out}. \
         The cost is that of deciding attempts; the budget also has the cost of other attempts and of probes.{unknown}"
    )
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or("–".to_owned(), |rate| format!("{:.0} %", rate * 100.0))
}

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
