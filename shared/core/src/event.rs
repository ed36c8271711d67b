//! The events of the stream `pool.events`: every decision that all processes must remember.
//!
//! One message of the stream is a [`EventBatch`]: events of one emitter with consecutive sequence numbers. The id
//! of an event is (emitter, sequence number). A batch that the broker did not confirm is published again with
//! the same ids, and the fold skips the events that it has seen. Unknown kinds and fields are skipped too.

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
    /// A new id. Ids sort by the time when they were made (UUID version 7).
    #[expect(
        clippy::new_without_default,
        reason = "an id that is made by accident is a bug"
    )]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7())
    }

    /// An id with a fixed value, for tests.
    pub fn from_u128(value: u128) -> Self {
        Self(uuid::Uuid::from_u128(value))
    }
}

/// The id of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The process that appended it.
    pub emitter: EmitterId,
    /// Its number among all events of that process, from 0 on.
    pub seq: u64,
}

/// One event. docs/internals/event-log.md says which process appends which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// Carries the time forward when nothing else happens.
    Tick,
    /// This configuration is in force from here on.
    Configured {
        /// The hash of the pool file's values that must agree between processes.
        hash: String,
        /// The offer of each programmer; the routes follow from it.
        capabilities: BTreeMap<ProgrammerId, BTreeSet<Capability>>,
        /// The values by which the fold decides.
        #[serde(default)]
        rules: Rules,
        /// A repetition, before the first one falls out of the log's retention. It does not replace another configuration.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// A dispatcher holds the task message and will publish it.
    Submitted {
        /// The task.
        task: TaskId,
        /// Tells a repeated submission from another task with the same id.
        body_hash: String,
        /// The route that the message will be published to.
        route: String,
        /// The task expires if it is not started by this moment: milliseconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline_ms: Option<u64>,
    },
    /// The message of this generation is in its queue.
    Published {
        /// The task.
        task: TaskId,
        /// The generation of the published message.
        generation: u32,
    },
    /// A process is about to publish the task again with this generation. When two processes try, the log accepts the
    /// first.
    Reissued {
        /// The task.
        task: TaskId,
        /// Higher than every generation before.
        generation: u32,
        /// Set by the owner: its attempt has failed, and another one follows later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry: Option<Retry>,
    },
    /// An attempt claims the task.
    Started {
        /// The task.
        task: TaskId,
        /// The claiming attempt; the owner if the event is accepted.
        attempt: AttemptId,
        /// The programmer that makes the attempt.
        programmer: ProgrammerId,
        /// Of the delivery. It must be higher than every token before.
        token: Token,
        /// The route from whose queue the message came.
        route: String,
        /// Of the delivered message. For a task that came straight to the broker the log has no other record.
        body_hash: String,
    },
    /// An attempt gives the task back. Or it lost the task while its worker lived: its connection broke, and the broker
    /// delivered the message to another. The attempt does not count.
    Released {
        /// The task.
        task: TaskId,
        /// The attempt that gives it back.
        attempt: AttemptId,
        /// None of its LLMs was available. Such returns are counted and limited (`max_hand_backs`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        no_llm: bool,
    },
    /// The usage of one attempt; the last of these events counts. The worker appends one with `so_far` before each paid call:
    /// it includes the call's worst case and is an upper bound if the worker dies. The worker appends one without `so_far`
    /// when an attempt ends and publishes no result.
    Used {
        /// The task.
        task: TaskId,
        /// The attempt that used it.
        attempt: AttemptId,
        /// The sum over all calls of the attempt.
        spent: Spent,
        /// `spent` is an upper bound.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        so_far: bool,
    },
    /// The first of these by the owner is the outcome of the task. One without an attempt is an outcome before any attempt.
    Finished {
        /// The task.
        task: TaskId,
        /// The attempt whose result this is; None: rejected or expired.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<AttemptId>,
        /// The status of the result.
        status: Status,
        /// The LLM of the result.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        llm: Option<LlmName>,
        /// The cost of all attempts.
        #[serde(default)]
        cost_usd: MicroUsd,
        /// The error kind of the result.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<ErrorKind>,
    },
    /// Somebody cancels the task. This is the outcome if the task has none yet, even while an attempt runs.
    Cancelled {
        /// The task.
        task: TaskId,
    },
    /// A snapshot of an open task, appended before its first events fall out of retention. A process that knows more
    /// keeps what it knows.
    Stated {
        /// The task.
        task: TaskId,
        /// Its state when the snapshot was made.
        state: Box<OpenTask>,
    },
    /// The target takes no more tasks until it is resumed.
    Paused {
        /// A programmer, a route or the pool.
        target: Target,
        /// The effect on running tasks.
        pause: Pause,
        /// Set in a repetition, before the first event falls out of retention: when the pause began. The repetition does not
        /// bring back a pause that ended after that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_ms: Option<u64>,
    },
    /// The pause of this target ends.
    Resumed {
        /// As in `paused`.
        target: Target,
    },
    /// Sets money aside in the day's budget, before the first paid call of an attempt or for a probe. The fold admits or
    /// refuses it at its place.
    Reserved {
        /// The attempt or the probe that will spend it.
        attempt: AttemptId,
        /// None: a probe.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<TaskId>,
        /// The programmer that makes the attempt.
        programmer: ProgrammerId,
        /// The most that the attempt may cost.
        amount_usd: MicroUsd,
    },
    /// The true cost of an attempt replaces its reservation.
    Settled {
        /// The attempt or the probe that has ended.
        attempt: AttemptId,
        /// Its whole cost.
        cost_usd: MicroUsd,
        /// The same cost, for each LLM.
        by_llm: BTreeMap<LlmName, MicroUsd>,
    },
    /// Another limit for the day of this event, instead of the configured one.
    BudgetSet {
        /// The limit until the day ends.
        limit_usd: MicroUsd,
    },
    /// A call has failed on one LLM, after its retries.
    LlmFailed {
        /// The LLM and its address.
        key: LlmKey,
        /// The programmer whose agent made the call.
        programmer: ProgrammerId,
        /// The host that the programmer runs on.
        host: String,
        /// The task of the call.
        task: TaskId,
        /// The class of the failure.
        fault: Fault,
        /// The epoch of the breakers when the call began. A failure from an older epoch does not count.
        epoch: u64,
        /// The wait that the provider demanded in `Retry-After`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        /// More about the call.
        #[serde(default)]
        call: FailedCall,
    },
    /// Answered calls of one LLM in one process. A process reports them when something is wrong with that LLM, because a
    /// breaker needs the share of failures. While the LLM only succeeds, nothing is reported.
    LlmAnswered {
        /// The LLM and its address.
        key: LlmKey,
        /// The host of the process.
        host: String,
        /// For each programmer, how many milliseconds before this event its calls ended.
        ended: BTreeMap<ProgrammerId, Vec<u64>>,
        /// A call of this process is about to fail: the other processes should report their answered calls now.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        asks: bool,
    },
    /// A programmer wants to probe an LLM behind an open breaker. The first one in the log gets the lease.
    Probing {
        /// The LLM and its address.
        key: LlmKey,
        /// The scope of the breaker.
        scope: Scope,
        /// The programmer that probes.
        programmer: ProgrammerId,
        /// Names the probe, here and in its reservation.
        probe: AttemptId,
    },
    /// The outcome of a probe. Without a fault the breaker closes.
    Probed {
        /// As in `probing`.
        key: LlmKey,
        /// As in `probing`.
        scope: Scope,
        /// As in `probing`.
        probe: AttemptId,
        /// Why the probe failed; None: it was answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
        /// The wait that the provider demanded in `Retry-After`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// A ready process on this host holds this programmer.
    Up {
        /// The programmer.
        programmer: ProgrammerId,
        /// The name of the host; empty in events of older versions.
        #[serde(default)]
        host: String,
        /// A repetition, before the first event falls out of retention.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// An event that this version of the pool does not know.
    #[serde(other)]
    Unknown,
}

/// Details of a failed call. Events of older versions do not have them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCall {
    /// The dialect of the call; probes ask in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// Milliseconds from the first byte to the failure, retries included.
    #[serde(default)]
    pub took_ms: u64,
    /// For the fault `auth`: the provider may have refused this request and not the key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproven: bool,
}

/// Everything that the log must remember about a task without an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTask {
    /// Milliseconds since 1970; None for a task that came straight to the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_ms: Option<u64>,
    /// Tells a repeated submission from another task with the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<String>,
    /// The route of its message.
    #[serde(default)]
    pub route: String,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The highest generation in the log.
    pub generation: u32,
    /// Whether the message of this generation is known to be in its queue.
    pub published: bool,
    /// The highest token that ever owned the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Token>,
    /// The attempt that owns the task now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OpenOwner>,
    /// Attempts that were started and not released.
    pub attempts: u32,
    /// How often an attempt gave the task back.
    pub releases: u32,
    /// Those of `releases` for which no LLM was available.
    pub hand_backs: u32,
    /// The sum of `used`, which older versions do not have.
    #[serde(default)]
    pub spent: Spent,
    /// The usage of each attempt.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<AttemptId, Account>,
    /// Attempts that no longer own the task.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub past: BTreeSet<AttemptId>,
    /// Those of `past` that lost the task to another attempt.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost: BTreeSet<AttemptId>,
    /// The failed attempt after which the task waits for its next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// The owner of an open task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOwner {
    /// The attempt that owns the task.
    pub attempt: AttemptId,
    /// The programmer that makes it.
    pub programmer: ProgrammerId,
    /// With which the attempt claimed the task.
    pub token: Token,
    /// Since when, by the log's time: milliseconds since 1970.
    pub since_ms: u64,
}

/// A failed attempt after which another one may succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The attempt that failed.
    pub attempt: AttemptId,
    /// Why it failed; [`ErrorKind::is_curable`].
    pub error: ErrorKind,
    /// The next attempt is not made before this moment: milliseconds since 1970.
    pub at_ms: u64,
    /// The usage of the failed attempt.
    #[serde(default)]
    pub spent: Spent,
}

/// Usage that counts against a task's limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Counts against `max_cost_usd`.
    pub cost_usd: MicroUsd,
    /// Input and output; counts against `max_tokens_per_job`.
    pub tokens: u64,
    /// The same use in full detail; missing in events of older versions.
    #[serde(default, skip_serializing_if = "Usage::is_nothing")]
    pub usage: Usage,
}

/// The usage of one attempt, by its last `used` event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The usage of the attempt.
    pub spent: Spent,
    /// `spent` is an upper bound: the attempt has not ended, or it died with its worker.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub so_far: bool,
}

impl Spent {
    /// Money and tokens of this usage.
    pub fn of(usage: Usage) -> Self {
        Self {
            cost_usd: usage.cost_usd,
            tokens: usage.tokens(),
            usage,
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn and(self, more: &Self) -> Self {
        Self {
            cost_usd: self.cost_usd + more.cost_usd,
            tokens: self.tokens.saturating_add(more.tokens),
            usage: self.usage.and(&more.usage),
        }
    }
}

impl Event {
    /// `reissued` without a retry: the task is about to be published again with this generation.
    pub fn reissued(task: &TaskId, generation: u32) -> Self {
        Self::Reissued {
            task: task.clone(),
            generation,
            retry: None,
        }
    }

    /// `finished` with the values of this result.
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

    /// The status of the task from here on, if this event is an outcome.
    pub fn ends_as(&self) -> Option<Status> {
        if let Self::Finished { status, .. } = self {
            Some(*status)
        } else if let Self::Cancelled { .. } = self {
            Some(Status::Cancelled)
        } else {
            None
        }
    }

    /// The task in whose history this event belongs: the task that it decides about, or the task for which an attempt
    /// spends money or calls LLMs. `task_of` gives the task of an attempt.
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

    /// The task that this event decides about, if any.
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
pub struct EventBatch {
    /// The version of this format: 1.
    pub v: u32,
    /// The process that appended the batch.
    pub emitter: EmitterId,
    /// The sequence number of the first event; the others follow without a gap.
    pub first: u64,
    /// When the batch was appended, by the clock of its emitter: milliseconds since 1970.
    pub at_ms: u64,
    /// The events in their order.
    pub events: Vec<Event>,
}

#[derive(Deserialize)]
struct LenientBatch<'a> {
    emitter: EmitterId,
    first: u64,
    at_ms: u64,
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

impl EventBatch {
    /// `at_ms` as a time.
    pub fn at(&self) -> Timestamp {
        Timestamp(self.at_ms)
    }

    /// The body of the message.
    pub fn to_json(&self) -> Vec<u8> {
        // Structs of strings and numbers with string keys always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a message of the stream. An event that cannot be read becomes [`Event::Unknown`], so that every
    /// reader, old or new, counts the same sequence numbers.
    ///
    /// # Errors
    /// When even the frame cannot be read. Every reader skips such a message.
    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        if let Ok(batch) = serde_json::from_slice(body) {
            return Ok(batch);
        }
        let lenient: LenientBatch<'_> = serde_json::from_slice(body)?;
        let read = |raw: &&RawValue| serde_json::from_str(raw.get()).unwrap_or(Event::Unknown);
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
        let batch = EventBatch::from_json(body).expect("a readable frame");
        let published = Event::Published {
            task: TaskId::new("t").expect("an id"),
            generation: 1,
        };
        assert_eq!(
            batch.events,
            [Event::Tick, Event::Unknown, Event::Unknown, published],
            "known events are read, others keep their place"
        );
    }

    #[test]
    fn a_started_event_is_well_under_a_kilobyte() {
        let started = Event::Started {
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
        let batch = EventBatch {
            v: 1,
            emitter: EmitterId::new(),
            first: 0,
            at_ms: 1_767_323_045_678,
            events: vec![started],
        };
        let bytes = batch.to_json();
        assert!(bytes.len() < 512, "{} bytes", bytes.len());
        assert_eq!(
            EventBatch::from_json(&bytes).ok(),
            Some(batch),
            "reads back"
        );
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
        let used = Event::Used {
            task,
            attempt,
            spent: Spent::of(usage),
            so_far: true,
        };
        let batch = EventBatch {
            v: 1,
            emitter: EmitterId::from_u128(1),
            first: 0,
            at_ms: 9,
            events: vec![used],
        };
        assert_eq!(
            EventBatch::from_json(&batch.to_json()).ok(),
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
