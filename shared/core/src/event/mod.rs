//! The events of the stream `pool.events`: every decision that all processes must know.
//!
//! One message of the stream is a [`EventBatch`]: events of one emitter with consecutive sequence numbers. The id
//! of an event is (emitter, sequence number). A batch that the broker did not confirm is published again with
//! the same ids, and the fold skips the events that it has seen. Unknown kinds and fields are skipped too.
//!
//! `task`, `budget`, `breaker` and `pool` have one struct for each kind of event; only `tick` has no values and no struct.

mod batch;
mod breaker;
mod budget;
mod pool;
mod task;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

pub use crate::id::EmitterId;
use crate::id::{AttemptId, TaskId};
use crate::result::{ResultMessage, Status};
pub use crate::task_state::{Account, Retry, Spent};
pub use batch::EventBatch;
pub use breaker::{
    BreakerEvent, BreakerOrder, BreakerOrdered, FailedCall, LlmAnswered, LlmFailed, ProbeEnded,
    ProbeStarted,
};
pub use budget::{BudgetEvent, BudgetReserved, BudgetSet, BudgetSettled};
pub use pool::{Configuration, PoolEvent, ProgrammerUp, TargetPaused, TargetResumed};
pub use task::{
    ReleaseCause, TaskCancelled, TaskEvent, TaskFinished, TaskPublished, TaskReissued,
    TaskReleased, TaskSnapshot, TaskStarted, TaskSubmitted, TaskUsed,
};

/// The id of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The process that appended it.
    pub emitter: EmitterId,
    /// Its number among all events of that process, from 0 on.
    pub seq: u64,
}

/// One event. docs/internals/event-log.md says which process appends which.
///
/// In JSON an event is one flat object. Its `kind` decides the family and the struct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// About one task.
    Task(TaskEvent),
    /// About the money of the day.
    Budget(BudgetEvent),
    /// About the breaker of an LLM.
    Breaker(BreakerEvent),
    /// About programmers or the whole pool.
    Pool(PoolEvent),
}

/// The table of all kinds with values: makes an [`Event`] of each struct, and reads the struct that a kind stands for.
macro_rules! kinds {
    ($($kind:literal => $family:ident($events:ident::$variant:ident($values:ident)),)+) => {
        $(impl From<$values> for Event {
            fn from(values: $values) -> Self {
                Self::$family($events::$variant(values))
            }
        })+

        fn read<'de, D: Deserializer<'de>>(kind: &str, values: D) -> Result<Event, D::Error> {
            let without_values = match kind {
                $($kind => return $values::deserialize(values).map(Event::from),)+
                "tick" => PoolEvent::Tick,
                _ => PoolEvent::Unknown,
            };
            IgnoredAny::deserialize(values).map(|_| Event::Pool(without_values))
        }
    };
}

kinds! {
    "submitted" => Task(TaskEvent::Submitted(TaskSubmitted)),
    "published" => Task(TaskEvent::Published(TaskPublished)),
    "reissued" => Task(TaskEvent::Reissued(TaskReissued)),
    "started" => Task(TaskEvent::Started(TaskStarted)),
    "released" => Task(TaskEvent::Released(TaskReleased)),
    "used" => Task(TaskEvent::Used(TaskUsed)),
    "finished" => Task(TaskEvent::Finished(TaskFinished)),
    "cancelled" => Task(TaskEvent::Cancelled(TaskCancelled)),
    "stated" => Task(TaskEvent::Stated(TaskSnapshot)),
    "reserved" => Budget(BudgetEvent::Reserved(BudgetReserved)),
    "settled" => Budget(BudgetEvent::Settled(BudgetSettled)),
    "budget_set" => Budget(BudgetEvent::BudgetSet(BudgetSet)),
    "llm_failed" => Breaker(BreakerEvent::LlmFailed(LlmFailed)),
    "llm_answered" => Breaker(BreakerEvent::LlmAnswered(LlmAnswered)),
    "probing" => Breaker(BreakerEvent::Probing(ProbeStarted)),
    "probed" => Breaker(BreakerEvent::Probed(ProbeEnded)),
    "breaker_ordered" => Breaker(BreakerEvent::BreakerOrdered(BreakerOrdered)),
    "configured" => Pool(PoolEvent::Configured(Configuration)),
    "paused" => Pool(PoolEvent::Paused(TargetPaused)),
    "resumed" => Pool(PoolEvent::Resumed(TargetResumed)),
    "up" => Pool(PoolEvent::Up(ProgrammerUp)),
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EventVisitor)
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event with its `kind`")
    }

    /// The pool writes the kind first, so that the values can be read straight into their struct.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let mut values = serde_json::Map::new();
        let kind: String = loop {
            match map.next_key::<String>()? {
                None => return Err(A::Error::missing_field("kind")),
                Some(key) if key == "kind" => break map.next_value()?,
                Some(key) => values.insert(key, map.next_value()?),
            };
        };
        if values.is_empty() {
            return read(&kind, MapAccessDeserializer::new(map));
        }
        while let Some((key, value)) = map.next_entry()? {
            values.insert(key, value);
        }
        read(&kind, values.into_deserializer()).map_err(A::Error::custom)
    }
}

impl Event {
    /// `reissued` without a retry: the task is about to be published again with this generation.
    pub fn reissued(task: &TaskId, generation: u32) -> Self {
        Self::from(TaskReissued {
            task: task.clone(),
            generation,
            retry: None,
        })
    }

    /// `published`: the message of this generation is in its queue.
    pub fn published(task: TaskId, generation: u32) -> Self {
        Self::from(TaskPublished { task, generation })
    }

    /// `finished` with the values of this result.
    pub fn finished(task: &TaskId, attempt: Option<AttemptId>, result: &ResultMessage) -> Self {
        Self::from(TaskFinished {
            task: task.clone(),
            attempt,
            status: result.status,
            llm: result.llm.clone(),
            cost_usd: result.usage.cost_usd,
            error: result.error.as_ref().map(|error| error.kind),
        })
    }

    /// The status of the task from here on, if this event is an outcome.
    pub fn ends_as(&self) -> Option<Status> {
        if let Self::Task(TaskEvent::Finished(finished)) = self {
            Some(finished.status)
        } else if let Self::Task(TaskEvent::Cancelled(_)) = self {
            Some(Status::Cancelled)
        } else {
            None
        }
    }

    /// The task in whose history this event belongs: the task that it decides about, or the task for which an attempt
    /// spends money or calls LLMs. `task_of` gives the task of an attempt.
    pub fn part_of(&self, task_of: impl FnOnce(&AttemptId) -> Option<TaskId>) -> Option<TaskId> {
        match self {
            Self::Budget(BudgetEvent::Reserved(reserved)) => reserved.task.clone(),
            Self::Budget(BudgetEvent::Settled(settled)) => task_of(&settled.attempt),
            Self::Breaker(BreakerEvent::LlmFailed(failed)) => Some(failed.task.clone()),
            Self::Task(_) | Self::Budget(_) | Self::Breaker(_) | Self::Pool(_) => {
                self.task().cloned()
            }
        }
    }

    /// The task that this event decides about, if any.
    pub fn task(&self) -> Option<&TaskId> {
        match self {
            Self::Task(event) => Some(event.task()),
            Self::Budget(_) | Self::Breaker(_) | Self::Pool(_) => None,
        }
    }
}
