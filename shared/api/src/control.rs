//! Pauses: the list, and the requests that begin and end one.

use pool_core::event::BreakerOrder;
use pool_core::id::LlmName;
use pool_core::object::object;
use pool_core::pause::{Pause, Target};
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pool::BreakerStatus;

/// An active pause.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PauseView {
    pub target: Target,
    pub pause: Pause,
    pub since: Timestamp,
}

/// The answer of `pause`, `resume` and `pauses`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PauseList {
    pub pauses: Vec<PauseView>,
}

/// `POST /programmer_pool/pause`: `{"target": {"what": "programmer", "id": "003"}, "pause": "drain"}`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPause {
    #[serde(deserialize_with = "object")]
    pub target: Target,
    #[serde(default = "just_pause")]
    pub pause: Pause,
}

fn just_pause() -> Pause {
    Pause::Pause
}

/// `POST /programmer_pool/breakers`: `{"llm": "openai/gpt-4o", "order": "probe"}`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBreakerOrder {
    pub llm: LlmName,
    pub order: BreakerOrder,
}

/// The answer: the breakers after the order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BreakerList {
    pub breakers: Vec<BreakerStatus>,
}

/// `POST /programmer_pool/resume`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndOfPause {
    #[serde(deserialize_with = "object")]
    pub target: Target,
}
