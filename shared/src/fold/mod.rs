//! The fold: the pure function that turns the event log into the state of the pool.
//!
//! Every process applies the same events in the same order and so holds the same state and takes the same decisions;
//! there is no leader and no lock. Nothing here reads a clock, a file or a random number. What a decision meant at
//! its place in the log is returned as a [`Verdict`].
//!
//! `tasks` decides about owners, attempts and outcomes. Budget and breakers get a file each beside it.

pub mod tasks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::event::{Batch, Decision, EmitterId, EventId};
use crate::id::{Capability, ProgrammerId};
use crate::routing::{Route, Routes};
use crate::time::Timestamp;
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
}

/// The configuration that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    pub hash: String,
    pub capabilities: BTreeMap<ProgrammerId, BTreeSet<Capability>>,
}

/// The state of the pool, as far as the log has been read.
#[derive(Debug, Clone, Default)]
pub struct Fold {
    /// The time of the pool: the running maximum of the events' times, never a reader's clock.
    now: Timestamp,
    /// The next sequence number of each emitter.
    next_seq: HashMap<EmitterId, u64>,
    configuration: Option<Configuration>,
    /// Every queue that a configuration in the log has used.
    queues: BTreeSet<String>,
    pub tasks: Tasks,
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
        self.queues.difference(&in_use).cloned().collect()
    }

    /// Applies one message of the log; `on_event` hears of each event that was not seen before.
    pub fn apply(&mut self, batch: &Batch, mut on_event: impl FnMut(EventId, &Decision, Verdict)) {
        self.now = self.now.max(batch.at());
        for (seq, decision) in (batch.first..).zip(&batch.events) {
            let next = self.next_seq.entry(batch.emitter).or_default();
            if seq < *next {
                continue;
            }
            *next = seq + 1;
            let verdict = self.decide(decision);
            on_event(EventId { emitter: batch.emitter, seq }, decision, verdict);
        }
    }

    fn decide(&mut self, decision: &Decision) -> Verdict {
        match decision {
            Decision::Tick | Decision::Up { .. } | Decision::Unknown => Verdict::Accepted,
            Decision::Configured { hash, capabilities } => {
                self.queues.extend(Routes::new(capabilities).all().iter().map(Route::queue));
                self.configuration = Some(Configuration { hash: hash.clone(), capabilities: capabilities.clone() });
                Verdict::Accepted
            }
            Decision::Submitted { .. }
            | Decision::Published { .. }
            | Decision::Reissued { .. }
            | Decision::Started { .. }
            | Decision::Released { .. }
            | Decision::Finished { .. } => self.tasks.decide(decision, self.now),
        }
    }
}
