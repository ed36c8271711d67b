//! The report: results, times and costs of the tasks of a period, and the parameters that ask for it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use pool_core::money::MicroUsd;
use pool_core::result::ErrorKind;
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::format::date_and_time;

/// `GET /report`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The report counts tasks that ended from this time on.
    pub since: Timestamp,
    /// The end of the period.
    pub until: Timestamp,
    /// `llm`, `programmer`, `route` or `label:<key>`.
    pub by: String,
    pub total: Group,
    /// Groups with the most tasks first.
    pub groups: Vec<Group>,
    /// Tasks of which only the outcome is known. They count as tasks, but not in times, tokens and
    /// labels.
    pub without_details: u64,
}

impl Report {
    /// `from … to …`.
    pub fn when(&self) -> String {
        let until = date_and_time(self.until);
        match self.since.0 {
            0 => format!("up to {until}"),
            _ => format!("from {} to {until}", date_and_time(self.since)),
        }
    }

    /// The tasks that the rates leave out, such as `2 cancelled, 1 expired`; None if the rates
    /// include all.
    pub fn not_in_rates(&self) -> Option<String> {
        let Group {
            rejected,
            cancelled,
            expired,
            ..
        } = self.total;
        let each = [
            (rejected, "rejected"),
            (cancelled, "cancelled"),
            (expired, "expired"),
        ];
        let some: Vec<String> = each
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        (!some.is_empty()).then(|| some.join(", "))
    }

    /// The grouping, for people.
    pub fn by_words(&self) -> &str {
        if self.by == "llm" { "LLM" } else { &self.by }
    }
}

/// The totals of some tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// The group's name. By LLM, a task belongs to the LLM that gave its last answer; calls, tokens
    /// and cost belong to the LLM that was called.
    pub name: String,
    /// Tasks that ended.
    pub tasks: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub rejected: u64,
    pub cancelled: u64,
    pub expired: u64,
    /// Succeeded tasks, of those that succeeded or failed: 0 to 1.
    pub success_rate: Option<f64>,
    /// The same for tasks that succeeded in their first attempt.
    pub first_attempt_rate: Option<f64>,
    /// From the start of the deciding attempt to its end: exact percentiles (nearest rank).
    pub duration_ms: Option<Percentiles>,
    /// From submission to the start of the deciding attempt.
    pub queued_ms: Option<Percentiles>,
    pub calls: u64,
    pub failed_calls: u64,
    pub input_tokens: u64,
    /// The part of the input tokens that came from a cache.
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    /// The cost of deciding attempts. The budget also has the cost of other attempts and of probes.
    pub cost_usd: MicroUsd,
    /// All spending, failed tasks included, for each succeeded task; rounded up.
    pub cost_per_succeeded_usd: Option<MicroUsd>,
    /// Tasks that a backup LLM answered.
    pub failovers: u64,
    /// Tasks that did not succeed, by the kind of their error.
    pub failures: BTreeMap<ErrorKind, u64>,
}

impl Group {
    /// Tasks that succeeded or failed; only these say something about the LLM or programmer.
    pub fn decided(&self) -> u64 {
        self.succeeded + self.failed
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
}

/// The beginning of the period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Ago(Duration),
    At(Timestamp),
    /// From the beginning of the log.
    All,
}

impl Default for Since {
    fn default() -> Self {
        Self::Ago(Duration::from_secs(7 * 24 * 3600))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a period; expected for example 7d, 24h, 90m, 2026-01-31T00:00:00Z, or all")]
pub struct InvalidSince(String);

impl FromStr for Since {
    type Err = InvalidSince;
    fn from_str(text: &str) -> Result<Self, InvalidSince> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        let invalid = || InvalidSince(text.to_owned());
        let units = [('d', 86400), ('h', 3600), ('m', 60), ('s', 1)];
        let of_unit = |(unit, seconds): (char, u64)| Some((text.strip_suffix(unit)?, seconds));
        let (number, seconds) = units.into_iter().find_map(of_unit).ok_or_else(invalid)?;
        let number: u64 = number.parse().map_err(|_| invalid())?;
        Ok(Self::Ago(Duration::from_secs(
            number.checked_mul(seconds).ok_or_else(invalid)?,
        )))
    }
}

impl Since {
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(span) => Timestamp(
                now.0
                    .saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            ),
            Self::At(at) => at,
            Self::All => Timestamp(0),
        }
    }
}

/// The grouping of a report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum By {
    #[default]
    Llm,
    Programmer,
    Route,
    Label(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot group by {0:?}; expected llm, programmer, route or label:<key>")]
pub struct InvalidBy(String);

impl FromStr for By {
    type Err = InvalidBy;
    fn from_str(text: &str) -> Result<Self, InvalidBy> {
        match (text, text.strip_prefix("label:")) {
            ("llm", _) => Ok(Self::Llm),
            ("programmer", _) => Ok(Self::Programmer),
            ("route", _) => Ok(Self::Route),
            (_, Some(key)) if !key.is_empty() => Ok(Self::Label(key.to_owned())),
            (_, Some(_) | None) => Err(InvalidBy(text.to_owned())),
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Llm => f.write_str("llm"),
            Self::Programmer => f.write_str("programmer"),
            Self::Route => f.write_str("route"),
            Self::Label(key) => write!(f, "label:{key}"),
        }
    }
}
