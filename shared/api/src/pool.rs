//! The pool's status: programmers, queues and breakers.

use pool_core::id::{LlmName, ProgrammerId};
use pool_core::llm::{Fault, Scope};
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::budget::BudgetStatus;
use crate::control::PauseView;
use crate::format::counted;
use crate::status::ProgrammerStatus;

/// `GET /programmer_pool/status`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PoolStatus {
    /// Why this dispatcher cannot do its work or see the pool, as in `/ready`; absent if there is
    /// no problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub pauses: Vec<PauseView>,
    pub pool_size: usize,
    /// Idle or busy.
    pub available: usize,
    /// Shut or down.
    pub unavailable: usize,
    pub using_backup: usize,
    /// Messages in the queues that were counted.
    pub total_queue_depth: u64,
    /// The number of queues for which the broker gave no number.
    #[serde(default)]
    pub uncounted_queues: usize,
    /// Tasks without an outcome.
    pub open_tasks: usize,
    pub budget: BudgetStatus,
    pub breakers: Vec<BreakerStatus>,
    pub routes: Vec<RouteStatus>,
    pub programmers: Vec<ProgrammerStatus>,
}

impl PoolStatus {
    /// The breakers that are not closed.
    pub fn open_breakers(&self) -> impl Iterator<Item = &BreakerStatus> {
        let is_open = |breaker: &&BreakerStatus| breaker.state != BreakerState::Closed;
        self.breakers.iter().filter(is_open)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RouteStatus {
    pub queue: String,
    /// The name in tasks and pauses.
    pub name: String,
    /// Messages in the queue; `null` if the broker gave no number. Some may be copies that will be
    /// dropped, for example of cancelled tasks.
    pub waiting: Option<u32>,
    /// Waiting tasks in the log. A task that came straight over AMQP enters the log when it is
    /// started.
    #[serde(default)]
    pub waiting_tasks: usize,
    /// Tasks with a programmer that sends heartbeats.
    pub running: usize,
    /// Since when the oldest waiting task in the log has waited.
    pub oldest_waiting: Option<Timestamp>,
    pub programmers: Vec<ProgrammerId>,
}

impl RouteStatus {
    /// For tables: the number of tasks, and of messages if it differs.
    pub fn waiting_in_words(&self) -> String {
        let tasks = self.waiting_tasks;
        match self.waiting.map(|messages| messages as usize) {
            Some(messages) if messages != tasks => {
                format!("{tasks} ({})", counted(messages, "message", "messages"))
            }
            Some(_) | None => tasks.to_string(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// A breaker that is not closed, or that closed recently.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BreakerStatus {
    pub llm: LlmName,
    pub base_url: String,
    /// For an LLM on a loopback address: the host where it runs.
    pub host: Option<String>,
    /// Which programmers it keeps from the LLM.
    pub scope: Scope,
    pub state: BreakerState,
    /// If open, since when the LLM has failed; if closed, since when it has answered again.
    pub since: Timestamp,
    /// When the next probe is due; for a half-open breaker, when the present probe times out.
    pub until: Option<Timestamp>,
    pub reason: Option<Fault>,
    pub failures: u32,
    /// The programmer that is probing, or that probed last.
    pub probed_by: Option<ProgrammerId>,
}
