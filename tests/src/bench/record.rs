//! The result of a benchmark as a JSON file: what was measured, where, and of which commit.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use pool_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::machine::{Commit, Machine};
use super::row::{Case, Measure, Row};
use super::statistics::{median, ratio};

/// The settings of a run by name, such as `tasks`.
pub type Settings = BTreeMap<String, String>;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// For example `queue`.
    pub benchmark: String,
    pub measured: Timestamp,
    pub commit: Commit,
    pub machine: Machine,
    /// For example `RabbitMQ 3.10.8`; None when the benchmark uses no broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    pub load_average: Load,
    pub settings: Settings,
    /// The case that all others are compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Case>,
    pub series: Vec<Series>,
}

/// The load average of the last minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub before: f64,
    pub after: f64,
}

/// All values of one measure of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    pub case: Case,
    pub measure: Measure,
    pub median: f64,
    /// The value of each round.
    pub rounds: Vec<f64>,
}

/// Puts the rows of all rounds together, in the order in which they came.
///
/// # Errors
/// When a value is not a finite number.
pub fn collect(rows: impl IntoIterator<Item = Row>) -> anyhow::Result<Vec<Series>> {
    let mut series: Vec<Series> = Vec::new();
    for Row {
        case,
        measure,
        value,
    } in rows
    {
        ensure!(
            value.is_finite(),
            "{} of {} is {value}: not a number that can be compared",
            measure.title(),
            case.title()
        );
        match series
            .iter_mut()
            .find(|known| known.case == case && known.measure == measure)
        {
            Some(known) => known.rounds.push(value),
            None => series.push(Series {
                case,
                measure,
                median: value,
                rounds: vec![value],
            }),
        }
    }
    for one in &mut series {
        one.median = median(&one.rounds).unwrap_or_default();
    }
    Ok(series)
}

impl Record {
    /// # Errors
    /// When the file is not a record.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a result of scripts/bench", path.display()))
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("failed to write the result")?;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("failed to make {}", directory.display()))?;
        }
        std::fs::write(path, text + "\n")
            .with_context(|| format!("failed to write {}", path.display()))
    }

    /// All cases, in the order in which they were measured.
    #[must_use]
    pub fn cases(&self) -> Vec<&Case> {
        distinct(self.series.iter().map(|series| &series.case))
    }

    /// All groups of measures, in the order in which they were measured.
    #[must_use]
    pub fn groups(&self) -> Vec<&str> {
        distinct(self.series.iter().map(|series| &*series.measure.group))
    }

    /// The measures of a group, in the order in which they were measured.
    #[must_use]
    pub fn measures(&self, group: &str) -> Vec<&Measure> {
        let measures = self.series.iter().map(|series| &series.measure);
        distinct(measures.filter(|measure| measure.group == group))
    }

    #[must_use]
    pub fn find(&self, case: &Case, measure: &Measure) -> Option<&Series> {
        self.series
            .iter()
            .find(|series| series.case == *case && series.measure == *measure)
    }

    /// The values of a series as parts of the base's values, round by round: what disturbs the
    /// machine in a round disturbs both. None for the base itself.
    #[must_use]
    pub fn relative(&self, series: &Series) -> Option<Vec<f64>> {
        let base = self.base.as_ref().filter(|base| series.case != **base)?;
        let base = self.find(base, &series.measure)?;
        if base.rounds.len() != series.rounds.len() {
            return None;
        }
        let pairs = series.rounds.iter().zip(&base.rounds);
        pairs.map(|(value, base)| ratio(*value, *base)).collect()
    }
}

fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

#[cfg(test)]
#[path = "record_tests.rs"]
pub(in crate::bench) mod tests;
