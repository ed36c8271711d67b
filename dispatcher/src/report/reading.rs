//! Collects the tasks of a report: the log has their outcomes, the history their numbers.

use std::collections::BTreeMap;

use pool_api::report::{By, Report, Since};
use pool_core::id::TaskId;
use pool_core::state::{Outcome, PoolState, TaskState};
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;

use super::tally::{self, FinishedTask};
use crate::views::Reader;

/// Builds the report about the tasks that ended since then.
pub(crate) fn report(reader: &Reader, since: Since, by: &By) -> Report {
    let until = reader.process.log.read(PoolState::now).max(wall_clock());
    let since = since.at(until);
    // The fold stands still during this closure, so it copies only what the report counts.
    let mut ended = reader.process.log.read(|fold| ended_since(fold, since));
    for (id, task) in &mut ended {
        let entry = reader.history.entry(id).unwrap_or_default();
        (task.labels, task.record) = (entry.labels, entry.record);
    }
    let ended: Vec<FinishedTask> = ended.into_iter().map(|(_, task)| task).collect();
    tally::report(&ended, by, since..=until)
}

/// The tasks that ended since then, without what the history knows.
fn ended_since(fold: &PoolState, since: Timestamp) -> Vec<(TaskId, FinishedTask)> {
    let with_details = fold.tasks.iter().filter_map(|(id, state)| {
        let outcome = state.outcome().filter(|outcome| outcome.at >= since)?;
        Some((id.clone(), finished(outcome, state)))
    });
    let old = fold.tasks.finished_long_ago();
    let old = old.filter(|old| old.outcome.at >= since).filter_map(|old| {
        let id = TaskId::new(old.id).ok()?;
        Some((id, finished(&old.outcome, &TaskState::default())))
    });
    with_details.chain(old).collect()
}

fn finished(outcome: &Outcome, state: &TaskState) -> FinishedTask {
    FinishedTask {
        outcome: outcome.clone(),
        attempts: state.attempts,
        route: state.route.clone(),
        labels: BTreeMap::new(),
        record: None,
    }
}
