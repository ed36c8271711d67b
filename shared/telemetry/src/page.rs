//! docs/metrics.md, from the catalog. `cargo run -p pool-shared --example metrics_page` prints it; a test compares.

use super::catalog::{ALL, Across, At, Kind, Row};

const HEAD: &str = "\
# Metrics

`GET /metrics` of the dispatcher, of each programmer's port and of a worker's `--listen` address, in the text format of Prometheus. A worker process has one set of metrics,
whichever of its ports is asked: scrape one. A time series appears when there is something to say. Made from the code by `scripts/docs`.

*Of several processes*: **sum** what each has counted by itself; take the **max** of what all say alike about the whole pool, the **min** of what each has seen;
**each** is about one process alone. Histograms have `_bucket`, `_sum` and `_count`. What to be woken up for is in [config/prometheus/alerts.yml](../config/prometheus/alerts.yml), what to look at in
[config/grafana](../config/grafana/programmer-pool.json): [operating](operating.md#alarms).

| metric | kind | labels | of | of several | what |
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
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let there = std::fs::read_to_string(file).expect("docs/metrics.md");
        assert_eq!(
            there,
            super::page(),
            "docs/metrics.md is another one: run scripts/docs"
        );
    }
}
