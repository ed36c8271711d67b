//! Pauses: what an operator has told to take no more tasks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::ProgrammerId;

/// What is paused. Pauses of different targets do not touch each other: who is paused twice is resumed twice.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Target {
    All,
    Programmer {
        id: ProgrammerId,
    },
    /// The tasks of one route: `fast.local`.
    Route {
        name: String,
    },
}

/// What becomes of the tasks that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// They go on.
    Pause,
    /// They go on for `dispatcher.drain_timeout_s`, then they are given back.
    Drain,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("the pool"),
            Self::Programmer { id } => write!(f, "programmer {id}"),
            Self::Route { name } => write!(f, "route {name}"),
        }
    }
}
