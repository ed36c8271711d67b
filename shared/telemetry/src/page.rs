//! docs/reference/metrics.md, from the catalog. `cargo run -p pool-telemetry --example metrics_page` prints it; a test compares.

use super::catalog::{ALL, Across, Kind, Programs, Row};

const HEAD: &str = "\
# Metrics

`GET /metrics` serves these metrics in the text format of Prometheus: on the address of a dispatcher, on the port of each programmer, and on the `--listen` address of a worker. All ports of one worker process
serve the same metrics, so scrape only one of them. A time series appears with its first value. `scripts/docs` writes this page from the code.

The column *process* says which program has the metric. The column *combine* says how to combine the values of several processes:

- **sum**: each process counts by itself.
- **max**: all processes report the same fact about the pool.
- **min**: each process reports what it has seen of the pool.
- **each**: the value is about one process alone.

Histograms have `_bucket`, `_sum` and `_count`. [Alerts and monitoring](../operate/alerts.md) has alerts for Prometheus and a dashboard for Grafana.

| metric | kind | labels | process | combine | meaning |
|---|---|---|---|---|---|
";

/// The whole page.
pub fn page() -> String {
    ALL.iter()
        .fold(HEAD.to_owned(), |page, row| page + &line(row))
}

fn line(row: &Row) -> String {
    let Row {
        name,
        kind,
        labels,
        unit: _,
        at,
        across,
        help,
    } = row;
    let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let of = match at {
        Programs::Dispatcher => "dispatcher",
        Programs::Worker => "worker",
        Programs::Both => "both",
    };
    let across = match across {
        Across::Sum => "sum",
        Across::Max => "max",
        Across::Min => "min",
        Across::Each => "each",
    };
    format!(
        "| `{name}` | {kind} | {} | {of} | {across} | {help} |\n",
        labels.join(", ")
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_of_the_documentation_is_made_from_the_catalog() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/reference/metrics.md"
        );
        let there = std::fs::read_to_string(file).expect("docs/reference/metrics.md");
        assert_eq!(
            there,
            super::page(),
            "docs/reference/metrics.md differs from the code: run scripts/docs"
        );
    }
}
