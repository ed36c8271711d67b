//! What a worker tells about an attempt while it runs: a message of kind `progress` in `pool.history`, with the task's id
//! as its `message_id`. For people who watch; nothing depends on it, and any of it may be missing.

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, ProgrammerId};

/// The AMQP property `type` of these messages.
pub const KIND: &str = "progress";

/// A piece of what the agent or an acceptance check has printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub attempt: AttemptId,
    pub programmer: ProgrammerId,
    /// The check; None: the agent. A check's first piece comes when it begins, and may be empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// Bytes between the last piece and this one that nobody will see.
    #[serde(default)]
    pub skipped: u64,
    pub text: String,
    /// It has told all that it may: after this piece nothing comes before the attempt ends.
    #[serde(default)]
    pub silent: bool,
}
