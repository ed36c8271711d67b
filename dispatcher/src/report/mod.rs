//! The report: what the tasks of some days came to, in numbers, by LLM, programmer, route or label. It answers which LLM is
//! worth its money.
//!
//! `query` is what is asked, `tally` the arithmetic (pure); `csv`, `plots` and `html`
//! are the forms.

pub mod csv;
pub mod html;
mod plots;
pub mod query;
pub(crate) mod reading;
pub mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use pool_core::money::MicroUsd;
use pool_core::result::ErrorKind;
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::format::date_and_time;

/// `GET /report`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Counted are tasks that ended from here on.
    pub since: Timestamp,
    /// Up to here.
    pub until: Timestamp,
    /// `llm`, `programmer`, `route` or `label:<key>`.
    pub by: String,
    pub total: Group,
    /// Most tasks first.
    pub groups: Vec<Group>,
    /// Of so many tasks only the outcome is known any more: they count, but not in times, tokens and labels.
    pub without_details: u64,
}

/// What some tasks came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// By LLM, a task belongs to the one that gave its last answer; calls, tokens and cost to the one that they were for.
    pub name: String,
    /// Tasks that ended.
    pub tasks: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub rejected: u64,
    pub cancelled: u64,
    pub expired: u64,
    /// Succeeded, of those that succeeded or failed: 0 to 1.
    pub success_rate: Option<f64>,
    /// The same for those that succeeded in their first attempt.
    pub first_attempt_rate: Option<f64>,
    /// From the start of the deciding attempt to its end: exact percentiles (nearest rank).
    pub duration_ms: Option<Percentiles>,
    /// From submission to the start of the deciding attempt.
    pub queued_ms: Option<Percentiles>,
    pub calls: u64,
    pub failed_calls: u64,
    pub input_tokens: u64,
    /// Of the input tokens.
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    /// Of deciding attempts; what others and probes have cost is in the budget.
    pub cost_usd: MicroUsd,
    /// Everything that was spent, failed tasks included, for each that succeeded; rounded up.
    pub cost_per_succeeded_usd: Option<MicroUsd>,
    /// Tasks that a backup LLM has answered.
    pub failovers: u64,
    /// Tasks that did not succeed, by the class of their error.
    pub failures: BTreeMap<ErrorKind, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
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

    /// Which of the tasks are not in the rates: `2 cancelled, 1 expired`; None when all are.
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

    /// What it is by, for people.
    pub fn by_words(&self) -> &str {
        if self.by == "llm" { "LLM" } else { &self.by }
    }
}

impl Group {
    /// Tasks that tell something about who did them.
    pub fn decided(&self) -> u64 {
        self.succeeded + self.failed
    }
}
