//! Finds tasks that have lost their message. Pure.
//!
//! A message that is in no queue may still be with a programmer that has not claimed it yet. So a
//! message counts as lost only after every programmer of the route has reported twice that it has
//! no task. A false alarm is harmless: the generation decides between two messages.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pool_core::heartbeat::{Gate, Heartbeat, ShutReason};
use pool_core::id::{ProgrammerId, TaskId};
use pool_core::routing::Routes;
use pool_core::state::{Phase, PoolState, TaskState};
use pool_core::time::Timestamp;

/// A worker that was silent this long has lost its connection, and the broker has taken back its
/// messages.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// The most tasks per round; the rest is still due in the next.
const AT_ONCE: usize = 1_000;

/// A task to publish again, with this generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repair {
    pub(crate) task: TaskId,
    pub(crate) generation: u32,
    pub(crate) cause: RepairCause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RepairCause {
    /// The process that appended `submitted` or `reissued` has not published the message.
    Unpublished,
    /// The message was in its queue, and is now neither there nor with a programmer.
    Lost,
}

/// When each programmer last reported that it has no task.
#[derive(Debug, Default)]
pub struct PresenceTracker(Mutex<HashMap<ProgrammerId, Sighting>>);

#[derive(Debug, Clone, Copy)]
struct Sighting {
    heard: Timestamp,
    /// The last two times.
    empty_handed: [Option<Timestamp>; 2],
}

impl PresenceTracker {
    fn sightings(&self) -> MutexGuard<'_, HashMap<ProgrammerId, Sighting>> {
        // Sightings are valid one by one, so a panic elsewhere does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a heartbeat that has just arrived.
    pub fn hear(&self, heartbeat: &Heartbeat, now: Timestamp) {
        let mut sightings = self.sightings();
        for beat in &heartbeat.programmers {
            let empty_handed = match &beat.gate {
                Gate::Consuming => true,
                Gate::Busy { .. } => false,
                Gate::Shut { reason, .. } => match reason {
                    // A process that waits for an id says nothing about the holder of the id.
                    ShutReason::Held => continue,
                    // It may still work on its last task.
                    ShutReason::Draining => false,
                    ShutReason::Paused
                    | ShutReason::Config
                    | ShutReason::Clock
                    | ShutReason::Log
                    | ShutReason::Broker
                    | ShutReason::Sandbox
                    | ShutReason::Breaker
                    | ShutReason::Budget => true,
                },
            };
            let new = Sighting {
                heard: now,
                empty_handed: [None; 2],
            };
            let seen = sightings.entry(beat.id.clone()).or_insert(new);
            seen.heard = now;
            if empty_handed {
                seen.empty_handed = [seen.empty_handed[1], Some(now)];
            }
        }
    }

    /// Whether this programmer certainly holds nothing that was delivered before `since`.
    fn holds_nothing_of(&self, id: &ProgrammerId, since: Timestamp, now: Timestamp) -> bool {
        let Some(seen) = self.sightings().get(id).copied() else {
            return now.since(since) >= GONE_AFTER;
        };
        seen.empty_handed[0].is_some_and(|at| at > since)
            || now.since(seen.heard.max(since)) >= GONE_AFTER
    }
}

/// The present state of the queues, and the routes of the pool file.
#[derive(Debug)]
pub(crate) struct QueueObservation<'a> {
    pub(crate) routes: &'a Routes,
    /// Since when each queue has been without a ready message at every check. A missing queue
    /// counts as empty.
    pub(crate) empty_since: &'a BTreeMap<String, Timestamp>,
    /// The same for the queue `results`.
    pub(crate) results_empty_since: Option<Timestamp>,
    /// A state that lasts this long is not a message on its way.
    pub(crate) after: Duration,
}

/// The tasks to publish again.
pub(crate) fn due(
    fold: &PoolState,
    presence: &PresenceTracker,
    look: &QueueObservation<'_>,
    now: Timestamp,
) -> Vec<Repair> {
    let unpublished = fold.tasks.unpublished().filter(|id| {
        let state = fold.tasks.get(id);
        state.is_some_and(|state| now.since(planned(&state)) >= look.after)
    });
    let repair = |id: &TaskId, cause| Repair {
        task: id.clone(),
        generation: fold.tasks.get(id).map_or(0, |state| state.generation) + 1,
        cause,
    };
    let unpublished = unpublished.map(|id| repair(id, RepairCause::Unpublished));
    let lost = lost(fold, presence, look, now);
    unpublished
        .chain(lost.into_iter().map(|id| repair(id, RepairCause::Lost)))
        .take(AT_ONCE)
        .collect()
}

/// When the message should have been in its queue.
fn planned(state: &TaskState) -> Timestamp {
    match &state.phase {
        Phase::RetryAt(retry) => state.issued_at.max(Timestamp(retry.at_ms)),
        Phase::Pending | Phase::Queued | Phase::Running { .. } | Phase::Finished(_) => {
            state.issued_at
        }
    }
}

fn lost<'a>(
    fold: &'a PoolState,
    presence: &PresenceTracker,
    look: &QueueObservation<'_>,
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
                .all(|id| presence.holds_nothing_of(id, since, now))
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
    // If the queue has messages, its tasks are most likely among them.
    for name in names.iter().filter(|name| look.place_of(name).is_some()) {
        lost.extend(fold.tasks.waiting_in(name).filter(|id| {
            fold.tasks
                .get(id)
                .is_some_and(|state| state.is_published() && gone(&state, state.issued_at))
        }));
    }
    // A task that looks as if it was running may have a result that waits for a dispatcher.
    if let Some(results_empty) = look.results_empty_since {
        lost.extend(fold.tasks.running().filter_map(|(id, owner)| {
            let state = fold.tasks.get(id)?;
            let since = owner.since.max(state.issued_at).max(results_empty);
            (gone(&state, since) && presence.holds_nothing_of(&owner.programmer, since, now))
                .then_some(id)
        }));
    }
    lost
}

impl QueueObservation<'_> {
    /// Since when the queues that may have tasks of this route are empty, and which programmers
    /// consume them. The tasks of a route that is no longer used are moved to other queues.
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
