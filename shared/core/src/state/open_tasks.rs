//! Indexes of the tasks without an outcome, so that frequent questions need not visit every task of the log.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::tasks::TaskState;
use crate::id::TaskId;
use crate::time::Timestamp;

type Place = (Timestamp, TaskId);

#[derive(Debug, Clone, Default)]
pub(super) struct OpenTasks {
    /// Tasks that have an owner.
    running: HashSet<TaskId>,
    /// Submitted tasks without an owner, by route and then by age.
    waiting: HashMap<String, BTreeSet<Place>>,
    /// The waiting tasks that have a deadline, in the order of the deadlines.
    deadlines: BTreeSet<Place>,
    /// The waiting tasks whose message is not known to be in its queue.
    unpublished: BTreeSet<Place>,
}

fn set(places: &mut BTreeSet<Place>, place: Place, there: bool) {
    if there {
        places.insert(place);
    } else {
        places.remove(&place);
    }
}

impl OpenTasks {
    /// Updates the indexes after a task has changed.
    pub(super) fn put(&mut self, id: &TaskId, state: &TaskState) {
        let open = state.outcome.is_none();
        if open && state.owner.is_some() {
            self.running.insert(id.clone());
        } else {
            self.running.remove(id);
        }
        let Some(since) = state.submitted_at else {
            return;
        };
        let waits = open && state.owner.is_none();
        if !waits && !self.waiting.contains_key(&state.route) {
            return;
        }
        set(
            self.waiting.entry(state.route.clone()).or_default(),
            (since, id.clone()),
            waits,
        );
        set(
            &mut self.unpublished,
            (since, id.clone()),
            waits && !state.published,
        );
        if let Some(deadline) = state.deadline {
            set(&mut self.deadlines, (deadline, id.clone()), waits);
        }
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &TaskId> {
        self.running.iter()
    }

    pub(super) fn waiting(&self, route: &str) -> Option<&BTreeSet<Place>> {
        self.waiting.get(route)
    }

    pub(super) fn overdue(&self, now: Timestamp) -> impl Iterator<Item = &Place> {
        self.deadlines
            .iter()
            .take_while(move |(deadline, _)| *deadline <= now)
    }

    pub(super) fn unpublished(&self) -> impl Iterator<Item = &TaskId> {
        self.unpublished.iter().map(|(_, id)| id)
    }
}
