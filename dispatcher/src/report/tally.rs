//! The arithmetic of the report. Pure.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use pool_api::report::{By, Group, Percentiles, Report};
use pool_core::money::MicroUsd;
use pool_core::result::{LlmUsage, Status, Usage};
use pool_core::state::Outcome;
use pool_core::time::Timestamp;

use crate::history::record::ResultSummary;

/// The group of tasks without a name: no LLM was called, the label is missing, or the route is no
/// longer in the log.
const NONE: &str = "(none)";

/// A finished task: its log entry, and the numbers of its result.
#[derive(Debug, Clone)]
pub(super) struct FinishedTask {
    pub(super) outcome: Outcome,
    /// Attempts that count; 0 if no attempt counts, or if they are no longer in the log.
    pub(super) attempts: u32,
    pub(super) route: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) record: Option<Arc<ResultSummary>>,
}

/// The report about tasks that ended in this period.
pub(super) fn report(ended: &[FinishedTask], by: &By, period: RangeInclusive<Timestamp>) -> Report {
    let (mut total, mut groups) = (Sums::default(), HashMap::<String, Sums>::new());
    let mut without_details = 0;
    for task in ended
        .iter()
        .filter(|task| period.contains(&task.outcome.at))
    {
        without_details += u64::from(task.record.is_none() && task.outcome.attempt.is_some());
        total.count(task);
        total.spend(&all_usage(task));
        groups.entry(task.name(by)).or_default().count(task);
        for (name, usage) in task.usage(by) {
            groups.entry(name).or_default().spend(&usage);
        }
    }
    let mut groups: Vec<Group> = groups
        .into_iter()
        .map(|(name, sums)| sums.group(name))
        .collect();
    groups.sort_by(|a, b| (b.tasks, &a.name).cmp(&(a.tasks, &b.name)));
    Report {
        since: *period.start(),
        until: *period.end(),
        by: by.to_string(),
        total: total.group("all".to_owned()),
        groups,
        without_details,
    }
}

impl FinishedTask {
    fn name(&self, by: &By) -> String {
        let record = self.record.as_deref();
        let known = match by {
            By::Llm => self
                .outcome
                .llm
                .as_ref()
                .or(record.and_then(|r| r.llm.as_ref()))
                .map(ToString::to_string),
            By::Programmer => {
                let programmer = self
                    .outcome
                    .programmer
                    .as_ref()
                    .or(record.and_then(|r| r.programmer.as_ref()));
                programmer.map(ToString::to_string)
            }
            By::Route => Some(self.route.clone()).filter(|route| !route.is_empty()),
            By::Label(key) => self.labels.get(key).cloned(),
        };
        known.unwrap_or_else(|| NONE.to_owned())
    }

    /// The spending of a task, by group.
    fn usage(&self, by: &By) -> Vec<(String, Usage)> {
        let each = self
            .record
            .as_deref()
            .map(|record| record.usage.by_llm.as_slice())
            .unwrap_or_default();
        match by {
            By::Llm if !each.is_empty() => each
                .iter()
                .map(|usage| (usage.llm.to_string(), of_one(usage)))
                .collect(),
            By::Llm | By::Programmer | By::Route | By::Label(_) => {
                vec![(self.name(by), all_usage(self))]
            }
        }
    }
}

/// The use of one LLM, as a use by itself.
fn of_one(usage: &LlmUsage) -> Usage {
    Usage {
        calls: usage.calls,
        failed_calls: usage.failed_calls,
        input_tokens: usage.input_tokens,
        cached_input_tokens: usage.cached_input_tokens,
        output_tokens: usage.output_tokens,
        cost_usd: usage.cost_usd,
        ..Usage::default()
    }
}

/// The whole spending of a task. If its details are gone, the log still has the cost.
fn all_usage(task: &FinishedTask) -> Usage {
    let by_the_log = || Usage {
        cost_usd: task.outcome.cost,
        ..Usage::default()
    };
    let record = task.record.as_ref();
    record.map_or_else(by_the_log, |record| record.usage.clone())
}

#[derive(Default)]
struct Sums {
    group: Group,
    durations: Vec<u64>,
    queued: Vec<u64>,
    /// Decided tasks whose attempts are known, and those of them that succeeded in the first
    /// attempt.
    counted: u64,
    first: u64,
}

impl Sums {
    fn count(&mut self, task: &FinishedTask) {
        let (group, outcome) = (&mut self.group, &task.outcome);
        group.tasks += 1;
        match outcome.status {
            Status::Succeeded => group.succeeded += 1,
            Status::Failed => group.failed += 1,
            Status::Rejected => group.rejected += 1,
            Status::Cancelled => group.cancelled += 1,
            Status::Expired => group.expired += 1,
        }
        if let Some(error) = outcome.error {
            *group.failures.entry(error).or_default() += 1;
        }
        let succeeded = outcome.status == Status::Succeeded;
        if task.attempts > 0 && (succeeded || outcome.status == Status::Failed) {
            self.counted += 1;
            self.first += u64::from(succeeded && task.attempts == 1);
        }
        if let Some(record) = task.record.as_deref() {
            group.failovers += u64::from(record.used_backup);
            self.queued.extend(record.timings.queued_ms);
            if outcome.attempt.is_some() {
                self.durations.push(record.timings.run_ms);
            }
        }
    }

    fn spend(&mut self, spent: &Usage) {
        let group = &mut self.group;
        group.calls += spent.calls;
        group.failed_calls += spent.failed_calls;
        group.input_tokens += spent.input_tokens;
        group.cached_input_tokens += spent.cached_input_tokens;
        group.output_tokens += spent.output_tokens;
        group.cost_usd += spent.cost_usd;
    }

    fn group(self, name: String) -> Group {
        let (succeeded, decided) = (self.group.succeeded, self.group.decided());
        let cost = self.group.cost_usd;
        Group {
            name,
            success_rate: rate(succeeded, decided),
            first_attempt_rate: rate(self.first, self.counted),
            duration_ms: percentiles(self.durations),
            queued_ms: percentiles(self.queued),
            cost_per_succeeded_usd: (succeeded > 0).then(|| MicroUsd(cost.0.div_ceil(succeeded))),
            ..self.group
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of tasks are far below 2^52"
)]
fn rate(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The smallest value that at least so many percent of all values do not exceed.
fn percentiles(mut values: Vec<u64>) -> Option<Percentiles> {
    values.sort_unstable();
    let at = |percent: usize| {
        values
            .get((values.len() * percent).div_ceil(100).checked_sub(1)?)
            .copied()
    };
    Some(Percentiles {
        p50: at(50)?,
        p90: at(90)?,
        p99: at(99)?,
    })
}
