//! The output of a running attempt, which its worker publishes to `pool.history` as messages of type
//! `progress` with the task's id as `message_id`. It is for people who watch: no code depends on it,
//! and any piece may be missing.

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, ProgrammerId};

/// The AMQP property `type` of these messages.
pub const KIND: &str = "progress";

/// A piece of the output of an agent or an acceptance check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The attempt that runs.
    pub attempt: AttemptId,
    /// The programmer that makes it.
    pub programmer: ProgrammerId,
    /// The name of the check; None for the agent. The first piece of a check is published when the
    /// check begins, and may be empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// Bytes between the last piece and this one that were left out.
    #[serde(default)]
    pub skipped: u64,
    /// The output, as UTF-8; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// The attempt has used up its allowance: after this piece the next one comes when the attempt
    /// ends.
    #[serde(default)]
    pub silent: bool,
}
