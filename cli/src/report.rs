//! `pool report`: results and costs of the tasks of a period.

use std::process::ExitCode;

use pool_api::format::{counted, dollars, duration, tokens};
use pool_api::report::{By, Group, Percentiles, Report, Since};
use serde_json::Value;

use crate::client::{Client, PoolUrl, with_query};
use crate::output::print;
use crate::table::{lines, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    pool report --since 24h --by programmer\n  \
    pool report --format html >report.html\n  \
    pool report --since all --by label:run_id --format csv")]
pub(super) struct ReportArgs {
    /// Tasks that ended since then: 7d, 24h, 90m, a time (2026-01-31T00:00:00Z), or all
    #[arg(long, default_value = "7d", value_parser = is_since)]
    since: String,
    /// Group by llm, programmer, route, or `label:<key>`, for example `label:run_id`
    #[arg(long, default_value_t)]
    by: By,
    /// Output format; html is a page with plots
    #[arg(
        short = 'o',
        long,
        visible_alias = "output",
        value_enum,
        default_value_t
    )]
    format: ReportFormat,
    #[command(flatten)]
    url: PoolUrl,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum ReportFormat {
    #[default]
    Table,
    Json,
    Csv,
    Html,
}

/// Only checks the value: it is sent as written, because the dispatcher's clock decides.
fn is_since(text: &str) -> Result<String, String> {
    text.parse::<Since>()
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

pub(super) async fn run(args: ReportArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.url)?;
    let by = args.by.to_string();
    let path = with_query(
        "/report",
        &[("since", Some(&args.since)), ("by", Some(&by))],
    )?;
    Ok(print(&match args.format {
        ReportFormat::Table => text(&client.get(&path).await?),
        ReportFormat::Json => format!("{:#}\n", client.get::<Value>(&path).await?),
        ReportFormat::Csv => client.text(&format!("{path}&format=csv")).await?,
        ReportFormat::Html => client.text(&format!("{path}&format=html")).await?,
    }))
}

fn text(report: &Report) -> String {
    let groups = || report.groups.iter().chain([&report.total]);
    let by = report.by_words();
    // Two-line headings keep the columns narrow.
    let mut numbers = table(&[
        by,
        "tasks",
        "success",
        "at\nfirst",
        "failovers",
        "tokens\nin",
        "tokens\nout",
        "cost",
        "per\nsuccess",
    ]);
    groups().for_each(|group| numbers.add_row(row(group)));
    let mut spans = table(&[by, "run p50", "p90", "p99", "queued p50", "p90", "p99"]);
    for group in groups() {
        let name = [group.name.clone()].into_iter();
        spans.add_row(
            name.chain(times(group.duration_ms))
                .chain(times(group.queued_ms)),
        );
    }
    let mut failures = table(&["error", "tasks"]);
    for (kind, count) in &report.total.failures {
        failures.add_row([kind.as_str().to_owned(), count.to_string()]);
    }
    numbers.align_right(&[1, 2, 3, 4, 5, 6, 7, 8]);
    // The columns to drop on a narrow terminal.
    numbers.spare(&[5, 6, 4]);
    spans.spare(&[5, 2]);
    spans.align_right(&[1, 2, 3, 4, 5, 6]);
    failures.align_right(&[1]);
    let failures = if report.total.failures.is_empty() {
        String::new()
    } else {
        lines(failures)
    };
    format!(
        "{}{}{failures}{}",
        lines(numbers),
        lines(spans),
        footer(report)
    )
}

fn footer(report: &Report) -> String {
    let unknown = match report.without_details {
        0 => String::new(),
        some => format!("; the details of {some} are no longer in the log"),
    };
    let tasks = counted(report.total.tasks, "task", "tasks");
    let left_out = report.not_in_rates().map_or(String::new(), |some| {
        format!("\nthe success rate counts tasks that succeeded or failed; it leaves out {some}")
    });
    format!("{tasks} ended {}{unknown}{left_out}\n", report.when())
}

fn row(group: &Group) -> [String; 9] {
    let rate =
        |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{:.0} %", rate * 100.0));
    [
        group.name.clone(),
        group.tasks.to_string(),
        rate(group.success_rate),
        rate(group.first_attempt_rate),
        group.failovers.to_string(),
        tokens(group.input_tokens),
        tokens(group.output_tokens),
        dollars(group.cost_usd),
        group.cost_per_succeeded_usd.map_or("-".to_owned(), dollars),
    ]
}

fn times(of: Option<Percentiles>) -> [String; 3] {
    of.map_or(["-", "-", "-"].map(str::to_owned), |p| {
        [p.p50, p.p90, p.p99].map(duration)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_one_line_that_fits_most_terminals() {
        let of = Some(Percentiles {
            p50: 34_000,
            p90: 160_000,
            p99: 7_500_000,
        });
        let group = Group {
            name: "anthropic/claude-sonnet-4-20250514".to_owned(),
            tasks: 1234,
            success_rate: Some(0.914),
            duration_ms: of,
            input_tokens: 12_345_678,
            output_tokens: 1_234_567,
            cost_usd: pool_core::money::MicroUsd(12_345_678),
            ..Group::default()
        };
        let (since, until) = (pool_core::time::Timestamp(0), pool_core::time::Timestamp(1));
        let total = Group {
            name: "all".to_owned(),
            ..group.clone()
        };
        let report = Report {
            since,
            until,
            by: "llm".to_owned(),
            total,
            groups: vec![group],
            without_details: 3,
        };
        let text = text(&report);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(104), "{widest:?} columns:\n{text}");
        let row = text
            .lines()
            .find(|line| line.starts_with("anthropic/claude-sonnet-4-20250514 "))
            .unwrap_or_default();
        assert!(
            row.contains("91 %") && row.contains("$12.3457") && row.contains("12.3M"),
            "a row is one line:\n{text}"
        );
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            squeezed.contains("34.0 s 2 min 40 s 2 h 05 min"),
            "with times:\n{text}"
        );
        assert!(
            text.ends_with("; the details of 3 are no longer in the log\n"),
            "and the missing details:\n{text}"
        );
        let total = Group {
            cancelled: 2,
            expired: 1,
            ..report.total.clone()
        };
        let text = super::text(&Report { total, ..report });
        assert!(
            text.ends_with("it leaves out 2 cancelled, 1 expired\n"),
            "tasks that the rate leaves out:\n{text}"
        );
    }
}
