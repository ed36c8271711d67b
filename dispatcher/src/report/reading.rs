//! Collects the tasks of a report: the log has their outcomes, the history their numbers.

use pool_api::report::{By, Report, Since};
use pool_core::id::TaskId;
use pool_core::state::{Phase, PoolState, TaskState};
use pool_telemetry::clock::wall_clock;

use super::tally::{self, FinishedTask};
use crate::views::Reader;

/// Builds the report about the tasks that ended since then.
pub(crate) fn report(reader: &Reader, since: Since, by: &By) -> Report {
    let until = reader.process.log.read(PoolState::now).max(wall_clock());
    let since = since.at(until);
    // The fold stands still during this closure, so it copies only what the report counts.
    let ended: Vec<(TaskId, TaskState)> = reader.process.log.read(|fold| {
        let counted =
            |state: &TaskState| state.outcome().is_some_and(|outcome| outcome.at >= since);
        let ended = fold.tasks.iter().filter(|(_, state)| counted(state));
        ended
            .map(|(id, state)| (id.clone(), state.clone()))
            .collect()
    });
    let details = |(id, state): (TaskId, TaskState)| {
        let Phase::Finished(outcome) = state.phase else {
            return None;
        };
        let entry = reader.history.entry(&id).unwrap_or_default();
        Some(FinishedTask {
            outcome,
            attempts: state.attempts,
            route: state.route,
            labels: entry.labels,
            record: entry.record,
        })
    };
    let ended: Vec<FinishedTask> = ended.into_iter().filter_map(details).collect();
    tally::report(&ended, by, since..=until)
}
