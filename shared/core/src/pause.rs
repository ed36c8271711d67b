//! Pauses: programmers and routes from which an operator has taken new tasks away.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::ProgrammerId;

/// The target of a pause. Pauses of different targets are independent: a programmer that was paused
/// by itself and with the pool has to be resumed twice.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Target {
    /// Every programmer.
    All,
    /// One programmer.
    Programmer {
        /// As in the pool file: `003`.
        id: ProgrammerId,
    },
    /// The tasks of one route.
    Route {
        /// Without the `tasks.` of its queue: `fast.local`.
        name: String,
    },
}

/// The effect on running tasks. Both kinds keep the target from new tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// Running tasks continue.
    Pause,
    /// Running tasks continue for `dispatcher.drain_timeout_s`; then their programmers give them back.
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
