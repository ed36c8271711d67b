//! docs/metrics.md, generated from the catalog. `cargo run -p pool-shared --example metrics_page` prints it, and a test
//! compares the two.

use super::catalog::{ALL, Across, At, Kind, Row};

const HEAD: &str = "\
# Metrics

`GET /metrics` answers in the text format of Prometheus: at the dispatcher, at each programmer's port, and at a worker's `--listen` address. All ports of a worker process give the same metrics, so scrape one of them. A time series appears with its first value. `scripts/docs` generates this page from the code.

The column *across* says how to combine the values of several processes:

- **sum**: each process counts its own events; add them up.
- **max**: each process reports the whole pool; take the largest value.
- **min**: each process reports what it has seen; take the smallest value.
- **each**: the value is about one process alone.

Histograms have `_bucket`, `_sum` and `_count`. Alerts are in [config/prometheus/alerts.yml](../config/prometheus/alerts.yml), a dashboard is in [config/grafana](../config/grafana/programmer-pool.json); see [operating](operating.md#alarms).

| metric | type | labels | program | across | meaning |
|---|---|---|---|---|---|
";

/// The page as Markdown.
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
        At::Dispatcher => "dispatcher",
        At::Worker => "worker",
        At::Both => "both",
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
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let there = std::fs::read_to_string(file).expect("docs/metrics.md");
        assert_eq!(
            there,
            super::page(),
            "docs/metrics.md is out of date: run scripts/docs"
        );
    }
}
