//! Medians, and the table of docs/operate/performance.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// The line and the column of a number, such as (`worker ×1`, `tasks/s`).
type Key = (&'static str, &'static str);

/// All measurements by line and column, one value for each round.
#[derive(Debug, Default)]
pub struct Measured {
    values: BTreeMap<Key, Vec<f64>>,
}

impl Measured {
    pub fn add(&mut self, line: &'static str, column: &'static str, value: f64) {
        self.values.entry((line, column)).or_default().push(value);
    }

    /// The median, or None when it was not measured.
    pub fn median(&self, line: &'static str, column: &'static str) -> Option<f64> {
        let mut values = self.values.get(&(line, column))?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    fn cell(&self, line: &'static str, column: &'static str, digits: usize) -> String {
        self.median(line, column)
            .map_or("–".to_owned(), |value| format!("{value:.digits$}"))
    }

    fn range(&self, line: &'static str, column: &'static str) -> String {
        let values = self
            .values
            .get(&(line, column))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        format!("{} ({least:.0}–{most:.0})", self.cell(line, column, 0))
    }

    /// Median of `line` over the median of `base`, such as `0.43`.
    fn ratio(&self, line: &'static str, base: &'static str, column: &'static str) -> String {
        match (self.median(line, column), self.median(base, column)) {
            (Some(value), Some(base)) if base > 0.0 => format!("{:.2}", value / base),
            _ => "–".to_owned(),
        }
    }

    /// The table. All other lines are compared with `base`.
    pub fn markdown(&self, lines: &[&'static str], base: &'static str) -> String {
        let mut text = "| 10 programmers, agent `noop` | tasks/s | of raw | p50 / p99 ms | CPU ms per task: broker / dispatcher / workers / submitter | PSS MB idle → after: dispatcher, workers | ready after s: dispatcher, workers |\n|---|---|---|---|---|---|---|\n".to_owned();
        for line in lines {
            let cell = |column, digits| self.cell(line, column, digits);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {line} | {} | {} | {} / {} | {} / {} / {} / {} | {} → {}, {} → {} | {}, {} |",
                self.range(line, RATE),
                self.ratio(line, base, RATE),
                cell(P50, 1),
                cell(P99, 1),
                cell(CPU_BROKER, 2),
                cell(CPU_DISPATCHER, 2),
                cell(CPU_WORKERS, 2),
                cell(CPU_SUBMITTER, 2),
                cell(PSS_DISPATCHER, 0),
                cell(PSS_DISPATCHER_AFTER, 0),
                cell(PSS_WORKERS, 0),
                cell(PSS_WORKERS_AFTER, 0),
                cell(START_DISPATCHER, 2),
                cell(START_WORKERS, 2),
            );
        }
        text
    }
}

pub const RATE: &str = "tasks/s";
pub const P50: &str = "p50 ms";
pub const P99: &str = "p99 ms";
pub const CPU_BROKER: &str = "cpu broker";
pub const CPU_DISPATCHER: &str = "cpu dispatcher";
pub const CPU_WORKERS: &str = "cpu workers";
pub const CPU_SUBMITTER: &str = "cpu submitter";
pub const PSS_DISPATCHER: &str = "pss dispatcher";
pub const PSS_WORKERS: &str = "pss workers";
pub const PSS_DISPATCHER_AFTER: &str = "pss dispatcher after";
pub const PSS_WORKERS_AFTER: &str = "pss workers after";
pub const START_DISPATCHER: &str = "start dispatcher";
pub const START_WORKERS: &str = "start workers";
pub const LOAD: &str = "load average";

/// The time within which `percent` of all values lie, in ms.
pub fn percentile_ms(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(index)
        .map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_compared_by_medians_with_the_base() {
        let mut measured = Measured::default();
        for (raw, pool) in [(3000.0, 1500.0), (1.0, 1400.0), (2000.0, 1000.0)] {
            measured.add("raw", RATE, raw);
            measured.add("pool", RATE, pool);
        }
        assert_eq!(
            measured.median("raw", RATE),
            Some(2000.0),
            "the middle one, whatever the outlier"
        );
        let table = measured.markdown(&["raw", "pool"], "raw");
        assert!(
            table.contains("| pool | 1400 (1000–1500) | 0.70 |"),
            "median, range and ratio: {table}"
        );
    }

    #[test]
    fn a_percentile_of_few_values_is_one_of_them() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert!((percentile_ms(&times, 50) - 101.0).abs() < 1e-9, "p50");
        assert!((percentile_ms(&times, 99) - 199.0).abs() < 1e-9, "p99");
        assert!(percentile_ms(&[], 50).abs() < 1e-9, "nothing measured");
    }
}
