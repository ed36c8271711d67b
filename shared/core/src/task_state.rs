//! The state of one task, as the log gives it. The fold holds it, and the event `stated` repeats it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};

use crate::event::ReleaseCause;
use crate::id::{AttemptId, LlmName, ProgrammerId, Token};
use crate::money::MicroUsd;
use crate::result::{ErrorKind, Status, Usage};
use crate::time::{Timestamp, millis, optional_millis};

/// The state of one task. It is complete while the task is open, and for the newest finished tasks
/// ([`crate::state::tasks::DETAILED_OUTCOMES`]). Of older ones only `body_hash` and the outcome are left, without its
/// programmer and LLM. A process without a list of them ([`crate::state::PoolState::with_list`]) has only the attempt and the
/// status of the outcome: its time, cost and error are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskState {
    /// When `submitted` was appended; None for a task that came straight to the broker.
    #[serde(
        rename = "submitted_ms",
        with = "optional_millis",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub submitted_at: Option<Timestamp>,
    /// When the last snapshot of the task was appended; without one, its first event.
    #[serde(skip)]
    pub stated_at: Timestamp,
    /// Tells a repeated submission from another task with the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<String>,
    /// The route of its message.
    #[serde(default)]
    pub route: String,
    /// The task expires if it is not started by this moment. Only a submitted task has one here.
    #[serde(
        rename = "deadline_ms",
        with = "optional_millis",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub deadline: Option<Timestamp>,
    /// The highest generation in the log.
    pub generation: u32,
    /// Where the task is on its way to its outcome.
    #[serde(flatten)]
    pub phase: Phase,
    /// When `generation` changed last, or the message was last known to be in its queue.
    #[serde(skip)]
    pub issued_at: Timestamp,
    /// The number of its last `published` among those of all tasks: the order of tasks with the same `issued_at`.
    #[serde(skip)]
    pub place: u64,
    /// The fence: the highest token that ever owned the task. It stays when the owner is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Token>,
    /// Attempts that were started and not released.
    pub attempts: u32,
    /// How often an attempt gave the task back.
    pub releases: u32,
    /// Those of `releases` for which no LLM was available.
    pub hand_backs: u32,
    /// Those of `releases` for which the sandbox could not be set up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sandbox_hand_backs: u32,
    /// The sum of `used`. Older versions do not know `used`; they read this sum from the snapshot, where it
    /// has no details.
    #[serde(default, serialize_with = "without_details")]
    pub spent: Spent,
    /// The usage of each attempt, by its last `used` event.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) used: BTreeMap<AttemptId, Account>,
    /// Attempts that no longer own the task.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) past: BTreeSet<AttemptId>,
    /// Those of `past` that lost the task to another attempt and have not released it since.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) lost: BTreeSet<AttemptId>,
}

/// Where a task is on its way to its outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OpenPhase", into = "OpenPhase")]
pub enum Phase {
    /// A process holds its message, which is not known to be in its queue yet.
    #[default]
    Pending,
    /// Its message is in its queue.
    Queued,
    /// An attempt has failed. The message waits in `pool.retries` for the next attempt.
    RetryAt(Retry),
    /// An attempt owns the task.
    Running {
        /// The attempt.
        owner: Owner,
        /// Whether the message of the highest generation is known to be in its queue, or with the owner. False when another
        /// process is about to publish the task again.
        published: bool,
    },
    /// The task has an outcome.
    Finished(Outcome),
}

/// The phase of an open task, as a snapshot writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OpenPhase {
    pub(crate) published: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Owner>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<Retry>,
}

impl From<Phase> for OpenPhase {
    fn from(phase: Phase) -> Self {
        let (published, owner, retry) = match phase {
            // No snapshot is made of a finished task.
            Phase::Pending | Phase::Finished(_) => (false, None, None),
            Phase::Queued => (true, None, None),
            Phase::RetryAt(retry) => (false, None, Some(retry)),
            Phase::Running { owner, published } => (published, Some(owner), None),
        };
        Self {
            published,
            owner,
            retry,
        }
    }
}

impl From<OpenPhase> for Phase {
    fn from(open: OpenPhase) -> Self {
        let published = open.published;
        match (open.owner, open.retry) {
            (Some(owner), _) => Self::Running { owner, published },
            (None, Some(retry)) => Self::RetryAt(retry),
            (None, None) => Self::waiting(published),
        }
    }
}

impl Phase {
    /// Without an owner and an outcome.
    pub(crate) fn waiting(published: bool) -> Self {
        if published {
            Self::Queued
        } else {
            Self::Pending
        }
    }
}

/// The attempt that owns a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The attempt.
    pub attempt: AttemptId,
    /// The programmer that makes it.
    pub programmer: ProgrammerId,
    /// With which it claimed the task.
    pub token: Token,
    /// When it claimed the task, by the log's time.
    #[serde(rename = "since_ms", with = "millis")]
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

// Serde passes a reference.
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn without_details<S: Serializer>(spent: &Spent, serializer: S) -> Result<S::Ok, S::Error> {
    let usage = Usage::default();
    Spent { usage, ..*spent }.serialize(serializer)
}

impl TaskState {
    /// The attempt that owns the task now.
    pub fn owner(&self) -> Option<&Owner> {
        match &self.phase {
            Phase::Running { owner, .. } => Some(owner),
            Phase::Pending | Phase::Queued | Phase::RetryAt(_) | Phase::Finished(_) => None,
        }
    }

    /// The outcome; None while the task is open.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Finished(outcome) => Some(outcome),
            Phase::Pending | Phase::Queued | Phase::RetryAt(_) | Phase::Running { .. } => None,
        }
    }

    /// Whether the task has an outcome.
    pub fn is_finished(&self) -> bool {
        self.outcome().is_some()
    }

    /// Whether the message of the highest generation is known to be in its queue, or with the owner. A finished task has
    /// none.
    pub fn is_published(&self) -> bool {
        match self.phase {
            Phase::Queued => true,
            Phase::Running { published, .. } => published,
            Phase::Pending | Phase::RetryAt(_) | Phase::Finished(_) => false,
        }
    }

    /// Whether this attempt owns the task.
    pub fn is_owned_by(&self, attempt: AttemptId) -> bool {
        self.owner().is_some_and(|owner| owner.attempt == attempt)
    }

    /// How often an attempt gave the task back for this cause.
    pub fn released_for(&self, cause: ReleaseCause) -> u32 {
        match cause {
            ReleaseCause::Stopped => {
                let others = self.hand_backs + self.sandbox_hand_backs;
                self.releases.saturating_sub(others)
            }
            ReleaseCause::NoLlm => self.hand_backs,
            ReleaseCause::NoSandbox => self.sandbox_hand_backs,
        }
    }

    /// Sets the usage of one attempt.
    pub(crate) fn uses(&mut self, attempt: AttemptId, account: Account) {
        self.used.insert(attempt, account);
        self.spent = sum(self.used.values());
    }

    /// The usage of all attempts whose end is in the log. Attempts that died, of which the log has only an upper bound, are
    /// left out.
    pub fn spent_for_sure(&self) -> Spent {
        sum(self.used.values().filter(|account| !account.so_far))
    }
}

fn sum<'a>(accounts: impl Iterator<Item = &'a Account>) -> Spent {
    accounts.fold(Spent::default(), |sum, account| sum.and(&account.spent))
}
