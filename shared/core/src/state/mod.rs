//! The fold: the pure function that turns the event log into the state of the pool.
//!
//! Every process applies the same events in the same order and so holds the same state and takes the same decisions;
//! there is no leader and no lock. Nothing here reads a clock, a file or a random number. What a decision meant at
//! its place in the log is returned as a [`Verdict`].
//!
//! `tasks` decides about owners, attempts and outcomes, `budget` about money, `breaker` about LLMs that fail.

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

use crate::event::{Batch, Decision, EmitterId, EventId};
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

/// What an event meant at its place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It took effect.
    Accepted,
    /// It did not: something earlier in the log decided otherwise.
    Refused(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The task has an outcome.
    Finished,
    /// Another attempt owns the task, with this or a higher token.
    Superseded,
    /// The id is taken: `same_body` tells a repetition from a conflict.
    Taken { same_body: bool },
    /// A generation that the log has already reached.
    OldGeneration,
    /// The task is not in the log.
    UnknownTask,
    /// It does not fit into what is left of the day's budget.
    OverBudget,
    /// The attempt has no reservation.
    NotReserved,
    /// The call began before the breaker's last change.
    OldEpoch,
    /// The breaker is not open, its cooldown is not over, or somebody else is probing.
    NotDue,
}

/// The configuration that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    pub hash: String,
    pub capabilities: BTreeMap<ProgrammerId, BTreeSet<Capability>>,
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
pub struct Fold {
    /// The time of the pool: the running maximum of the events' times, never a reader's clock.
    now: Timestamp,
    /// The next sequence number of each emitter.
    next_seq: HashMap<EmitterId, u64>,
    configuration: Option<Configuration>,
    /// Every binding that a configuration in the log has used.
    bindings: BTreeSet<Binding>,
    holders: BTreeMap<ProgrammerId, Holder>,
    pub tasks: Tasks,
    pub budget: Budget,
    pub breakers: Breakers,
    pub pauses: Pauses,
}

impl Fold {
    pub fn new() -> Self {
        Self::default()
    }

    /// The time of the pool; zero before the first event.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// Queues that were in use once and are not by `routes`: what is left in them belongs elsewhere.
    pub fn retired_queues(&self, routes: &Routes) -> Vec<String> {
        let in_use: BTreeSet<String> = routes.all().iter().map(Route::queue).collect();
        let used: BTreeSet<&String> = self.bindings.iter().map(|binding| &binding.queue).collect();
        used.into_iter()
            .filter(|queue| !in_use.contains(*queue))
            .cloned()
            .collect()
    }

    /// Bindings that may be there still, because a configuration in the log has used them.
    pub fn bindings(&self) -> &BTreeSet<Binding> {
        &self.bindings
    }

    /// Applies one message of the log; `on_event` hears of each event that was not seen before.
    pub fn apply(&mut self, batch: &Batch, mut on_event: impl FnMut(EventId, &Decision, Verdict)) {
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

    fn decide(&mut self, decision: &Decision, emitter: EmitterId) -> Verdict {
        let now = self.now;
        match decision {
            Decision::Tick | Decision::Unknown => Verdict::Accepted,
            Decision::Up {
                programmer,
                host,
                again,
            } => {
                self.up(programmer, host, (emitter, *again));
                Verdict::Accepted
            }
            Decision::Configured {
                hash, again: true, ..
            } if self
                .configuration
                .as_ref()
                .is_some_and(|in_force| in_force.hash != *hash) =>
            {
                Verdict::Refused(Refusal::Superseded)
            }
            Decision::Configured {
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
            Decision::Submitted { .. }
            | Decision::Published { .. }
            | Decision::Stated { .. }
            | Decision::Used { .. } => self.tasks.decide(decision, now),
            Decision::Paused {
                target,
                pause,
                since_ms: None,
            } => {
                self.pauses.pause(target, *pause, now);
                Verdict::Accepted
            }
            Decision::Paused {
                target,
                pause,
                since_ms: Some(since),
            } => {
                self.pauses.pause_again(target, *pause, Timestamp(*since));
                Verdict::Accepted
            }
            Decision::Resumed { target } => {
                self.pauses.resume(target, now);
                Verdict::Accepted
            }
            Decision::Started { task, .. }
            | Decision::Released { task, .. }
            | Decision::Reissued { task, .. }
            | Decision::Finished { task, .. }
            | Decision::Cancelled { task } => {
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
            Decision::Reserved {
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
            Decision::Settled {
                attempt,
                cost_usd,
                by_llm,
            } => self.budget.settle(*attempt, *cost_usd, by_llm),
            Decision::BudgetSet { limit_usd } => self.budget.set_for_today(*limit_usd),
            Decision::LlmFailed {
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
            Decision::LlmAnswered {
                key,
                host,
                ended,
                asks,
            } => self.breakers.answered(key, (host, ended), *asks, now),
            Decision::Probing {
                key,
                scope,
                programmer,
                probe,
            } => self.probing((key, scope), (programmer, *probe)),
            Decision::Probed {
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

    /// A process holds this programmer. If it is another one than before, that one does not any more: what it has reserved
    /// counts as spent, until it settles after all.
    /// Of one that says it again, and was never heard of before, nobody knows since when it has been there: what is known
    /// of its programmer is its own.
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

    /// Whether this owner's process has lost its programmer to another one since it began.
    pub fn is_gone(&self, owner: &Owner) -> bool {
        self.holders
            .get(&owner.programmer)
            .is_some_and(|holder| holder.since > owner.since)
    }

    /// An attempt that lost its task without settling counts with its whole reservation. An outcome names the cost of all
    /// attempts; the cost of the others is accounted for already.
    fn end_reservation(&mut self, owner: AttemptId, decision: &Decision, of_others: MicroUsd) {
        if let Decision::Finished {
            attempt: Some(attempt),
            llm,
            cost_usd,
            ..
        } = decision
            && *attempt == owner
        {
            let cost_usd = cost_usd.saturating_sub(of_others);
            let by_llm = llm.iter().map(|llm| (llm.clone(), cost_usd)).collect();
            // Usually it has settled before, and this is refused.
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
            // It never said what it found; what it has reserved is as good as spent.
            self.budget.lose(before);
        }
        verdict
    }
}
