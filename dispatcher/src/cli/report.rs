//! `dispatcher report`: what the tasks of some days came to.

use std::process::ExitCode;

use anyhow::Context as _;
use reqwest::Url;

use super::{Client, PoolUrl};
use crate::check::print;
use crate::report::query::{By, Since};
use crate::report::{Group, Percentiles, Report, csv, html};
use crate::tables::{keep_first_column_whole, lines, table};

#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Tasks that ended since: 7d, 24h, 90m, a time (2026-01-31T00:00:00Z), or all
    #[arg(long, default_value = "7d", value_parser = is_since)]
    since: String,
    /// llm, programmer, route, or label:<key>, for example label:run_id
    #[arg(long, default_value_t)]
    by: By,
    /// html is a page with plots: `dispatcher report --format html >report.html`
    #[arg(long, value_enum, default_value_t)]
    format: Form,
    #[command(flatten)]
    url: PoolUrl,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Form {
    #[default]
    Table,
    Json,
    Csv,
    Html,
}

/// It is passed on as it was written: the dispatcher's clock decides.
fn is_since(text: &str) -> Result<String, String> {
    text.parse::<Since>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) async fn run(args: ReportArgs) -> anyhow::Result<ExitCode> {
    let query = [("since", args.since), ("by", args.by.to_string())];
    let url = Url::parse_with_params("http://pool/report", &query).context("failed to put the question together")?;
    let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    let report: Report = Client::new(&args.url)?.get(&path).await?;
    Ok(print(&match args.format {
        Form::Table => text(&report),
        Form::Json => format!("{:#}\n", serde_json::to_value(&report)?),
        Form::Csv => csv::text(&report)?,
        Form::Html => html::page(&report)?,
    }))
}

fn text(report: &Report) -> String {
    let mut rows = table(&[
        &report.by,
        "tasks",
        "success",
        "first try",
        "run p50/p90/p99",
        "queued p50/p90/p99",
        "tokens",
        "cost",
        "per success",
        "failovers",
    ]);
    for group in report.groups.iter().chain([&report.total]) {
        rows.add_row(row(group));
    }
    keep_first_column_whole(&mut rows);
    let mut failures = table(&["error", "tasks"]);
    for (kind, count) in &report.total.failures {
        failures.add_row([kind.as_str().to_owned(), count.to_string()]);
    }
    let failures = if report.total.failures.is_empty() { String::new() } else { lines(failures) };
    format!("{}{failures}{}", lines(rows), footer(report))
}

fn footer(report: &Report) -> String {
    let unknown = match report.without_details {
        0 => String::new(),
        some => format!("; of {some} only the outcome is known any more"),
    };
    format!("{} tasks ended {}{unknown}\n", report.total.tasks, report.when())
}

fn row(group: &Group) -> [String; 10] {
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{:.0} %", rate * 100.0));
    [
        group.name.clone(),
        group.tasks.to_string(),
        rate(group.success_rate),
        rate(group.first_attempt_rate),
        times(group.duration_ms),
        times(group.queued_ms),
        format!("{} in, {} out", group.input_tokens, group.output_tokens),
        format!("${}", group.cost_usd),
        group.cost_per_succeeded_usd.map_or("-".to_owned(), |cost| format!("${cost}")),
        group.failovers.to_string(),
    ]
}

fn times(of: Option<Percentiles>) -> String {
    of.map_or("-".to_owned(), |p| [p.p50, p.p90, p.p99].map(html::span).join(" / "))
}
