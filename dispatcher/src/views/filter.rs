//! The filter of `GET /tasks`. Pure: it reads the fold, the history's summaries and labels, and the
//! last heartbeats.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use pool_api::tasks::{Label, Stage};
use pool_core::id::{LlmName, ProgrammerId, TaskId};
use pool_core::pool::Pool;
use pool_core::state::{FinishedLongAgo, Phase, PoolState, TaskState};
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use super::presence::Snapshot;
use crate::history::IndexEntry;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 5_000;

/// Which tasks `GET /tasks` returns.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// `queued`, `running`, or the status of its result.
    #[schemars(with = "Stage")]
    status: Option<Stage>,
    /// The programmer that works on the task, or did.
    programmer: Option<ProgrammerId>,
    /// `key=value` or `key:value`; an empty value matches every task that has the key.
    #[schemars(with = "String")]
    label: Option<Label>,
    /// The LLM that made the result; for a running task, its programmer's primary LLM.
    llm: Option<LlmName>,
    /// Text in the task's id, summary or labels; upper and lower case are the same.
    text: Option<String>,
    /// 100 by default; at most 5000. Use `offset` for the tasks after that.
    limit: Option<usize>,
    /// How many of the newest matching tasks to skip.
    offset: Option<usize>,
}

/// A task that may be in the list, with its sort key.
pub(super) type FoundTask = (Option<Timestamp>, TaskId);

impl Filter {
    /// How many tasks match by the log alone, and the newest of them, unordered. If the filter also
    /// asks for words, all of them.
    pub(super) fn of_log(
        &self,
        pool: &Pool,
        fold: &PoolState,
        heard: &Snapshot,
    ) -> (usize, Vec<FoundTask>) {
        let matches = |state: &TaskState| {
            self.status
                .is_none_or(|wanted| wanted == Stage::of(state, runs(fold, state, heard)))
                && self.programmer.as_ref().is_none_or(|wanted| {
                    Some(wanted) == programmer(state, runs(fold, state, heard))
                })
                && self
                    .llm
                    .as_ref()
                    .is_none_or(|wanted| Some(wanted) == llm(pool, state))
        };
        let known = fold.tasks.iter().filter(|(_, state)| matches(state));
        let known = known.map(|(id, state)| (time(state), id.as_str()));
        let old = fold.tasks.finished_long_ago();
        let old = old.filter(|old| self.matches_old(old));
        let matching = known.chain(old.map(|old| (Some(old.outcome.at), old.id)));
        let found = |(at, id): (Option<Timestamp>, &str)| Some((at, TaskId::new(id).ok()?));
        if self.asks_for_words() {
            let all: Vec<FoundTask> = matching.filter_map(found).collect();
            return (all.len(), all);
        }
        let (mut total, mut newest) = (0, BinaryHeap::new());
        let most = self.offset().saturating_add(self.limit());
        for task in matching.map(Reverse) {
            total += 1;
            if newest.len() < most {
                newest.push(task);
            } else if let Some(mut oldest) = newest.peek_mut().filter(|oldest| task < **oldest) {
                *oldest = task;
            }
        }
        (
            total,
            newest
                .into_iter()
                .filter_map(|Reverse(task)| found(task))
                .collect(),
        )
    }

    /// The log no longer knows the programmer and the LLM of an old task.
    fn matches_old(&self, old: &FinishedLongAgo<'_>) -> bool {
        let status = Stage::from(old.outcome.status);
        self.programmer.is_none()
            && self.llm.is_none()
            && self.status.is_none_or(|wanted| wanted == status)
    }

    /// The search for text ignores upper and lower case.
    pub(super) fn in_lower_case(self) -> Self {
        Self {
            text: self.text.map(|text| text.to_lowercase()),
            ..self
        }
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT)
    }

    fn offset(&self) -> usize {
        self.offset.unwrap_or_default()
    }

    pub(super) fn asks_for_words(&self) -> bool {
        self.label.is_some() || self.text.is_some()
    }

    /// Matches the part of the filter that needs the history: label and text.
    pub(super) fn of_words(&self, id: &TaskId, entry: Option<&IndexEntry>) -> bool {
        let label = |label: &Label| entry.is_some_and(|entry| label.is_among(&entry.labels));
        self.label.as_ref().is_none_or(label)
            && self
                .text
                .as_ref()
                .is_none_or(|text| contains(id, entry, text))
    }
}

/// Sorts newest first, then applies `offset` and `limit`.
pub(super) fn newest(mut found: Vec<FoundTask>, filter: &Filter) -> Vec<TaskId> {
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
        .into_iter()
        .skip(filter.offset())
        .map(|(_, id)| id)
        .take(filter.limit())
        .collect()
}

/// `text` must be in lower case.
fn contains(id: &TaskId, entry: Option<&IndexEntry>, text: &str) -> bool {
    let has = |words: &str| words.to_lowercase().contains(text);
    let of_entry = |entry: &IndexEntry| {
        let label = |(key, value): (&String, &String)| has(&format!("{key}={value}"));
        has(&entry.summary) || entry.labels.iter().any(label)
    };
    has(id.as_str()) || entry.is_some_and(of_entry)
}

/// The LLM that made the result; for a running task, its programmer's primary LLM.
fn llm<'a>(pool: &'a Pool, state: &'a TaskState) -> Option<&'a LlmName> {
    match &state.phase {
        Phase::Finished(outcome) => outcome.llm.as_ref(),
        Phase::Running { owner, .. } => pool
            .programmer(&owner.programmer)
            .map(|programmer| programmer.primary()),
        Phase::Pending | Phase::Queued | Phase::RetryAt(_) => None,
    }
}

/// The sort key of lists: the time of submission if known, else the time it finished.
fn time(state: &TaskState) -> Option<Timestamp> {
    state
        .submitted_at
        .or_else(|| state.outcome().map(|outcome| outcome.at))
}

/// Whether a programmer works on the task. A task whose programmer is lost waits for another one.
pub(super) fn runs(fold: &PoolState, state: &TaskState, heard: &Snapshot) -> bool {
    state
        .owner()
        .is_some_and(|owner| !heard.has_lost(fold, owner))
}

/// The programmer that works on the task, or did.
pub(super) fn programmer(state: &TaskState, runs: bool) -> Option<&ProgrammerId> {
    let owner = state.owner().filter(|_| runs);
    owner
        .map(|owner| &owner.programmer)
        .or_else(|| state.outcome()?.programmer.as_ref())
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
