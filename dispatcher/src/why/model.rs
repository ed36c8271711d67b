//! What the question is asked of, and what the answer is made of.

use pool_core::eligibility::Standing;
use pool_core::heartbeat::ShutReason;
use pool_core::id::{ProgrammerId, TaskId};
use pool_core::routing::Routes;
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::views::presence::Snapshot;

/// The pool at one moment, as far as this dispatcher knows it.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    pub standing: &'a Standing<'a>,
    pub routes: &'a Routes,
    pub heard: &'a Snapshot,
    /// Whether the event log is known up to its end.
    pub fresh: bool,
}

/// The kind of the answer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It does not wait: it has its outcome.
    Finished,
    /// It does not wait: somebody works on it.
    Running,
    /// This dispatcher cannot read the event log; the sentence says what it knew last.
    ViewStale,
    /// An attempt broke, and the next one is not due yet.
    Retry,
    /// It is accepted, and its message is not known to be in a queue.
    NotPublished,
    /// No programmer offers what it requires any more.
    Unroutable,
    /// Its queue is not in use any more, others offer what it requires.
    RouteRetired,
    /// An operator has paused the pool; its route may be paused as well.
    PoolPaused,
    /// An operator has paused its route.
    RoutePaused,
    /// An able programmer is idle and takes it next.
    Next,
    /// Able programmers are idle, and more tasks than these are before it.
    BehindOthers,
    /// Paid programmers leave it to free ones for now.
    LeftToFree,
    /// Able programmers are busy, and no other can take it.
    Busy,
    /// No able programmer takes tasks now.
    Unavailable,
}

/// Its place among the tasks of its queue that the log knows; tasks that came straight over AMQP are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// 1: it is the next.
    pub place: usize,
    pub of: usize,
}

/// `GET /tasks/{id}/why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    pub task: TaskId,
    pub reason: Reason,
    /// For people.
    pub sentence: String,
    /// Since when it waits, runs, or has finished.
    pub since: Option<Timestamp>,
    /// When the reason may end by itself, at the latest or the earliest of several.
    pub until: Option<Timestamp>,
    pub position: Option<Position>,
    pub route: String,
    /// Attempts that were begun and count; a running one is the last of them.
    pub attempts: u32,
    pub max_attempts: u32,
    /// How often it was given back, and how often of these because no LLM was left.
    pub releases: u32,
    pub hand_backs: u32,
    /// It is not started after this moment.
    pub deadline: Option<Timestamp>,
    /// Everybody who offers what it requires, while it waits.
    pub programmers: Vec<ProgrammerWhy>,
    /// The moment of all this.
    pub at: Timestamp,
}

/// What a case says; [`Why`] is this and what is the same in all cases.
pub(super) struct Answer {
    pub(super) reason: Reason,
    pub(super) sentence: String,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) position: Option<Position>,
    pub(super) programmers: Vec<ProgrammerWhy>,
}

impl Answer {
    pub(super) fn new(reason: Reason, sentence: String, since: Option<Timestamp>) -> Self {
        Self {
            reason,
            sentence,
            since,
            until: None,
            position: None,
            programmers: Vec::new(),
        }
    }

    pub(super) fn until(self, until: Option<Timestamp>) -> Self {
        Self { until, ..self }
    }
}

/// Whether an able programmer takes tasks of the route now, or what keeps it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    Idle,
    Busy,
    /// It has only paid LLMs now, and leaves the route to programmers with free ones.
    LeftToFree,
    Breaker,
    Budget,
    Paused,
    Draining,
    Config,
    Clock,
    Log,
    Held,
    Broker,
    Down,
    /// This dispatcher has not listened for long enough to know, or cannot hear anybody now.
    Unheard,
}

impl From<ShutReason> for Availability {
    fn from(reason: ShutReason) -> Self {
        match reason {
            ShutReason::Draining => Self::Draining,
            ShutReason::Paused => Self::Paused,
            ShutReason::Config => Self::Config,
            ShutReason::Clock => Self::Clock,
            ShutReason::Log => Self::Log,
            ShutReason::Held => Self::Held,
            ShutReason::Broker => Self::Broker,
            ShutReason::Breaker => Self::Breaker,
            ShutReason::Budget => Self::Budget,
        }
    }
}

/// One programmer that offers what the task requires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgrammerWhy {
    pub id: ProgrammerId,
    pub state: Availability,
    /// For people; empty when it is idle and nothing keeps it.
    pub detail: String,
    /// What it works on.
    pub task: Option<TaskId>,
    /// Of a busy one: since when.
    pub since: Option<Timestamp>,
    /// When that may change by itself.
    pub until: Option<Timestamp>,
}

/// A programmer, and the words for it in a sentence about several: those with the same words are counted together.
pub(super) struct Able {
    pub(super) view: ProgrammerWhy,
    pub(super) words: String,
}
