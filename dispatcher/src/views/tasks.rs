//! A task as lists show it: from its state and the history's words.

use pool_api::tasks::{Stage, TaskView};
use pool_core::id::TaskId;
use pool_core::state::TaskState;

use super::filter::programmer;
use crate::history::IndexEntry;

pub(super) fn task_view(id: &TaskId, state: &TaskState, runs: bool, entry: IndexEntry) -> TaskView {
    let outcome = state.outcome();
    // If the programmer is lost, the task waits again, so its attempt is not shown.
    let owner = state.owner().filter(|_| runs);
    TaskView {
        id: id.clone(),
        status: Stage::of(state, runs),
        route: state.route.clone(),
        summary: entry.summary,
        labels: entry.labels,
        retry_of: entry.retry_of,
        submitted_at: state.submitted_at,
        attempts: state.attempts,
        programmer: programmer(state, runs).cloned(),
        attempt: owner.map(|o| o.attempt).or_else(|| outcome?.attempt),
        started_at: owner.map(|o| o.since).or_else(|| outcome?.started_at),
        finished_at: outcome.map(|o| o.at),
        cost_usd: outcome.map(|o| o.cost),
        llm: outcome.and_then(|o| o.llm.clone()),
        error: outcome
            .and_then(|o| o.error)
            .map(|kind| kind.as_str().to_owned()),
        result: None,
        task: None,
        warnings: Vec::new(),
    }
}
