//! The decisions that everybody must remember, as they stand in the stream `pool.events`.
//!
//! One message of the stream is a [`Batch`]: events of one emitter with consecutive sequence numbers. An event's id
//! is (emitter, sequence number); a batch whose confirm never came is published again with the same ids, and the
//! fold drops what it has seen. Unknown kinds and fields are skipped, never an error.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::{AttemptId, Capability, LlmName, ProgrammerId, TaskId, Token};
use crate::llm::{Dialect, Fault, LlmKey, Scope};
use crate::money::MicroUsd;
use crate::pause::{Pause, Target};
use crate::result::{ErrorKind, ResultMessage, Status, Usage};
use crate::rules::Rules;
use crate::time::Timestamp;

/// One incarnation of a process that appends events. A restarted process is another emitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EmitterId(uuid::Uuid);

impl EmitterId {
    #[expect(
        clippy::new_without_default,
        reason = "an id that is made by accident is a bug"
    )]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7())
    }

    pub fn from_u128(value: u128) -> Self {
        Self(uuid::Uuid::from_u128(value))
    }
}

/// The id of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    pub emitter: EmitterId,
    pub seq: u64,
}

/// One decision. docs/internals/event-log.md says which process appends which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Decision {
    /// The pool's pulse: carries the time forward when nothing else happens.
    Tick,
    /// This configuration is in force from here on.
    Configured {
        hash: String,
        capabilities: BTreeMap<ProgrammerId, BTreeSet<Capability>>,
        /// The values that the fold decides by.
        #[serde(default)]
        rules: Rules,
        /// Only said again: it takes the place of no other one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// A dispatcher holds the task message and will publish it.
    Submitted {
        task: TaskId,
        body_hash: String,
        route: String,
        /// After this moment it is not started any more: milliseconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline_ms: Option<u64>,
    },
    /// The task message of this generation is in its queue.
    Published { task: TaskId, generation: u32 },
    /// Somebody is about to publish the task again, with this generation; the first of two wins.
    Reissued {
        task: TaskId,
        generation: u32,
        /// By the owner, whose attempt has failed: another one is made later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry: Option<Retry>,
    },
    /// An attempt claims the task.
    Started {
        task: TaskId,
        attempt: AttemptId,
        programmer: ProgrammerId,
        token: Token,
        route: String,
        /// Of the message that was delivered; a task that came straight to the broker has no other record of it.
        body_hash: String,
    },
    /// An attempt gives the task back, or lost it while it lived: its connection broke, and the message went to another.
    /// It does not count.
    Released {
        task: TaskId,
        attempt: AttemptId,
        /// No LLM was left for it: such returns are counted, and not without end.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        no_llm: bool,
    },
    /// The usage of one attempt; the last of these events counts. The worker appends one with `so_far` before each paid call:
    /// it includes the call's worst case and is an upper bound if the worker dies. The worker appends one without `so_far`
    /// when an attempt ends and publishes no result.
    Used {
        task: TaskId,
        attempt: AttemptId,
        spent: Spent,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        so_far: bool,
    },
    /// The first of these by the owner is the outcome of the task. Without an attempt: decided before any was made.
    Finished {
        task: TaskId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<AttemptId>,
        status: Status,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        llm: Option<LlmName>,
        #[serde(default)]
        cost_usd: MicroUsd,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<ErrorKind>,
    },
    /// Somebody does not want the task any more. It is its outcome if it has none yet, whoever works on it.
    Cancelled { task: TaskId },
    /// How an open task stands, said again before the log forgets where it comes from. Who knows more than that keeps it.
    Stated { task: TaskId, state: Box<OpenTask> },
    /// Programmers are to take no more tasks, until they are resumed.
    Paused {
        target: Target,
        pause: Pause,
        /// When it began, if it is only said again: who has heard of its end since then keeps to that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_ms: Option<u64>,
    },
    /// The pause with this target is over.
    Resumed { target: Target },
    /// Before the first paid call of an attempt (or a probe): its cap is set aside in the day's budget. Admitted or not
    /// at its place.
    Reserved {
        attempt: AttemptId,
        /// None: a probe.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<TaskId>,
        programmer: ProgrammerId,
        amount_usd: MicroUsd,
    },
    /// The true cost of an attempt replaces its reservation.
    Settled {
        attempt: AttemptId,
        cost_usd: MicroUsd,
        by_llm: BTreeMap<LlmName, MicroUsd>,
    },
    /// The limit of the day that it is at this place, instead of the configured one.
    BudgetSet { limit_usd: MicroUsd },
    /// A call has failed for good on one LLM.
    LlmFailed {
        key: LlmKey,
        programmer: ProgrammerId,
        host: String,
        task: TaskId,
        fault: Fault,
        /// Of the breakers at the start of the call.
        epoch: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        #[serde(default)]
        call: FailedCall,
    },
    /// Calls of one LLM that were answered in one process. A process reports them when something is wrong with that LLM,
    /// because a breaker looks at the share of failures; not while the LLM only succeeds.
    LlmAnswered {
        key: LlmKey,
        host: String,
        /// For each programmer, how many milliseconds before this event its calls ended.
        ended: BTreeMap<ProgrammerId, Vec<u64>>,
        /// A call of this process is in trouble: the other processes report their calls before it has failed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        asks: bool,
    },
    /// A programmer is about to ask an LLM behind an open breaker whether it is back; the first in the log does.
    Probing {
        key: LlmKey,
        scope: Scope,
        programmer: ProgrammerId,
        probe: AttemptId,
    },
    /// What came of it. Without a fault the breaker closes.
    Probed {
        key: LlmKey,
        scope: Scope,
        probe: AttemptId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// A programmer is held by a process that is ready, on this host.
    Up {
        programmer: ProgrammerId,
        #[serde(default)]
        host: String,
        /// It is only said again, before the log forgets it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// Written by a newer version of the pool.
    #[serde(other)]
    Unknown,
}

/// More about a call that failed. Events of older versions do not have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCall {
    /// Probes ask in the dialect that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// From its first byte to its failure, retries included.
    #[serde(default)]
    pub took_ms: u64,
    /// Of `auth`: the provider may have refused this one request, and not the key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproven: bool,
}

/// What the log has to remember about a task that has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTask {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<String>,
    #[serde(default)]
    pub route: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    pub generation: u32,
    pub published: bool,
    /// The highest token that ever owned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OpenOwner>,
    pub attempts: u32,
    pub releases: u32,
    pub hand_backs: u32,
    /// The sum of `used`, which older versions do not know.
    #[serde(default)]
    pub spent: Spent,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<AttemptId, Account>,
    /// Attempts that owned it once and do not any more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub past: BTreeSet<AttemptId>,
    /// Those of them that lost it to another one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost: BTreeSet<AttemptId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Who works on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOwner {
    pub attempt: AttemptId,
    pub programmer: ProgrammerId,
    pub token: Token,
    pub since_ms: u64,
}

/// An attempt that failed in a way that another one may cure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub attempt: AttemptId,
    pub error: ErrorKind,
    /// Not before this moment: milliseconds since 1970.
    pub at_ms: u64,
    /// What it has used of the task's limits.
    #[serde(default)]
    pub spent: Spent,
}

/// Usage that counts against a task's limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    pub cost_usd: MicroUsd,
    pub tokens: u64,
    /// The same with all its parts; older versions do not say it.
    #[serde(default, skip_serializing_if = "Usage::is_nothing")]
    pub usage: Usage,
}

/// The usage of one attempt, by its last `used` event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub spent: Spent,
    /// An upper bound: the attempt has not ended, or it died with its worker.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub so_far: bool,
}

impl Spent {
    pub fn of(usage: Usage) -> Self {
        Self {
            cost_usd: usage.cost_usd,
            tokens: usage.tokens(),
            usage,
        }
    }

    #[must_use]
    pub fn and(self, more: &Self) -> Self {
        Self {
            cost_usd: self.cost_usd + more.cost_usd,
            tokens: self.tokens.saturating_add(more.tokens),
            usage: self.usage.and(&more.usage),
        }
    }
}

impl Decision {
    /// That the task is about to be published again with this generation.
    pub fn reissued(task: &TaskId, generation: u32) -> Self {
        Self::Reissued {
            task: task.clone(),
            generation,
            retry: None,
        }
    }

    /// That this result is the outcome of the task.
    pub fn finished(task: &TaskId, attempt: Option<AttemptId>, result: &ResultMessage) -> Self {
        Self::Finished {
            task: task.clone(),
            attempt,
            status: result.status,
            llm: result.llm.clone(),
            cost_usd: result.usage.cost_usd,
            error: result.error.as_ref().map(|error| error.kind),
        }
    }

    /// The status that a task has from here on, if this ends one.
    pub fn ends_as(&self) -> Option<Status> {
        if let Self::Finished { status, .. } = self {
            Some(*status)
        } else if let Self::Cancelled { .. } = self {
            Some(Status::Cancelled)
        } else {
            None
        }
    }

    /// The task that it is part of: the one that it decides about, or for which an attempt spends money or calls LLMs.
    /// `task_of` knows the task of an attempt.
    pub fn part_of(&self, task_of: impl FnOnce(&AttemptId) -> Option<TaskId>) -> Option<TaskId> {
        if let Self::Reserved { task, .. } = self {
            task.clone()
        } else if let Self::LlmFailed { task, .. } = self {
            Some(task.clone())
        } else if let Self::Settled { attempt, .. } = self {
            task_of(attempt)
        } else {
            self.task().cloned()
        }
    }

    /// The task that it decides about, if it decides about one.
    pub fn task(&self) -> Option<&TaskId> {
        match self {
            Self::Submitted { task, .. }
            | Self::Published { task, .. }
            | Self::Reissued { task, .. }
            | Self::Started { task, .. }
            | Self::Released { task, .. }
            | Self::Used { task, .. }
            | Self::Finished { task, .. }
            | Self::Cancelled { task }
            | Self::Stated { task, .. } => Some(task),
            Self::Tick
            | Self::Configured { .. }
            | Self::Paused { .. }
            | Self::Resumed { .. }
            | Self::Reserved { .. }
            | Self::Settled { .. }
            | Self::BudgetSet { .. }
            | Self::LlmFailed { .. }
            | Self::LlmAnswered { .. }
            | Self::Probing { .. }
            | Self::Probed { .. }
            | Self::Up { .. }
            | Self::Unknown => None,
        }
    }
}

/// One message of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub v: u32,
    pub emitter: EmitterId,
    /// The sequence number of the first event; the others follow without a gap.
    pub first: u64,
    /// When the batch was appended, by the clock of its emitter: milliseconds since 1970.
    pub at_ms: u64,
    pub events: Vec<Decision>,
}

#[derive(Deserialize)]
struct LenientBatch<'a> {
    emitter: EmitterId,
    first: u64,
    at_ms: u64,
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

impl Batch {
    pub fn at(&self) -> Timestamp {
        Timestamp(self.at_ms)
    }

    pub fn to_json(&self) -> Vec<u8> {
        // Structs of strings and numbers with string keys always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a message of the stream. An event that cannot be read becomes [`Decision::Unknown`], so that every
    /// reader, old or new, counts the same sequence numbers.
    ///
    /// # Errors
    /// When even the frame cannot be read: such a message is skipped by everybody.
    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        if let Ok(batch) = serde_json::from_slice(body) {
            return Ok(batch);
        }
        let lenient: LenientBatch<'_> = serde_json::from_slice(body)?;
        let read = |raw: &&RawValue| serde_json::from_str(raw.get()).unwrap_or(Decision::Unknown);
        Ok(Self {
            v: 1,
            emitter: lenient.emitter,
            first: lenient.first,
            at_ms: lenient.at_ms,
            events: lenient.events.iter().map(read).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_version_wrote_is_skipped_and_still_counted() {
        let body = br#"{"v":2,"emitter":"00000000-0000-0000-0000-000000000007","first":3,"at_ms":9,"colour":1,
            "events":[{"kind":"tick"},{"kind":"sung","song":1},{"kind":"published","task":5},{"kind":"published","task":"t","generation":1,"x":2}]}"#;
        let batch = Batch::from_json(body).expect("a readable frame");
        let published = Decision::Published {
            task: TaskId::new("t").expect("an id"),
            generation: 1,
        };
        assert_eq!(
            batch.events,
            [
                Decision::Tick,
                Decision::Unknown,
                Decision::Unknown,
                published
            ],
            "known events are read, others keep their place"
        );
    }

    #[test]
    fn a_started_event_is_well_under_a_kilobyte() {
        let started = Decision::Started {
            task: TaskId::new("t".repeat(64)).expect("an id"),
            attempt: AttemptId::new(),
            programmer: ProgrammerId::new("001").expect("an id"),
            token: Token {
                generation: 1,
                count: 2,
            },
            route: "fast.local".to_owned(),
            body_hash: "0".repeat(32),
        };
        let batch = Batch {
            v: 1,
            emitter: EmitterId::new(),
            first: 0,
            at_ms: 1_767_323_045_678,
            events: vec![started],
        };
        let bytes = batch.to_json();
        assert!(bytes.len() < 512, "{} bytes", bytes.len());
        assert_eq!(Batch::from_json(&bytes).ok(), Some(batch), "reads back");
    }

    #[test]
    fn what_was_used_is_read_back_and_an_older_version_says_less() {
        let usage = Usage {
            calls: 2,
            output_tokens: 7,
            cost_usd: MicroUsd(5),
            ..Usage::default()
        };
        let (task, attempt) = (TaskId::new("t").expect("an id"), AttemptId::from_u128(1));
        let used = Decision::Used {
            task,
            attempt,
            spent: Spent::of(usage),
            so_far: true,
        };
        let batch = Batch {
            v: 1,
            emitter: EmitterId::from_u128(1),
            first: 0,
            at_ms: 9,
            events: vec![used],
        };
        assert_eq!(
            Batch::from_json(&batch.to_json()).ok(),
            Some(batch),
            "reads back"
        );
        let old: Spent = serde_json::from_str(r#"{"cost_usd": "0.10", "tokens": 7}"#)
            .expect("an older version's");
        assert_eq!(
            old,
            Spent {
                cost_usd: MicroUsd(100_000),
                tokens: 7,
                ..Spent::default()
            },
            "the sums"
        );
    }
}
