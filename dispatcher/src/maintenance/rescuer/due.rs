//! Which tasks have lost their message. Pure.
//!
//! A message that is in no queue can still be in the hands of a programmer that has not claimed it yet, so nothing is
//! lost before every programmer of the route was heard of with empty hands, twice since. Should it be too early all the
//! same, no harm is done: the generation decides between two messages.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use pool_core::heartbeat::{Gate, Heartbeat, ShutReason};
use pool_core::id::{ProgrammerId, TaskId};
use pool_core::routing::Routes;
use pool_core::state::{Fold, TaskState};
use pool_core::time::Timestamp;

/// A worker that was not heard for so long has no connection any more either, and the broker has taken back what it held.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// In one look; the rest is still due at the next.
const AT_ONCE: usize = 1_000;

/// A task that has to be published again, with this generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repair {
    pub(crate) task: TaskId,
    pub(crate) generation: u32,
    pub(crate) cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Whoever wrote `submitted` or `reissued` has not published it.
    Unpublished,
    /// It was in its queue, and is not there nor with anybody.
    Lost,
}

/// When each programmer was heard of with empty hands.
#[derive(Debug, Default)]
pub(crate) struct Sightings(HashMap<ProgrammerId, Sighting>);

#[derive(Debug, Clone, Copy)]
struct Sighting {
    heard: Timestamp,
    /// The last two times.
    empty_handed: [Option<Timestamp>; 2],
}

impl Sightings {
    pub(crate) fn hear(&mut self, heartbeat: &Heartbeat, now: Timestamp) {
        for beat in &heartbeat.programmers {
            let empty_handed = match &beat.gate {
                Gate::Consuming => true,
                Gate::Busy { .. } => false,
                Gate::Shut { reason, .. } => match reason {
                    // Who merely waits for an id says nothing about its holder.
                    ShutReason::Held => continue,
                    // It may be at its last task.
                    ShutReason::Draining => false,
                    ShutReason::Paused
                    | ShutReason::Config
                    | ShutReason::Clock
                    | ShutReason::Log
                    | ShutReason::Broker
                    | ShutReason::Breaker
                    | ShutReason::Budget => true,
                },
            };
            let new = Sighting {
                heard: now,
                empty_handed: [None; 2],
            };
            let seen = self.0.entry(beat.id.clone()).or_insert(new);
            seen.heard = now;
            if empty_handed {
                seen.empty_handed = [seen.empty_handed[1], Some(now)];
            }
        }
    }

    /// Whether this programmer surely holds nothing that was delivered before `since`.
    fn holds_nothing_of(&self, id: &ProgrammerId, since: Timestamp, now: Timestamp) -> bool {
        let Some(seen) = self.0.get(id) else {
            return now.since(since) >= GONE_AFTER;
        };
        seen.empty_handed[0].is_some_and(|at| at > since)
            || now.since(seen.heard.max(since)) >= GONE_AFTER
    }
}

/// What the broker and the pool file say.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    pub(crate) routes: &'a Routes,
    /// Since when each queue was found without a message that is ready, at every look; a queue that is not there counts
    /// as empty.
    pub(crate) empty_since: &'a BTreeMap<String, Timestamp>,
    /// The queue `results`, likewise.
    pub(crate) results_empty_since: Option<Timestamp>,
    /// What lasts for so long is not on its way any more.
    pub(crate) after: Duration,
}

/// What is to be published again.
pub(crate) fn due(
    fold: &Fold,
    sightings: &Sightings,
    look: &Look<'_>,
    now: Timestamp,
) -> Vec<Repair> {
    let unpublished = fold.tasks.unpublished().filter(|id| {
        let state = fold.tasks.get(id);
        state.is_some_and(|state| now.since(planned(state)) >= look.after)
    });
    let repair = |id: &TaskId, cause| Repair {
        task: id.clone(),
        generation: fold.tasks.get(id).map_or(0, |state| state.generation) + 1,
        cause,
    };
    let unpublished = unpublished.map(|id| repair(id, Cause::Unpublished));
    let lost = lost(fold, sightings, look, now);
    unpublished
        .chain(lost.into_iter().map(|id| repair(id, Cause::Lost)))
        .take(AT_ONCE)
        .collect()
}

/// When the message should have been in its queue.
fn planned(state: &TaskState) -> Timestamp {
    state.retry.as_ref().map_or(state.issued_at, |retry| {
        state.issued_at.max(Timestamp(retry.at_ms))
    })
}

fn lost<'a>(
    fold: &'a Fold,
    sightings: &Sightings,
    look: &Look<'_>,
    now: Timestamp,
) -> Vec<&'a TaskId> {
    let gone = |state: &TaskState, since: Timestamp| {
        let Some((empty_since, programmers)) = look.place_of(&state.route) else {
            return false;
        };
        let since = since.max(empty_since);
        now.since(since) >= look.after
            && programmers
                .iter()
                .all(|id| sightings.holds_nothing_of(id, since, now))
    };
    let mut names: Vec<String> = look
        .routes
        .all()
        .iter()
        .map(|route| route.name.clone())
        .collect();
    let retired = fold.retired_queues(look.routes);
    names.extend(
        retired
            .iter()
            .filter_map(|queue| queue.strip_prefix("tasks."))
            .map(str::to_owned),
    );
    let mut lost = Vec::new();
    // Where the queue holds something, its tasks are most likely there.
    for name in names.iter().filter(|name| look.place_of(name).is_some()) {
        lost.extend(fold.tasks.waiting_in(name).filter(|id| {
            fold.tasks
                .get(id)
                .is_some_and(|state| state.published && gone(state, state.issued_at))
        }));
    }
    // The result of a task that looks as if it was running may wait for a dispatcher.
    if let Some(results_empty) = look.results_empty_since {
        lost.extend(fold.tasks.running().filter_map(|(id, owner)| {
            let state = fold.tasks.get(id)?;
            let since = owner.since.max(state.issued_at).max(results_empty);
            (gone(state, since) && sightings.holds_nothing_of(&owner.programmer, since, now))
                .then_some(id)
        }));
    }
    lost
}

impl Look<'_> {
    /// Since when there is nothing where tasks of this route are, and who takes from there. A route that is not in use any
    /// more has its tasks sent on, to wherever they belong now.
    fn place_of(&self, route: &str) -> Option<(Timestamp, Vec<&ProgrammerId>)> {
        let empty_since = |name: &str| self.empty_since.get(name).copied();
        if let Some(in_use) = self.routes.all().iter().find(|known| known.name == route) {
            return Some((empty_since(route)?, in_use.eligible.iter().collect()));
        }
        let all: Option<Vec<Timestamp>> = self
            .routes
            .all()
            .iter()
            .map(|route| empty_since(&route.name))
            .collect();
        let since = all?.into_iter().chain([empty_since(route)?]).max()?;
        Some((
            since,
            self.routes
                .all()
                .iter()
                .flat_map(|route| &route.eligible)
                .collect(),
        ))
    }
}
