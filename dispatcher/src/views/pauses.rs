//! Pauses as the API shows them.

use pool_core::pause::{Pause, Target};
use pool_core::state::PoolState;
use pool_core::state::pauses::Paused;
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An active pause.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PauseView {
    pub target: Target,
    pub pause: Pause,
    pub since: Timestamp,
}

/// All pauses at this place of the log.
pub(crate) fn paused(fold: &PoolState) -> Vec<PauseView> {
    let view = |(target, paused): (&Target, &Paused)| PauseView {
        target: target.clone(),
        pause: paused.pause,
        since: paused.since,
    };
    fold.pauses.iter().map(view).collect()
}
