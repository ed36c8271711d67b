//! Owners, attempts and outcomes of tasks.
//!
//! The attempt with the highest token in the log owns the task. The first `finished` of the owner is the outcome.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, VecDeque};

use super::old_tasks::{FinishedLongAgo, OldTasks};
use super::open_tasks::OpenTasks;
use super::{Refusal, Verdict};
use crate::event::{
    ReleaseCause, TaskEvent, TaskFinished, TaskPublished, TaskReissued, TaskReleased, TaskSnapshot,
    TaskStarted, TaskSubmitted, TaskUsed,
};
use crate::id::{AttemptId, TaskId};
use crate::money::MicroUsd;
use crate::result::{ErrorKind, Status, Usage};
use crate::task_state::{Account, Outcome, Owner, Phase, TaskState};
use crate::time::Timestamp;

/// The number of finished tasks whose details are kept. Only the outcome and two hashes of older ones stay in memory.
pub const DETAILED_OUTCOMES: usize = 20_000;
/// How many attempts of a task that lost their connection do not count. After that the task itself may be the cause, and
/// lost attempts count.
pub const MOST_RELEASES: u32 = 10;
/// Bounds a question that programmers ask between two tasks.
const OLDEST_LOOKED_AT: usize = 32;

/// How many finished tasks keep their details. Only tests change it.
#[derive(Debug, Clone, Copy)]
struct MostDetailed(usize);

impl Default for MostDetailed {
    fn default() -> Self {
        Self(DETAILED_OUTCOMES)
    }
}

/// All tasks of the log.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    /// Open tasks, and finished ones whose details are kept.
    tasks: HashMap<TaskId, Box<TaskState>>,
    old: OldTasks,
    /// Finished tasks whose details are kept, oldest first.
    detailed: VecDeque<TaskId>,
    most_detailed: MostDetailed,
    open: usize,
    index: OpenTasks,
    /// The number of accepted `published` events.
    published: u64,
}

impl Tasks {
    /// The state of this task; None when the log does not know it.
    pub fn get(&self, id: &TaskId) -> Option<Cow<'_, TaskState>> {
        match self.tasks.get(id) {
            Some(state) => Some(Cow::Borrowed(state)),
            None => self.old.get(id).map(Cow::Owned),
        }
    }

    /// The open tasks, and the finished ones whose details are kept; in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&TaskId, &TaskState)> {
        self.tasks.iter().map(|(id, state)| (id, &**state))
    }

    /// The other finished tasks, roughly in the order in which they ended. Empty unless [`super::PoolState::with_list`] made
    /// the state.
    pub fn finished_long_ago(&self) -> impl Iterator<Item = FinishedLongAgo<'_>> {
        self.old.iter()
    }

    pub(super) fn keep_list(&mut self) {
        self.old.keep_list();
    }

    #[cfg(test)]
    pub(super) fn keep_details_of(&mut self, newest: usize) {
        self.most_detailed = MostDetailed(newest);
    }

    /// The number of tasks without an outcome.
    pub fn open(&self) -> usize {
        self.open
    }

    /// The tasks that have an owner now.
    pub fn running(&self) -> impl Iterator<Item = (&TaskId, &Owner)> {
        self.index
            .running()
            .filter_map(|id| Some((id, self.tasks.get(id)?.owner()?)))
    }

    /// When the oldest waiting task of this route was submitted. Tasks that came straight to the broker are not known.
    pub fn oldest_waiting(&self, route: &str) -> Option<Timestamp> {
        self.index.waiting(route)?.first().map(|(since, _)| *since)
    }

    /// The number of submitted tasks of this route without an owner.
    pub fn waiting(&self, route: &str) -> usize {
        self.index.waiting(route).map_or(0, BTreeSet::len)
    }

    /// The submitted tasks of this route without an owner, the oldest first.
    pub fn waiting_in(&self, route: &str) -> impl Iterator<Item = &TaskId> {
        self.index
            .waiting(route)
            .into_iter()
            .flatten()
            .map(|(_, id)| id)
    }

    /// Whether the message of a submitted task of this route is known to be in its queue. Looks at the oldest tasks only:
    /// behind many that are not published yet, a published one may be missed for a moment.
    pub fn has_queued(&self, route: &str) -> bool {
        let oldest = self.waiting_in(route).take(OLDEST_LOOKED_AT);
        oldest
            .filter_map(|id| self.tasks.get(id))
            .any(|state| state.is_published())
    }

    /// Submitted tasks without an owner whose deadline has passed.
    pub fn overdue(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, &TaskId)> {
        self.index
            .overdue(now)
            .map(|(deadline, id)| (*deadline, id))
    }

    /// Open tasks whose last snapshot (or first event) is older than `then`.
    pub fn stated_before(&self, then: Timestamp) -> impl Iterator<Item = (&TaskId, &TaskState)> {
        self.iter()
            .filter(move |(_, state)| !state.is_finished() && state.stated_at < then)
    }

    /// Submitted tasks without an owner whose message is not known to be in its queue, the oldest first.
    pub fn unpublished(&self) -> impl Iterator<Item = &TaskId> {
        self.index.unpublished()
    }

    /// The usage of all attempts at the task, as far as the log knows it.
    pub fn usage(&self, task: &TaskId) -> Usage {
        self.tasks
            .get(task)
            .map(|state| state.spent.usage.clone())
            .unwrap_or_default()
    }

    /// The cost of all other attempts at the task.
    pub(super) fn cost_of_others(&self, task: &TaskId, attempt: AttemptId) -> MicroUsd {
        let used = self.tasks.get(task).map(|state| &state.used);
        let others = used.into_iter().flatten().filter(|(of, _)| **of != attempt);
        others.map(|(_, account)| account.spent.cost_usd).sum()
    }

    /// The attempt that owns the task.
    pub fn owner(&self, task: &TaskId) -> Option<AttemptId> {
        Some(self.tasks.get(task)?.owner()?.attempt)
    }

    /// Whether this attempt owns the task, so that its result is the outcome.
    pub fn is_owner(&self, task: &TaskId, attempt: AttemptId) -> bool {
        self.owner(task) == Some(attempt)
    }

    /// The attempt whose result is the outcome: None while the task is open, `Some(None)` for an outcome without an attempt.
    pub fn winner(&self, task: &TaskId) -> Option<Option<AttemptId>> {
        Some(self.get(task)?.outcome()?.attempt)
    }

    /// Applies an event about a task and updates the indexes of open tasks.
    pub(super) fn decide(&mut self, event: &TaskEvent, now: Timestamp) -> Verdict {
        if !self.tasks.contains_key(event.task())
            && let Some(state) = self.old.get(event.task())
        {
            return after_the_end(event, &state);
        }
        let verdict = match event {
            TaskEvent::Submitted(submitted) => self.submitted(submitted, now),
            TaskEvent::Published(published) => self.published(published, now),
            TaskEvent::Reissued(reissued) => self.reissued(reissued, now),
            TaskEvent::Started(started) => self.started(started, now),
            TaskEvent::Released(released) => self.released(released),
            TaskEvent::Used(used) => self.used(used),
            TaskEvent::Finished(finished) => self.finished(finished, now),
            TaskEvent::Cancelled(cancelled) => self.cancelled(&cancelled.task, now),
            TaskEvent::Stated(snapshot) => self.stated(snapshot, now),
        };
        let task = event.task();
        if verdict == Verdict::Accepted
            && let Some(state) = self.tasks.get(task)
        {
            self.index.put(task, state);
        }
        verdict
    }

    fn entry(&mut self, task: &TaskId, now: Timestamp) -> &mut TaskState {
        self.tasks.entry(task.clone()).or_insert_with(|| {
            self.open += 1;
            Box::new(TaskState {
                stated_at: now,
                ..TaskState::default()
            })
        })
    }

    fn submitted(&mut self, submitted: &TaskSubmitted, now: Timestamp) -> Verdict {
        let hash = &submitted.body_hash;
        if let Some(known) = self.tasks.get(&submitted.task) {
            let same_body = known.body_hash.as_ref() == Some(hash);
            return Verdict::Refused(Refusal::Taken { same_body });
        }
        let state = self.entry(&submitted.task, now);
        state.submitted_at = Some(now);
        state.issued_at = now;
        state.deadline = submitted.deadline_ms.map(Timestamp);
        state.body_hash = Some(hash.clone());
        state.route.clone_from(&submitted.route);
        Verdict::Accepted
    }

    fn published(&mut self, event: &TaskPublished, now: Timestamp) -> Verdict {
        let Some(state) = self.tasks.get_mut(&event.task) else {
            return Verdict::Refused(Refusal::UnknownTask);
        };
        if event.generation < state.generation {
            return Verdict::Refused(Refusal::OldGeneration);
        }
        self.published += 1;
        state.place = self.published;
        state.generation = event.generation;
        state.issued_at = now;
        match &mut state.phase {
            Phase::Running { published, .. } => *published = true,
            waiting @ (Phase::Pending | Phase::Queued | Phase::RetryAt(_)) => {
                *waiting = Phase::Queued;
            }
            Phase::Finished(_) => {}
        }
        Verdict::Accepted
    }

    fn reissued(&mut self, reissued: &TaskReissued, now: Timestamp) -> Verdict {
        if reissued.retry.is_some() && !self.tasks.contains_key(&reissued.task) {
            return Verdict::Refused(Refusal::UnknownTask);
        }
        let state = self.entry(&reissued.task, now);
        if state.is_finished() {
            return Verdict::Refused(Refusal::Finished);
        }
        if reissued.generation <= state.generation {
            return Verdict::Refused(Refusal::OldGeneration);
        }
        if let Some(retry) = &reissued.retry {
            // The attempt has ended and counts. Only the owner may end it.
            if !state.is_owned_by(retry.attempt) {
                return Verdict::Refused(Refusal::Superseded);
            }
            state.past.insert(retry.attempt);
            let account = Account {
                spent: retry.spent.clone(),
                so_far: false,
            };
            state.uses(retry.attempt, account);
            state.phase = Phase::RetryAt(retry.clone());
        } else if let Phase::Running { published, .. } = &mut state.phase {
            *published = false;
        } else {
            state.phase = Phase::Pending;
        }
        state.generation = reissued.generation;
        state.issued_at = now;
        Verdict::Accepted
    }

    fn started(&mut self, started: &TaskStarted, now: Timestamp) -> Verdict {
        let token = started.token;
        let state = self.entry(&started.task, now);
        if state.is_finished() {
            return Verdict::Refused(Refusal::Finished);
        }
        if token.generation < state.generation {
            return Verdict::Refused(Refusal::OldGeneration);
        }
        if state.fence.is_some_and(|fence| token <= fence) {
            return Verdict::Refused(Refusal::Superseded);
        }
        state.generation = token.generation;
        state.attempts += 1;
        state.fence = Some(token);
        if state.body_hash.is_none() {
            state.body_hash = Some(started.body_hash.clone());
            state.route.clone_from(&started.route);
        }
        if let Some(before) = state.owner().map(|owner| owner.attempt) {
            state.past.insert(before);
            state.lost.insert(before);
        }
        let owner = Owner {
            attempt: started.attempt,
            programmer: started.programmer.clone(),
            token,
            since: now,
        };
        state.phase = Phase::Running {
            owner,
            published: true,
        };
        Verdict::Accepted
    }

    fn released(&mut self, released: &TaskReleased) -> Verdict {
        let attempt = released.attempt;
        let Some(state) = self
            .tasks
            .get_mut(&released.task)
            .filter(|state| !state.is_finished())
        else {
            return Verdict::Refused(Refusal::Superseded);
        };
        if state.is_owned_by(attempt) {
            state.past.insert(attempt);
            state.phase = Phase::waiting(state.is_published());
        } else if state.releases >= MOST_RELEASES || !state.lost.remove(&attempt) {
            return Verdict::Refused(Refusal::Superseded);
        }
        state.attempts = state.attempts.saturating_sub(1);
        state.releases += 1;
        match released.cause {
            ReleaseCause::Stopped => {}
            ReleaseCause::NoLlm => state.hand_backs += 1,
            ReleaseCause::NoSandbox => state.sandbox_hand_backs += 1,
        }
        Verdict::Accepted
    }

    /// A cancelled task accepts usage too: its attempt stops after the cancellation and reports its usage then.
    fn used(&mut self, used: &TaskUsed) -> Verdict {
        let Some(state) = self.tasks.get_mut(&used.task) else {
            return Verdict::Refused(Refusal::UnknownTask);
        };
        let ended = state.outcome().map(|outcome| outcome.status);
        if ended.is_some_and(|status| status != Status::Cancelled) {
            return Verdict::Refused(Refusal::Finished);
        }
        let (spent, so_far) = (used.spent.clone(), used.so_far);
        state.uses(used.attempt, Account { spent, so_far });
        if let Phase::Finished(outcome) = &mut state.phase {
            outcome.cost = state.spent.cost_usd;
        }
        Verdict::Accepted
    }

    fn finished(&mut self, finished: &TaskFinished, now: Timestamp) -> Verdict {
        let state = self.entry(&finished.task, now);
        if state.is_finished() {
            return Verdict::Refused(Refusal::Finished);
        }
        let programmer = match (finished.attempt, state.owner()) {
            (Some(attempt), Some(owner)) if owner.attempt == attempt => {
                Some(owner.programmer.clone())
            }
            // An attempt publishes a result only as the owner. If the log does not know the attempt, its `started` was
            // lost with the tail of the stream when a host crashed.
            (Some(attempt), None) if !state.past.contains(&attempt) => None,
            (None, None) => None,
            // Without an attempt: one has begun meanwhile, and its result will be the outcome.
            (Some(_) | None, Some(_)) | (Some(_), None) => {
                return Verdict::Refused(Refusal::Superseded);
            }
        };
        let outcome = Outcome {
            attempt: finished.attempt,
            status: finished.status,
            cost: finished.cost_usd,
            at: now,
            started_at: None,
            programmer,
            llm: finished.llm.clone(),
            error: finished.error,
        };
        self.end(&finished.task, outcome);
        Verdict::Accepted
    }

    fn stated(&mut self, snapshot: &TaskSnapshot, now: Timestamp) -> Verdict {
        let state = self.entry(&snapshot.task, now);
        if state.is_finished() {
            return Verdict::Refused(Refusal::Finished);
        }
        state.learn(&snapshot.state, now);
        Verdict::Accepted
    }

    /// The first of `cancelled` and `finished` is the outcome.
    fn cancelled(&mut self, task: &TaskId, now: Timestamp) -> Verdict {
        let Some(state) = self.tasks.get(task) else {
            return Verdict::Refused(Refusal::UnknownTask);
        };
        if state.is_finished() {
            return Verdict::Refused(Refusal::Finished);
        }
        let outcome = Outcome {
            attempt: None,
            status: Status::Cancelled,
            cost: state.spent.cost_usd,
            at: now,
            started_at: None,
            programmer: None,
            llm: None,
            error: Some(ErrorKind::Cancelled),
        };
        self.end(task, outcome);
        Verdict::Accepted
    }

    fn end(&mut self, task: &TaskId, outcome: Outcome) {
        let state = self.entry(task, outcome.at);
        if outcome.status != Status::Cancelled {
            // The result has it.
            state.used.clear();
        }
        let started_at = state.owner().map(|owner| owner.since);
        state.phase = Phase::Finished(Outcome {
            started_at,
            ..outcome
        });
        self.open -= 1;
        self.detailed.push_back(task.clone());
        self.forget_details();
    }

    /// Bounds the memory: of an old task only the outcome and two hashes are kept.
    fn forget_details(&mut self) {
        while self.detailed.len() > self.most_detailed.0 {
            let Some(oldest) = self.detailed.pop_front() else {
                return;
            };
            let Some(state) = self.tasks.remove(&oldest) else {
                continue;
            };
            if !self.old.put(&oldest, &state) {
                self.tasks.insert(oldest, Box::new(without_details(*state)));
            }
        }
        let used = self.tasks.len().max(DETAILED_OUTCOMES);
        if self.tasks.capacity() > 8 * used {
            // Most of a large backlog has ended.
            self.tasks.shrink_to(2 * used);
        }
    }
}

/// The outcome and the body hash.
fn without_details(state: TaskState) -> TaskState {
    let mut phase = state.phase;
    if let Phase::Finished(outcome) = &mut phase {
        (outcome.programmer, outcome.llm) = (None, None);
    }
    TaskState {
        body_hash: state.body_hash,
        phase,
        ..TaskState::default()
    }
}

/// The verdict on an event about a task whose details are forgotten. It changes nothing.
fn after_the_end(event: &TaskEvent, state: &TaskState) -> Verdict {
    match event {
        TaskEvent::Submitted(submitted) => {
            let same_body = state.body_hash.as_ref() == Some(&submitted.body_hash);
            Verdict::Refused(Refusal::Taken { same_body })
        }
        TaskEvent::Published(_) => Verdict::Accepted,
        TaskEvent::Used(_)
            if state
                .outcome()
                .is_some_and(|outcome| outcome.status == Status::Cancelled) =>
        {
            Verdict::Accepted
        }
        TaskEvent::Released(_) => Verdict::Refused(Refusal::Superseded),
        TaskEvent::Used(_)
        | TaskEvent::Reissued(_)
        | TaskEvent::Started(_)
        | TaskEvent::Finished(_)
        | TaskEvent::Cancelled(_)
        | TaskEvent::Stated(_) => Verdict::Refused(Refusal::Finished),
    }
}
