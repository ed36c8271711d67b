//! The report as CSV, for spreadsheets: one row per group, then the total.

use pool_api::report::{Group, Percentiles, Report};

const COLUMNS: [&str; 24] = [
    "name",
    "tasks",
    "succeeded",
    "failed",
    "rejected",
    "cancelled",
    "expired",
    "success_rate",
    "first_attempt_rate",
    "duration_p50_ms",
    "duration_p90_ms",
    "duration_p99_ms",
    "queued_p50_ms",
    "queued_p90_ms",
    "queued_p99_ms",
    "calls",
    "failed_calls",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "cost_usd",
    "cost_per_succeeded_usd",
    "failovers",
    "failures",
];

/// The CSV text. Unknown numbers are empty cells.
///
/// # Errors
/// Never in practice: it is written to memory.
pub(crate) fn text(report: &Report) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS)?;
    for group in report.groups.iter().chain([&report.total]) {
        writer.write_record(row(group))?;
    }
    let bytes = writer.into_inner().map_err(|error| error.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn row(group: &Group) -> [String; COLUMNS.len()] {
    fn or_empty<T: ToString>(value: Option<T>) -> String {
        value.map_or(String::new(), |value| value.to_string())
    }
    let rate = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!("{rate:.4}"));
    let at = |of: Option<Percentiles>, which: fn(Percentiles) -> u64| or_empty(of.map(which));
    let failures: Vec<String> = group
        .failures
        .iter()
        .map(|(kind, count)| format!("{}={count}", kind.as_str()))
        .collect();
    // A spreadsheet takes a cell that begins like this for a formula.
    let formula = group.name.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let name = if formula {
        format!("'{}", group.name)
    } else {
        group.name.clone()
    };
    [
        name,
        group.tasks.to_string(),
        group.succeeded.to_string(),
        group.failed.to_string(),
        group.rejected.to_string(),
        group.cancelled.to_string(),
        group.expired.to_string(),
        rate(group.success_rate),
        rate(group.first_attempt_rate),
        at(group.duration_ms, |p| p.p50),
        at(group.duration_ms, |p| p.p90),
        at(group.duration_ms, |p| p.p99),
        at(group.queued_ms, |p| p.p50),
        at(group.queued_ms, |p| p.p90),
        at(group.queued_ms, |p| p.p99),
        group.calls.to_string(),
        group.failed_calls.to_string(),
        group.input_tokens.to_string(),
        group.cached_input_tokens.to_string(),
        group.output_tokens.to_string(),
        group.cost_usd.to_string(),
        or_empty(group.cost_per_succeeded_usd),
        group.failovers.to_string(),
        failures.join(" "),
    ]
}
