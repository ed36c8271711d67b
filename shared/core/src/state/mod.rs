//! The fold: the pure function that turns the event log into the state of the pool.
//!
//! Every process applies the same events in the same order, so all of them hold the same state and draw the same
//! conclusions, without a leader or a lock. Nothing here reads a clock, a file or a random number. [`PoolState::apply`] gives
//! for every event its [`Verdict`]: whether the event took effect at its place in the log.
//!
//! `tasks` decides about owners, attempts and outcomes, `budget` about money, `breaker` about failing LLMs.
//!
//! ```
//! use pool_core::event::{EmitterId, Event, EventBatch, TaskFinished, TaskStarted};
//! use pool_core::state::{PoolState, Refusal, Verdict};
//! use pool_core::id::{AttemptId, ProgrammerId, TaskId, Token};
//! use pool_core::{money::MicroUsd, result::Status};
//!
//! let task = TaskId::new("fix-42")?;
//! let started = |attempt, count| Event::from(TaskStarted {
//!     task: task.clone(),
//!     attempt: AttemptId::from_u128(attempt),
//!     programmer: ProgrammerId::new("001").unwrap(),
//!     token: Token { generation: 0, count },
//!     route: "any".to_owned(),
//!     body_hash: String::new(),
//! });
//! let finished = |attempt| Event::from(TaskFinished {
//!     task: task.clone(),
//!     attempt: Some(AttemptId::from_u128(attempt)),
//!     status: Status::Succeeded,
//!     llm: None,
//!     cost_usd: MicroUsd::ZERO,
//!     error: None,
//! });
//! // The broker delivers the task twice; the second delivery has the higher token and takes over.
//! let events = vec![started(1, 0), started(2, 1), finished(1), finished(2)];
//! let batch = EventBatch { v: 1, emitter: EmitterId::from_u128(7), first: 0, at_ms: 1_000, events };
//!
//! let (mut fold, mut verdicts) = (PoolState::new(), Vec::new());
//! fold.apply(&batch, |_, _, verdict| verdicts.push(verdict));
//!
//! let superseded = Verdict::Refused(Refusal::Superseded);
//! assert_eq!(verdicts, [Verdict::Accepted, Verdict::Accepted, superseded, Verdict::Accepted]);
//! assert_eq!(fold.tasks.winner(&task), Some(Some(AttemptId::from_u128(2))), "one outcome");
//!
//! fold.apply(&batch, |_, _, _| unreachable!("a batch that was published twice counts once"));
//! # Ok::<(), pool_core::id::InvalidName>(())
//! ```

pub mod breaker;
#[cfg(test)]
mod breaker_tests;
pub mod budget;
#[cfg(test)]
mod budget_tests;
mod old_tasks;
#[cfg(test)]
mod old_tasks_tests;
mod open_tasks;
pub mod pauses;
mod snapshot;
pub mod tasks;
#[cfg(any(test, feature = "testing"))]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::event::{
    BreakerEvent, BudgetEvent, BudgetSettled, Configuration, EmitterId, Event, EventBatch, EventId,
    PoolEvent, ProbeStarted, ProgrammerUp, TaskEvent,
};
use crate::id::{AttemptId, ProgrammerId};
use crate::money::MicroUsd;
use crate::routing::{Binding, Route, Routes};
pub use crate::task_state::{Outcome, Owner, Phase, TaskState};
use crate::time::Timestamp;
use breaker::Breakers;
use budget::Budget;
pub use old_tasks::FinishedLongAgo;
use pauses::Pauses;
pub use tasks::Tasks;

/// Whether an event took effect at its place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It took effect.
    Accepted,
    /// It did not, because of an earlier event.
    Refused(Refusal),
}

/// Why an event had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The task has an outcome.
    Finished,
    /// Another attempt owns the task with this token or a higher one.
    Superseded,
    /// The log knows a task with this id.
    Taken {
        /// True for a repeated submission; false when the known task has another body.
        same_body: bool,
    },
    /// The log has reached this generation already.
    OldGeneration,
    /// The task is not in the log.
    UnknownTask,
    /// It does not fit into what is left of the day's budget.
    OverBudget,
    /// The attempt has no reservation.
    NotReserved,
    /// The call began before the breaker's last change.
    OldEpoch,
    /// The breaker is not open, its cooldown is not over, or another programmer is probing.
    NotDue,
}

/// The process that holds a programmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder {
    process: EmitterId,
    since: Timestamp,
}

/// The state of the pool, as far as the log has been read.
#[derive(Debug, Clone, Default)]
pub struct PoolState {
    /// The time of the pool: the running maximum of the events' times, never a reader's clock.
    now: Timestamp,
    /// The next sequence number of each emitter.
    next_seq: HashMap<EmitterId, u64>,
    configuration: Option<Configuration>,
    /// Every binding that a configuration in the log has used.
    bindings: BTreeSet<Binding>,
    holders: BTreeMap<ProgrammerId, Holder>,
    /// Owners, attempts and outcomes.
    pub tasks: Tasks,
    /// The money of the day.
    pub budget: Budget,
    /// The LLMs that are not called now.
    pub breakers: Breakers,
    /// The pauses in force.
    pub pauses: Pauses,
}

impl PoolState {
    /// The state before the first event.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same for a process that shows tasks to people: it keeps a list of all finished tasks. Verdicts do not depend on it.
    pub fn with_list() -> Self {
        let mut state = Self::new();
        state.tasks.keep_list();
        state
    }

    /// The time of the pool; zero before the first event.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The configuration in force; None before the first one.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// Queues that an earlier configuration used and `routes` does not use. Messages in them belong to other queues.
    pub fn retired_queues(&self, routes: &Routes) -> Vec<String> {
        let in_use: BTreeSet<String> = routes.all().iter().map(Route::queue).collect();
        let used: BTreeSet<&String> = self.bindings.iter().map(|binding| &binding.queue).collect();
        used.into_iter()
            .filter(|queue| !in_use.contains(*queue))
            .cloned()
            .collect()
    }

    /// All bindings that a configuration in the log has used. The broker may still have them.
    pub fn bindings(&self) -> &BTreeSet<Binding> {
        &self.bindings
    }

    /// Applies one message of the log. `on_event` is called for each event that was not seen before, with its verdict.
    pub fn apply(
        &mut self,
        batch: &EventBatch,
        mut on_event: impl FnMut(EventId, &Event, Verdict),
    ) {
        self.now = self.now.max(batch.at());
        self.budget.advance(self.now);
        for (seq, event) in (batch.first..).zip(&batch.events) {
            let next = self.next_seq.entry(batch.emitter).or_default();
            if seq < *next {
                continue;
            }
            *next = seq + 1;
            let verdict = self.decide(event, batch.emitter);
            let id = EventId {
                emitter: batch.emitter,
                seq,
            };
            on_event(id, event, verdict);
        }
    }

    fn decide(&mut self, event: &Event, emitter: EmitterId) -> Verdict {
        let now = self.now;
        match event {
            Event::Task(event) => self.decide_task(event),
            Event::Budget(BudgetEvent::Reserved(reserved)) => {
                let task = reserved.task.as_ref();
                let may = task.is_none_or(|task| self.tasks.is_owner(task, reserved.attempt));
                self.budget.reserve(reserved, may, now)
            }
            Event::Budget(BudgetEvent::Settled(settled)) => self.budget.settle(settled),
            Event::Budget(BudgetEvent::BudgetSet(set)) => self.budget.set_for_today(set.limit_usd),
            Event::Breaker(BreakerEvent::LlmFailed(failed)) => self.breakers.failed(failed, now),
            Event::Breaker(BreakerEvent::LlmAnswered(answered)) => {
                self.breakers.answered(answered, now)
            }
            Event::Breaker(BreakerEvent::Probing(started)) => self.probing(started),
            Event::Breaker(BreakerEvent::Probed(ended)) => self.breakers.probed(ended, now),
            Event::Breaker(BreakerEvent::BreakerOrdered(ordered)) => {
                self.breakers.ordered(ordered, now)
            }
            Event::Pool(event) => self.decide_pool(event, emitter),
        }
    }

    fn decide_task(&mut self, event: &TaskEvent) -> Verdict {
        let task = event.task();
        let owner = match event {
            TaskEvent::Submitted(_)
            | TaskEvent::Published(_)
            | TaskEvent::Used(_)
            | TaskEvent::Stated(_) => None,
            TaskEvent::Started(_)
            | TaskEvent::Released(_)
            | TaskEvent::Reissued(_)
            | TaskEvent::Finished(_)
            | TaskEvent::Cancelled(_) => self.tasks.owner(task),
        };
        let of_others = owner.map(|owner| self.tasks.cost_of_others(task, owner));
        let verdict = self.tasks.decide(event, self.now);
        if let (Some(owner), Some(of_others)) = (owner, of_others)
            && !self.tasks.is_owner(task, owner)
        {
            self.end_reservation(owner, event, of_others);
        }
        verdict
    }

    fn decide_pool(&mut self, event: &PoolEvent, emitter: EmitterId) -> Verdict {
        let now = self.now;
        match event {
            PoolEvent::Tick | PoolEvent::Unknown => {}
            PoolEvent::Up(up) => self.up(up, emitter),
            PoolEvent::Configured(new) => {
                let in_force = self.configuration.as_ref();
                if new.again && in_force.is_some_and(|in_force| in_force.hash != new.hash) {
                    return Verdict::Refused(Refusal::Superseded);
                }
                self.bindings
                    .extend(Routes::new(&new.capabilities).bindings());
                self.budget.configure(&new.rules.budget, now);
                self.breakers.configure(&new.rules);
                self.configuration = Some(new.clone());
            }
            PoolEvent::Paused(paused) => self.pauses.pause(paused, now),
            PoolEvent::Resumed(resumed) => self.pauses.resume(&resumed.target, now),
        }
        Verdict::Accepted
    }

    /// A process holds this programmer. If another process held it before, its reservations count as spent until they are
    /// settled.
    ///
    /// A repetition by a process whose first `up` is not in the log does not tell since when it has held the programmer. Then
    /// the programmer's earlier events are taken for its own.
    fn up(&mut self, up: &ProgrammerUp, emitter: EmitterId) {
        let programmer = &up.programmer;
        self.breakers.up(programmer, &up.host);
        let since = match self.holders.get(programmer) {
            Some(before) if before.process == emitter => return,
            None if up.again => Timestamp::default(),
            Some(_) | None => {
                self.budget.lose_all_of(programmer);
                self.now
            }
        };
        let process = emitter;
        self.holders
            .insert(programmer.clone(), Holder { process, since });
    }

    /// Whether another process has taken over the owner's programmer since the owner began.
    pub fn is_gone(&self, owner: &Owner) -> bool {
        self.holders
            .get(&owner.programmer)
            .is_some_and(|holder| holder.since > owner.since)
    }

    /// Ends the reservation of an attempt that no longer owns its task. Without a settled cost it counts in full. The cost
    /// of an outcome includes the other attempts, which are accounted for already.
    fn end_reservation(&mut self, owner: AttemptId, event: &TaskEvent, of_others: MicroUsd) {
        if let TaskEvent::Finished(finished) = event
            && finished.attempt == Some(owner)
        {
            let cost_usd = finished.cost_usd.saturating_sub(of_others);
            let by_llm = finished.llm.iter().map(|llm| (llm.clone(), cost_usd));
            // Refused when the attempt has settled before, which is usual.
            let _ = self.budget.settle(&BudgetSettled {
                attempt: owner,
                cost_usd,
                by_llm: by_llm.collect(),
            });
        }
        self.budget.lose(owner);
    }

    fn probing(&mut self, started: &ProbeStarted) -> Verdict {
        let before = self.breakers.probe_of(&started.key, &started.scope);
        let verdict = self.breakers.probing(started, self.now);
        if let (Verdict::Accepted, Some(before)) = (verdict, before) {
            // The lease ran out without `probed`: the reservation of that probe counts as spent.
            self.budget.lose(before);
        }
        verdict
    }
}
