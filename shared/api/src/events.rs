//! The data of server-sent events: for the pool as a whole, and for one task.

use std::collections::BTreeMap;

use pool_core::id::{AttemptId, ProgrammerId, TaskId};
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pool::PoolStatus;
use crate::tasks::TaskView;

/// The event `hello`: the first of `GET /events`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Hello {
    /// The dispatcher's clock.
    pub time: Timestamp,
    /// Whether the client may act: it has sent the token, or none is needed.
    pub may_act: bool,
    /// The dispatcher's version.
    pub version: String,
    /// True if the stream continues after `Last-Event-ID`; otherwise the whole `state` comes next.
    pub resumed: bool,
}

/// The state of the pool as pages and `pool watch` show it: the event `state`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Live {
    pub status: PoolStatus,
    /// Tasks by status.
    pub counts: BTreeMap<String, u64>,
    /// The summary of each running task.
    pub running: BTreeMap<TaskId, String>,
    /// The number of messages in `pool.dead`, if known.
    pub dead: Option<u32>,
}

/// Tasks that have changed: the event `tasks`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// Too many tasks have changed to list them: a client requests the tasks it shows.
    pub many: bool,
    pub tasks: Vec<TaskView>,
}

/// The event `timeline`: everything the log has about the task, as readable lines.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Timeline {
    pub lines: Vec<Line>,
    /// The reason, if the lines could not be read.
    pub problem: Option<String>,
}

/// One line of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Line {
    pub at: Timestamp,
    pub text: String,
    pub tone: Tone,
    /// False: the event came too late or was not allowed; the text says why.
    pub accepted: bool,
    pub programmer: Option<ProgrammerId>,
    pub attempt: Option<AttemptId>,
}

/// The colour of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    Neutral,
    Active,
    Good,
    Bad,
    Warning,
}

/// The event `output`: what the agent and the acceptance checks have printed since the last such
/// event.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Printed {
    /// The output starts over with these sections: the earlier output was of another attempt, or is
    /// too old.
    pub reset: bool,
    /// With `reset`: the attempt whose output this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programmer: Option<ProgrammerId>,
    /// With `reset`: the number of bytes omitted before the first section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
    /// In order. Without `reset`, the first section continues the last section of the previous
    /// event if both are of the same check.
    pub sections: Vec<Section>,
}

/// The output of the agent, or of one acceptance check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Section {
    /// `null` for the agent.
    pub check: Option<String>,
    pub text: String,
}
