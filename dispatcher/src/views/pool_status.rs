//! The pool as the status shows it.

use pool_api::status::ProgrammerStatus;
use pool_core::id::ProgrammerId;
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::llms::{BreakerStatus, BudgetStatus};
use super::pauses::PauseView;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RouteStatus {
    pub queue: String,
    /// As tasks and pauses name it.
    pub name: String,
    /// Messages that wait in the queue; None when the broker did not say. Among them are copies that are dropped when
    /// their turn comes: of tasks that were cancelled, for example.
    pub waiting: Option<u32>,
    /// Tasks that wait for a programmer, of those that the log knows: it hears of one that came straight over AMQP when that
    /// is started.
    #[serde(default)]
    pub waiting_tasks: usize,
    /// Tasks whose programmer is heard of.
    pub running: usize,
    /// Since when the oldest task that waits has waited, of those that the log knows.
    pub oldest_waiting: Option<Timestamp>,
    pub programmers: Vec<ProgrammerId>,
}

impl RouteStatus {
    /// For tables: tasks, and messages where those are others.
    pub fn waiting_in_words(&self) -> String {
        let tasks = self.waiting_tasks;
        match self.waiting.map(|messages| messages as usize) {
            Some(messages) if messages != tasks => {
                format!(
                    "{tasks} ({})",
                    crate::format::counted(messages, "message", "messages")
                )
            }
            Some(_) | None => tasks.to_string(),
        }
    }
}

/// `GET /programmer_pool/status`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PoolStatus {
    /// Why this dispatcher cannot see or do its work, as in `/ready`; absent when all is well.
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
    /// Queues of which the broker did not say how much is in them.
    #[serde(default)]
    pub uncounted_queues: usize,
    /// Tasks without an outcome.
    pub open_tasks: usize,
    pub budget: BudgetStatus,
    pub breakers: Vec<BreakerStatus>,
    pub routes: Vec<RouteStatus>,
    pub programmers: Vec<ProgrammerStatus>,
}
