//! Why a task waits: the answer, and what keeps each able programmer from the task.

use pool_core::heartbeat::ShutReason;
use pool_core::id::{ProgrammerId, TaskId};
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /tasks/{id}/why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    pub task: TaskId,
    pub reason: Reason,
    /// A sentence for people.
    pub sentence: String,
    /// Since when it has waited or run, or when it finished.
    pub since: Option<Timestamp>,
    /// When the reason may end by itself; of several moments the latest or the earliest.
    pub until: Option<Timestamp>,
    pub position: Option<Position>,
    pub route: String,
    /// Attempts that were started and count, including a running one.
    pub attempts: u32,
    pub max_attempts: u32,
    /// How often it was handed back; `hand_backs` are those because no LLM was available.
    pub releases: u32,
    pub hand_backs: u32,
    /// The task does not start after this moment.
    pub deadline: Option<Timestamp>,
    /// While the task waits: all programmers that offer what it requires.
    pub programmers: Vec<ProgrammerWhy>,
    /// The moment of this answer.
    pub at: Timestamp,
}

/// The kind of the answer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Not waiting: the task has finished.
    Finished,
    /// Not waiting: a programmer works on the task.
    Running,
    /// This dispatcher cannot read the event log; the sentence says what it knew last.
    ViewStale,
    /// An attempt failed, and the next one is not due yet.
    Retry,
    /// The task is accepted, but its message is not known to be in a queue.
    NotPublished,
    /// No programmer offers the required capabilities any more.
    Unroutable,
    /// The task's queue is no longer used; other programmers offer what it requires.
    RouteRetired,
    /// An operator has paused the pool; the route may be paused as well.
    PoolPaused,
    /// An operator has paused the route.
    RoutePaused,
    /// An able programmer is idle and takes the task next.
    Next,
    /// Able programmers are idle, but more tasks than that are ahead of this one.
    BehindOthers,
    /// Paid programmers leave the task to free ones for now.
    LeftToFree,
    /// All able programmers are busy, and no other can take the task.
    Busy,
    /// No able programmer takes tasks now.
    Unavailable,
}

/// The task's place in its queue. Only tasks in the log count; tasks that came straight over AMQP
/// do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// 1 is next.
    pub place: usize,
    pub of: usize,
}

/// One programmer that offers what the task requires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgrammerWhy {
    pub id: ProgrammerId,
    pub state: Availability,
    /// A sentence for people; empty when the programmer is idle and ready.
    pub detail: String,
    /// The task it works on.
    pub task: Option<TaskId>,
    /// If it is busy: since when.
    pub since: Option<Timestamp>,
    /// When that may change by itself.
    pub until: Option<Timestamp>,
}

/// Whether an able programmer takes tasks of the route now, or what keeps it from that.
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
    Sandbox,
    Down,
    /// This dispatcher has not listened long enough to know, or receives no heartbeats now.
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
            ShutReason::Sandbox => Self::Sandbox,
            ShutReason::Breaker => Self::Breaker,
            ShutReason::Budget => Self::Budget,
        }
    }
}
