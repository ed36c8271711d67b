//! The fold: the pure function that turns the event log into the state of the pool.
//!
//! Every process applies the same events in the same order, so all of them hold the same state and draw the same
//! conclusions, without a leader or a lock. Nothing here reads a clock, a file or a random number. [`PoolState::apply`] gives
//! for every event its [`Verdict`]: whether the event took effect at its place in the log.
//!
//! `tasks` decides about owners, attempts and outcomes, `budget` about money, `breaker` about failing LLMs.
//!
//! ```
//! use pool_core::event::{EventBatch, Event, EmitterId};
//! use pool_core::state::{PoolState, Refusal, Verdict};
//! use pool_core::id::{AttemptId, ProgrammerId, TaskId, Token};
//! use pool_core::{money::MicroUsd, result::Status};
//!
//! let task = TaskId::new("fix-42")?;
//! let started = |attempt, count| Event::Started {
//!     task: task.clone(),
//!     attempt: AttemptId::from_u128(attempt),
//!     programmer: ProgrammerId::new("001").unwrap(),
//!     token: Token { generation: 0, count },
//!     route: "any".to_owned(),
//!     body_hash: String::new(),
//! };
//! let finished = |attempt| Event::Finished {
//!     task: task.clone(),
//!     attempt: Some(AttemptId::from_u128(attempt)),
//!     status: Status::Succeeded,
//!     llm: None,
//!     cost_usd: MicroUsd::ZERO,
//!     error: None,
//! };
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
mod open_tasks;
pub mod pauses;
mod stated;
pub mod tasks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::event::{EmitterId, Event, EventBatch, EventId};
use crate::id::{AttemptId, Capability, ProgrammerId};
use crate::llm::{LlmKey, Scope};
use crate::money::MicroUsd;
use crate::routing::{Binding, Route, Routes};
use crate::rules::Rules;
use crate::time::Timestamp;
use breaker::{Breakers, Caller, Failed};
use budget::{Budget, Reservation};
use pauses::Pauses;
pub use tasks::{Outcome, Owner, TaskState, Tasks};

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

/// The configuration that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The hash of the pool file's values that must agree between processes.
    pub hash: String,
    /// The offer of each programmer.
    pub capabilities: BTreeMap<ProgrammerId, BTreeSet<Capability>>,
    /// The values by which the fold decides.
    pub rules: Rules,
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
        for (seq, decision) in (batch.first..).zip(&batch.events) {
            let next = self.next_seq.entry(batch.emitter).or_default();
            if seq < *next {
                continue;
            }
            *next = seq + 1;
            let verdict = self.decide(decision, batch.emitter);
            on_event(
                EventId {
                    emitter: batch.emitter,
                    seq,
                },
                decision,
                verdict,
            );
        }
    }

    fn decide(&mut self, decision: &Event, emitter: EmitterId) -> Verdict {
        let now = self.now;
        match decision {
            Event::Tick | Event::Unknown => Verdict::Accepted,
            Event::Up {
                programmer,
                host,
                again,
            } => {
                self.up(programmer, host, (emitter, *again));
                Verdict::Accepted
            }
            Event::Configured {
                hash, again: true, ..
            } if self
                .configuration
                .as_ref()
                .is_some_and(|in_force| in_force.hash != *hash) =>
            {
                Verdict::Refused(Refusal::Superseded)
            }
            Event::Configured {
                hash,
                capabilities,
                rules,
                again: _,
            } => {
                self.bindings.extend(Routes::new(capabilities).bindings());
                self.budget.configure(&rules.budget, now);
                self.breakers.configure(rules);
                let (hash, capabilities, rules) =
                    (hash.clone(), capabilities.clone(), rules.clone());
                self.configuration = Some(Configuration {
                    hash,
                    capabilities,
                    rules,
                });
                Verdict::Accepted
            }
            Event::Submitted { .. }
            | Event::Published { .. }
            | Event::Stated { .. }
            | Event::Used { .. } => self.tasks.decide(decision, now),
            Event::Paused {
                target,
                pause,
                since_ms: None,
            } => {
                self.pauses.pause(target, *pause, now);
                Verdict::Accepted
            }
            Event::Paused {
                target,
                pause,
                since_ms: Some(since),
            } => {
                self.pauses.pause_again(target, *pause, Timestamp(*since));
                Verdict::Accepted
            }
            Event::Resumed { target } => {
                self.pauses.resume(target, now);
                Verdict::Accepted
            }
            Event::Started { task, .. }
            | Event::Released { task, .. }
            | Event::Reissued { task, .. }
            | Event::Finished { task, .. }
            | Event::Cancelled { task } => {
                let owner = self.tasks.owner(task);
                let of_others = owner
                    .map(|owner| self.tasks.cost_of_others(task, owner))
                    .unwrap_or_default();
                let verdict = self.tasks.decide(decision, now);
                if verdict == Verdict::Accepted
                    && let Some(owner) = owner
                    && self.tasks.owner(task) != Some(owner)
                {
                    self.end_reservation(owner, decision, of_others);
                }
                verdict
            }
            Event::Reserved {
                attempt,
                task,
                programmer,
                amount_usd,
            } => {
                let may = task
                    .as_ref()
                    .is_none_or(|task| self.tasks.is_owner(task, *attempt));
                let (task, programmer) = (task.clone(), programmer.clone());
                self.budget.reserve(
                    *attempt,
                    Reservation::new(task, programmer, *amount_usd, now),
                    may,
                )
            }
            Event::Settled {
                attempt,
                cost_usd,
                by_llm,
            } => self.budget.settle(*attempt, *cost_usd, by_llm),
            Event::BudgetSet { limit_usd } => self.budget.set_for_today(*limit_usd),
            Event::LlmFailed {
                key,
                programmer,
                host,
                task,
                fault,
                epoch,
                retry_after_ms,
                call,
            } => {
                let caller = Caller {
                    programmer: programmer.clone(),
                    host: host.clone(),
                };
                let (fault, epoch, retry_after_ms, call) = (*fault, *epoch, *retry_after_ms, *call);
                self.breakers.failed(
                    &Failed {
                        key,
                        caller,
                        task,
                        fault,
                        epoch,
                        retry_after_ms,
                        call,
                    },
                    now,
                )
            }
            Event::LlmAnswered {
                key,
                host,
                ended,
                asks,
            } => self.breakers.answered(key, (host, ended), *asks, now),
            Event::Probing {
                key,
                scope,
                programmer,
                probe,
            } => self.probing((key, scope), (programmer, *probe)),
            Event::Probed {
                key,
                scope,
                probe,
                fault,
                retry_after_ms,
            } => self
                .breakers
                .probed((key, scope), *probe, (*fault, *retry_after_ms), now),
        }
    }

    /// A process holds this programmer. If another process held it before, its reservations count as spent until they are
    /// settled.
    ///
    /// A repetition by a process whose first `up` is not in the log does not tell since when it has held the programmer. Then
    /// the programmer's earlier events are taken for its own.
    fn up(&mut self, programmer: &ProgrammerId, host: &str, (emitter, again): (EmitterId, bool)) {
        self.breakers.up(programmer, host);
        match self.holders.get(programmer) {
            Some(before) if before.process == emitter => {}
            None if again => {
                self.holders.insert(
                    programmer.clone(),
                    Holder {
                        process: emitter,
                        since: Timestamp::default(),
                    },
                );
            }
            Some(_) | None => {
                self.holders.insert(
                    programmer.clone(),
                    Holder {
                        process: emitter,
                        since: self.now,
                    },
                );
                self.budget.lose_all_of(programmer);
            }
        }
    }

    /// Whether another process has taken over the owner's programmer since the owner began.
    pub fn is_gone(&self, owner: &Owner) -> bool {
        self.holders
            .get(&owner.programmer)
            .is_some_and(|holder| holder.since > owner.since)
    }

    /// Ends the reservation of an attempt that no longer owns its task. Without a settled cost it counts in full. The cost
    /// of an outcome includes the other attempts, which are accounted for already.
    fn end_reservation(&mut self, owner: AttemptId, decision: &Event, of_others: MicroUsd) {
        if let Event::Finished {
            attempt: Some(attempt),
            llm,
            cost_usd,
            ..
        } = decision
            && *attempt == owner
        {
            let cost_usd = cost_usd.saturating_sub(of_others);
            let by_llm = llm.iter().map(|llm| (llm.clone(), cost_usd)).collect();
            // Refused when the attempt has settled before, which is usual.
            let _ = self.budget.settle(owner, cost_usd, &by_llm);
        }
        self.budget.lose(owner);
    }

    fn probing(
        &mut self,
        (key, scope): (&LlmKey, &Scope),
        (programmer, probe): (&ProgrammerId, AttemptId),
    ) -> Verdict {
        let before = self.breakers.probe_of(key, scope);
        let verdict = self
            .breakers
            .probing((key, scope), (programmer, probe), self.now);
        if let (Verdict::Accepted, Some(before)) = (verdict, before) {
            // The lease ran out without `probed`: the reservation of that probe counts as spent.
            self.budget.lose(before);
        }
        verdict
    }
}
