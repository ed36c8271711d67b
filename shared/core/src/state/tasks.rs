//! Owners, attempts and outcomes of tasks.
//!
//! The attempt with the highest token in the log owns the task. The first `finished` of the owner is the outcome.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::open_tasks::OpenTasks;
use super::{Refusal, Verdict};
use crate::event::{Account, Event, OpenTask, Retry, Spent};
use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId, Token};
use crate::money::MicroUsd;
use crate::result::{ErrorKind, Status, Usage};
use crate::time::Timestamp;

/// The number of finished tasks whose details are kept. Of older ones only outcome and body hash stay in memory.
pub const DETAILED_OUTCOMES: usize = 20_000;
/// How many attempts of a task that lost their connection do not count. After that the task itself may be the cause, and
/// lost attempts count.
pub const MOST_RELEASES: u32 = 10;

/// The attempt that owns a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The attempt.
    pub attempt: AttemptId,
    /// The programmer that makes it.
    pub programmer: ProgrammerId,
    /// With which it claimed the task.
    pub token: Token,
    /// When it claimed the task, by the log's time.
    pub since: Timestamp,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The attempt whose result this is; None: rejected, expired or cancelled.
    pub attempt: Option<AttemptId>,
    /// The status of the result.
    pub status: Status,
    /// The cost of all attempts.
    pub cost: MicroUsd,
    /// When it was decided, by the log's time.
    pub at: Timestamp,
    /// When the attempt that owned the task at that moment began.
    pub started_at: Option<Timestamp>,
    /// The programmer of the attempt.
    pub programmer: Option<ProgrammerId>,
    /// The LLM of the result.
    pub llm: Option<LlmName>,
    /// The error kind of the result.
    pub error: Option<ErrorKind>,
}

/// The state of one task: in full while it has no outcome and for the newest [`DETAILED_OUTCOMES`] finished ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskState {
    /// When `submitted` was appended; None for a task that came straight to the broker.
    pub submitted_at: Option<Timestamp>,
    /// When the last snapshot of the task was appended; without one, its first event.
    pub stated_at: Timestamp,
    /// Tells a repeated submission from another task with the same id.
    pub body_hash: Option<String>,
    /// The route of its message.
    pub route: String,
    /// The task expires if it is not started by this moment. Only a submitted task has one here.
    pub deadline: Option<Timestamp>,
    /// The highest generation in the log.
    pub generation: u32,
    /// Whether the message of this generation is known to be in its queue.
    pub published: bool,
    /// When `generation` or `published` last changed.
    pub issued_at: Timestamp,
    /// The last failed attempt, while the task waits for the next one.
    pub retry: Option<Retry>,
    /// The fence: the highest token that ever owned the task. It stays when the owner is gone.
    pub fence: Option<Token>,
    /// The attempt that owns the task now.
    pub owner: Option<Owner>,
    /// Attempts that no longer own the task.
    pub(super) past: BTreeSet<AttemptId>,
    /// Those of `past` that lost the task to another attempt and have not released it since.
    pub(super) lost: BTreeSet<AttemptId>,
    /// The usage of each attempt, by its last `used` event.
    pub(super) used: BTreeMap<AttemptId, Account>,
    /// The sum of `used`.
    pub spent: Spent,
    /// Attempts that were started and not released.
    pub attempts: u32,
    /// How often an attempt gave the task back.
    pub releases: u32,
    /// Those of `releases` for which no LLM was available.
    pub hand_backs: u32,
    /// The outcome; None while the task is open.
    pub outcome: Option<Outcome>,
}

impl TaskState {
    /// Sets the usage of one attempt.
    pub(super) fn uses(&mut self, attempt: AttemptId, account: Account) {
        self.used.insert(attempt, account);
        self.spent = self
            .used
            .values()
            .fold(Spent::default(), |sum, account| sum.and(&account.spent));
    }

    /// The usage of all attempts whose end is in the log. Attempts that died, of which the log has only an upper bound, are
    /// left out.
    pub fn spent_for_sure(&self) -> Spent {
        let sure = self.used.values().filter(|account| !account.so_far);
        sure.fold(Spent::default(), |sum, account| sum.and(&account.spent))
    }
}

/// All tasks of the log.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tasks: HashMap<TaskId, TaskState>,
    /// Finished tasks whose details are kept, oldest first.
    detailed: VecDeque<TaskId>,
    open: usize,
    index: OpenTasks,
}

impl Tasks {
    /// The state of this task; None when the log does not know it.
    pub fn get(&self, id: &TaskId) -> Option<&TaskState> {
        self.tasks.get(id)
    }

    /// All tasks of the log, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&TaskId, &TaskState)> {
        self.tasks.iter()
    }

    /// The number of tasks without an outcome.
    pub fn open(&self) -> usize {
        self.open
    }

    /// The tasks that have an owner now.
    pub fn running(&self) -> impl Iterator<Item = (&TaskId, &Owner)> {
        self.index
            .running()
            .filter_map(|id| Some((id, self.tasks.get(id)?.owner.as_ref()?)))
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

    /// Submitted tasks without an owner whose deadline has passed.
    pub fn overdue(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, &TaskId)> {
        self.index
            .overdue(now)
            .map(|(deadline, id)| (*deadline, id))
    }

    /// Open tasks whose last snapshot (or first event) is older than `then`.
    pub fn stated_before(&self, then: Timestamp) -> impl Iterator<Item = (&TaskId, &TaskState)> {
        self.tasks
            .iter()
            .filter(move |(_, state)| state.outcome.is_none() && state.stated_at < then)
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
    pub(super) fn owner(&self, task: &TaskId) -> Option<AttemptId> {
        self.tasks
            .get(task)?
            .owner
            .as_ref()
            .map(|owner| owner.attempt)
    }

    /// Whether this attempt owns the task, so that its result is the outcome.
    pub fn is_owner(&self, task: &TaskId, attempt: AttemptId) -> bool {
        self.tasks.get(task).is_some_and(|state| {
            state.outcome.is_none() && state.owner.as_ref().is_some_and(|o| o.attempt == attempt)
        })
    }

    /// The attempt whose result is the outcome: None while the task is open, `Some(None)` for an outcome without an attempt.
    pub fn winner(&self, task: &TaskId) -> Option<Option<AttemptId>> {
        self.tasks
            .get(task)
            .and_then(|state| state.outcome.as_ref())
            .map(|outcome| outcome.attempt)
    }

    /// Applies an event about a task and updates the indexes of open tasks.
    pub(super) fn decide(&mut self, decision: &Event, now: Timestamp) -> Verdict {
        let verdict = self.decide_one(decision, now);
        if let (Verdict::Accepted, Some(task)) = (verdict, decision.task())
            && let Some(state) = self.tasks.get(task)
        {
            self.index.put(task, state);
        }
        verdict
    }

    fn decide_one(&mut self, decision: &Event, now: Timestamp) -> Verdict {
        match decision {
            Event::Submitted {
                task,
                body_hash,
                route,
                deadline_ms,
            } => self.submitted(task, (body_hash, route), deadline_ms.map(Timestamp), now),
            Event::Published { task, generation } => self.published(task, *generation, now),
            Event::Reissued {
                task,
                generation,
                retry,
            } => self.reissued(task, *generation, retry.as_ref(), now),
            Event::Started {
                task,
                attempt,
                programmer,
                token,
                route,
                body_hash,
            } => {
                let owner = Owner {
                    attempt: *attempt,
                    programmer: programmer.clone(),
                    token: *token,
                    since: now,
                };
                self.started(task, owner, (route, body_hash))
            }
            Event::Released {
                task,
                attempt,
                no_llm,
            } => self.released(task, *attempt, *no_llm),
            Event::Used {
                task,
                attempt,
                spent,
                so_far,
            } => self.used(
                task,
                *attempt,
                Account {
                    spent: spent.clone(),
                    so_far: *so_far,
                },
            ),
            Event::Finished {
                task,
                attempt,
                status,
                llm,
                cost_usd,
                error,
            } => {
                let outcome = Outcome {
                    attempt: *attempt,
                    status: *status,
                    cost: *cost_usd,
                    at: now,
                    started_at: None,
                    programmer: None,
                    llm: llm.clone(),
                    error: *error,
                };
                self.finished(task, outcome)
            }
            Event::Cancelled { task } => self.cancelled(task, now),
            Event::Stated { task, state } => self.stated(task, state, now),
            Event::Tick
            | Event::Configured { .. }
            | Event::Paused { .. }
            | Event::Resumed { .. }
            | Event::Reserved { .. }
            | Event::Settled { .. }
            | Event::BudgetSet { .. }
            | Event::LlmFailed { .. }
            | Event::LlmAnswered { .. }
            | Event::Probing { .. }
            | Event::Probed { .. }
            | Event::Up { .. }
            | Event::Unknown => Verdict::Accepted,
        }
    }

    fn entry(&mut self, task: &TaskId, now: Timestamp) -> &mut TaskState {
        self.tasks.entry(task.clone()).or_insert_with(|| {
            self.open += 1;
            TaskState {
                stated_at: now,
                ..TaskState::default()
            }
        })
    }

    fn submitted(
        &mut self,
        task: &TaskId,
        (body_hash, route): (&str, &str),
        deadline: Option<Timestamp>,
        now: Timestamp,
    ) -> Verdict {
        if let Some(known) = self.tasks.get(task) {
            let same_body = known.body_hash.as_deref() == Some(body_hash);
            return Verdict::Refused(Refusal::Taken { same_body });
        }
        let state = self.entry(task, now);
        state.submitted_at = Some(now);
        state.issued_at = now;
        state.deadline = deadline;
        state.body_hash = Some(body_hash.to_owned());
        route.clone_into(&mut state.route);
        Verdict::Accepted
    }

    fn published(&mut self, task: &TaskId, generation: u32, now: Timestamp) -> Verdict {
        let Some(state) = self.tasks.get_mut(task) else {
            return Verdict::Refused(Refusal::UnknownTask);
        };
        if generation < state.generation {
            return Verdict::Refused(Refusal::OldGeneration);
        }
        state.generation = generation;
        state.published = true;
        state.issued_at = now;
        state.retry = None;
        Verdict::Accepted
    }

    fn reissued(
        &mut self,
        task: &TaskId,
        generation: u32,
        retry: Option<&Retry>,
        now: Timestamp,
    ) -> Verdict {
        if retry.is_some() && !self.tasks.contains_key(task) {
            return Verdict::Refused(Refusal::UnknownTask);
        }
        let state = self.entry(task, now);
        if state.outcome.is_some() {
            return Verdict::Refused(Refusal::Finished);
        }
        if generation <= state.generation {
            return Verdict::Refused(Refusal::OldGeneration);
        }
        if let Some(retry) = retry {
            // The attempt has ended and counts. Only the owner may end it.
            let Some(owner) = state.owner.take_if(|owner| owner.attempt == retry.attempt) else {
                return Verdict::Refused(Refusal::Superseded);
            };
            state.past.insert(owner.attempt);
            state.uses(
                owner.attempt,
                Account {
                    spent: retry.spent.clone(),
                    so_far: false,
                },
            );
        }
        state.generation = generation;
        state.published = false;
        state.issued_at = now;
        state.retry = retry.cloned();
        Verdict::Accepted
    }

    fn started(
        &mut self,
        task: &TaskId,
        owner: Owner,
        (route, body_hash): (&str, &str),
    ) -> Verdict {
        let state = self.entry(task, owner.since);
        if state.outcome.is_some() {
            return Verdict::Refused(Refusal::Finished);
        }
        if owner.token.generation < state.generation {
            return Verdict::Refused(Refusal::OldGeneration);
        }
        if state.fence.is_some_and(|fence| owner.token <= fence) {
            return Verdict::Refused(Refusal::Superseded);
        }
        state.generation = owner.token.generation;
        state.published = true;
        state.retry = None;
        state.attempts += 1;
        state.fence = Some(owner.token);
        if state.body_hash.is_none() {
            state.body_hash = Some(body_hash.to_owned());
            route.clone_into(&mut state.route);
        }
        if let Some(before) = state.owner.replace(owner) {
            state.past.insert(before.attempt);
            state.lost.insert(before.attempt);
        }
        Verdict::Accepted
    }

    fn released(&mut self, task: &TaskId, attempt: AttemptId, no_llm: bool) -> Verdict {
        let Some(state) = self
            .tasks
            .get_mut(task)
            .filter(|state| state.outcome.is_none())
        else {
            return Verdict::Refused(Refusal::Superseded);
        };
        if let Some(owner) = state.owner.take_if(|owner| owner.attempt == attempt) {
            state.past.insert(owner.attempt);
        } else if state.releases >= MOST_RELEASES || !state.lost.remove(&attempt) {
            return Verdict::Refused(Refusal::Superseded);
        }
        state.attempts = state.attempts.saturating_sub(1);
        state.releases += 1;
        state.hand_backs += u32::from(no_llm);
        Verdict::Accepted
    }

    /// A cancelled task accepts usage too: its attempt stops after the cancellation and reports its usage then.
    fn used(&mut self, task: &TaskId, attempt: AttemptId, account: Account) -> Verdict {
        let Some(state) = self.tasks.get_mut(task) else {
            return Verdict::Refused(Refusal::UnknownTask);
        };
        if state
            .outcome
            .as_ref()
            .is_some_and(|outcome| outcome.status != Status::Cancelled)
        {
            return Verdict::Refused(Refusal::Finished);
        }
        state.uses(attempt, account);
        if let Some(outcome) = &mut state.outcome {
            outcome.cost = state.spent.cost_usd;
        }
        Verdict::Accepted
    }

    fn finished(&mut self, task: &TaskId, mut outcome: Outcome) -> Verdict {
        let state = self.entry(task, outcome.at);
        if state.outcome.is_some() {
            return Verdict::Refused(Refusal::Finished);
        }
        let owner = state.owner.as_ref();
        if let Some(attempt) = outcome.attempt {
            match owner {
                Some(owner) if owner.attempt == attempt => {
                    outcome.programmer = Some(owner.programmer.clone())
                }
                // An attempt publishes a result only as the owner. If the log does not know the attempt, its `started` was
                // lost with the tail of the stream when a host crashed.
                None if !state.past.contains(&attempt) => {}
                Some(_) | None => return Verdict::Refused(Refusal::Superseded),
            }
        } else if owner.is_some() {
            // An attempt has begun meanwhile: its result will be the outcome.
            return Verdict::Refused(Refusal::Superseded);
        }
        self.end(task, outcome);
        Verdict::Accepted
    }

    fn stated(&mut self, task: &TaskId, said: &OpenTask, now: Timestamp) -> Verdict {
        if self
            .tasks
            .get(task)
            .is_some_and(|state| state.outcome.is_some())
        {
            return Verdict::Refused(Refusal::Finished);
        }
        self.entry(task, now).learn(said, now);
        Verdict::Accepted
    }

    /// The first of `cancelled` and `finished` is the outcome.
    fn cancelled(&mut self, task: &TaskId, now: Timestamp) -> Verdict {
        let cost = match self.tasks.get(task) {
            None => return Verdict::Refused(Refusal::UnknownTask),
            Some(state) if state.outcome.is_some() => return Verdict::Refused(Refusal::Finished),
            Some(state) => state.spent.cost_usd,
        };
        let error = Some(ErrorKind::Cancelled);
        let (attempt, programmer, llm) = (None, None, None);
        let status = Status::Cancelled;
        let outcome = Outcome {
            attempt,
            status,
            cost,
            at: now,
            started_at: None,
            programmer,
            llm,
            error,
        };
        self.end(task, outcome);
        Verdict::Accepted
    }

    fn end(&mut self, task: &TaskId, outcome: Outcome) {
        let state = self.entry(task, outcome.at);
        let started_at = state.owner.take().map(|owner| owner.since);
        state.retry = None;
        if outcome.status != Status::Cancelled {
            // The result has it.
            state.used.clear();
        }
        state.outcome = Some(Outcome {
            started_at,
            ..outcome
        });
        self.open -= 1;
        self.detailed.push_back(task.clone());
        self.forget_details();
    }

    /// Bounds the memory: of an old task only the outcome and the body hash are kept.
    fn forget_details(&mut self) {
        while self.detailed.len() > DETAILED_OUTCOMES {
            let Some(oldest) = self.detailed.pop_front() else {
                return;
            };
            if let Some(state) = self.tasks.get_mut(&oldest) {
                let body_hash = state.body_hash.take();
                let outcome = state.outcome.take().map(|outcome| Outcome {
                    programmer: None,
                    llm: None,
                    ..outcome
                });
                *state = TaskState {
                    body_hash,
                    outcome,
                    ..TaskState::default()
                };
            }
        }
    }
}
