//! Owners, attempts and outcomes of tasks.
//!
//! A task belongs to the attempt with the highest token in the log. The first `finished` of the owner is the outcome.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use super::{Refusal, Verdict};
use crate::event::Decision;
use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId, Token};
use crate::money::MicroUsd;
use crate::result::{ErrorKind, Status};
use crate::time::Timestamp;

/// Of so many finished tasks the details are kept; of older ones only what decides.
pub const DETAILED_OUTCOMES: usize = 20_000;

/// The attempt that owns a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub attempt: AttemptId,
    pub programmer: ProgrammerId,
    pub token: Token,
    pub since: Timestamp,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// None: decided without an attempt (rejected, expired, cancelled while waiting).
    pub attempt: Option<AttemptId>,
    pub status: Status,
    pub cost: MicroUsd,
    pub at: Timestamp,
    pub programmer: Option<ProgrammerId>,
    pub llm: Option<LlmName>,
    pub error: Option<ErrorKind>,
}

/// What the log says about one task that has no outcome yet, or had one not long ago.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskState {
    /// None: published straight to the broker.
    pub submitted_at: Option<Timestamp>,
    pub body_hash: Option<String>,
    pub route: String,
    /// The highest generation in the log, and whether it is known to be in its queue.
    pub generation: u32,
    pub published: bool,
    /// The highest token that ever owned the task: the fence, which stays when the owner goes.
    pub fence: Option<Token>,
    pub owner: Option<Owner>,
    /// Attempts that owned it once and do not any more.
    past: Vec<AttemptId>,
    /// Attempts that were started and not released.
    pub attempts: u32,
    /// How often it was handed back by its owner, and how often of these because no LLM was left for it.
    pub releases: u32,
    pub hand_backs: u32,
    pub outcome: Option<Outcome>,
}

/// All tasks of the log.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tasks: HashMap<TaskId, TaskState>,
    /// Finished tasks whose details are kept, oldest first.
    detailed: VecDeque<TaskId>,
    open: usize,
    /// Tasks that have an owner.
    running: HashSet<TaskId>,
    /// Submitted tasks that nobody owns, by route and then by age.
    waiting: HashMap<String, BTreeSet<(Timestamp, TaskId)>>,
}

impl Tasks {
    pub fn get(&self, id: &TaskId) -> Option<&TaskState> {
        self.tasks.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&TaskId, &TaskState)> {
        self.tasks.iter()
    }

    /// Tasks without an outcome.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Tasks that have an owner now.
    pub fn running(&self) -> impl Iterator<Item = (&TaskId, &Owner)> {
        self.running.iter().filter_map(|id| Some((id, self.tasks.get(id)?.owner.as_ref()?)))
    }

    /// When the oldest task of this route that nobody has started was submitted; of tasks that the log knows.
    pub fn oldest_waiting(&self, route: &str) -> Option<Timestamp> {
        self.waiting.get(route)?.first().map(|(since, _)| *since)
    }

    /// How many tasks of this route wait, as far as the log knows.
    pub fn waiting(&self, route: &str) -> usize {
        self.waiting.get(route).map_or(0, BTreeSet::len)
    }

    /// The attempt that owns the task.
    pub(super) fn owner(&self, task: &TaskId) -> Option<AttemptId> {
        self.tasks.get(task)?.owner.as_ref().map(|owner| owner.attempt)
    }

    /// Whether this attempt is the owner of the task and may bring about its outcome.
    pub fn is_owner(&self, task: &TaskId, attempt: AttemptId) -> bool {
        self.tasks
            .get(task)
            .is_some_and(|state| state.outcome.is_none() && state.owner.as_ref().is_some_and(|o| o.attempt == attempt))
    }

    /// The attempt whose result is the outcome; `Some(None)` when it was decided without one.
    pub fn winner(&self, task: &TaskId) -> Option<Option<AttemptId>> {
        self.tasks.get(task).and_then(|state| state.outcome.as_ref()).map(|outcome| outcome.attempt)
    }

    /// Decides, and keeps the two indexes of open tasks right.
    pub(super) fn decide(&mut self, decision: &Decision, now: Timestamp) -> Verdict {
        let verdict = self.decide_one(decision, now);
        if let (Verdict::Accepted, Some(task)) = (verdict, decision.task()) {
            self.index(task);
        }
        verdict
    }

    fn index(&mut self, id: &TaskId) {
        let Some(state) = self.tasks.get(id) else { return };
        let open = state.outcome.is_none();
        if open && state.owner.is_some() {
            self.running.insert(id.clone());
        } else {
            self.running.remove(id);
        }
        let Some(since) = state.submitted_at else { return };
        let place = (since, id.clone());
        if open && state.owner.is_none() {
            self.waiting.entry(state.route.clone()).or_default().insert(place);
        } else if let Some(route) = self.waiting.get_mut(&state.route) {
            route.remove(&place);
        }
    }

    fn decide_one(&mut self, decision: &Decision, now: Timestamp) -> Verdict {
        match decision {
            Decision::Submitted { task, body_hash, route } => self.submitted(task, body_hash, route, now),
            Decision::Published { task, generation } => self.published(task, *generation),
            Decision::Reissued { task, generation } => self.reissued(task, *generation),
            Decision::Started { task, attempt, programmer, token, route, body_hash } => {
                let owner = Owner { attempt: *attempt, programmer: programmer.clone(), token: *token, since: now };
                self.started(task, owner, (route, body_hash))
            }
            Decision::Released { task, attempt, no_llm } => self.released(task, *attempt, *no_llm),
            Decision::Finished { task, attempt, status, llm, cost_usd, error } => {
                let outcome = Outcome {
                    attempt: *attempt,
                    status: *status,
                    cost: *cost_usd,
                    at: now,
                    programmer: None,
                    llm: llm.clone(),
                    error: *error,
                };
                self.finished(task, outcome)
            }
            Decision::Tick
            | Decision::Configured { .. }
            | Decision::Reserved { .. }
            | Decision::Settled { .. }
            | Decision::BudgetSet { .. }
            | Decision::LlmFailed { .. }
            | Decision::Probing { .. }
            | Decision::Probed { .. }
            | Decision::Up { .. }
            | Decision::Unknown => Verdict::Accepted,
        }
    }

    fn entry(&mut self, task: &TaskId) -> &mut TaskState {
        self.tasks.entry(task.clone()).or_insert_with(|| {
            self.open += 1;
            TaskState::default()
        })
    }

    fn submitted(&mut self, task: &TaskId, body_hash: &str, route: &str, now: Timestamp) -> Verdict {
        if let Some(known) = self.tasks.get(task) {
            let same_body = known.body_hash.as_deref() == Some(body_hash);
            return Verdict::Refused(Refusal::Taken { same_body });
        }
        let state = self.entry(task);
        state.submitted_at = Some(now);
        state.body_hash = Some(body_hash.to_owned());
        route.clone_into(&mut state.route);
        Verdict::Accepted
    }

    fn published(&mut self, task: &TaskId, generation: u32) -> Verdict {
        let Some(state) = self.tasks.get_mut(task) else { return Verdict::Refused(Refusal::UnknownTask) };
        if generation < state.generation {
            return Verdict::Refused(Refusal::OldGeneration);
        }
        state.generation = generation;
        state.published = true;
        Verdict::Accepted
    }

    fn reissued(&mut self, task: &TaskId, generation: u32) -> Verdict {
        let state = self.entry(task);
        if state.outcome.is_some() {
            return Verdict::Refused(Refusal::Finished);
        }
        if generation <= state.generation {
            return Verdict::Refused(Refusal::OldGeneration);
        }
        state.generation = generation;
        state.published = false;
        Verdict::Accepted
    }

    fn started(&mut self, task: &TaskId, owner: Owner, (route, body_hash): (&str, &str)) -> Verdict {
        let state = self.entry(task);
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
        state.attempts += 1;
        state.fence = Some(owner.token);
        if state.body_hash.is_none() {
            state.body_hash = Some(body_hash.to_owned());
            route.clone_into(&mut state.route);
        }
        state.past.extend(state.owner.replace(owner).map(|owner| owner.attempt));
        Verdict::Accepted
    }

    fn released(&mut self, task: &TaskId, attempt: AttemptId, no_llm: bool) -> Verdict {
        if !self.is_owner(task, attempt) {
            return Verdict::Refused(Refusal::Superseded);
        }
        let state = self.entry(task);
        state.past.extend(state.owner.take().map(|owner| owner.attempt));
        state.attempts -= 1;
        state.releases += 1;
        state.hand_backs += u32::from(no_llm);
        Verdict::Accepted
    }

    fn finished(&mut self, task: &TaskId, mut outcome: Outcome) -> Verdict {
        let state = self.entry(task);
        if state.outcome.is_some() {
            return Verdict::Refused(Refusal::Finished);
        }
        let owner = state.owner.as_ref();
        if let Some(attempt) = outcome.attempt {
            match owner {
                Some(owner) if owner.attempt == attempt => outcome.programmer = Some(owner.programmer.clone()),
                // Only an owner brings a result. Of one that the log has never heard of the `started` was lost, with the
                // tail of the stream on a host that crashed.
                None if !state.past.contains(&attempt) => {}
                Some(_) | None => return Verdict::Refused(Refusal::Superseded),
            }
        } else if owner.is_some() {
            // Decided without an attempt, but one has begun meanwhile: it decides.
            return Verdict::Refused(Refusal::Superseded);
        }
        state.owner = None;
        state.outcome = Some(outcome);
        self.open -= 1;
        self.detailed.push_back(task.clone());
        self.forget_details();
        Verdict::Accepted
    }

    /// Bounded memory: of an old outcome only what decides is kept.
    fn forget_details(&mut self) {
        while self.detailed.len() > DETAILED_OUTCOMES {
            let Some(oldest) = self.detailed.pop_front() else { return };
            if let Some(state) = self.tasks.get_mut(&oldest) {
                let body_hash = state.body_hash.take();
                let outcome = state.outcome.take().map(|outcome| Outcome { programmer: None, llm: None, ..outcome });
                *state = TaskState { body_hash, outcome, ..TaskState::default() };
            }
        }
    }
}
