//! The numbers that are kept of each result for reports, without patch and logs.

use pool_core::id::{LlmName, ProgrammerId};
use pool_core::result::{Timings, Usage};
use serde::Deserialize;

/// A result message without its large parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ResultSummary {
    #[serde(default)]
    pub programmer: Option<ProgrammerId>,
    #[serde(default)]
    pub llm: Option<LlmName>,
    #[serde(default)]
    pub used_backup: bool,
    #[serde(default)]
    pub usage: Usage,
    #[serde(default)]
    pub timings: Timings,
}

impl ResultSummary {
    /// None if the body is not a result message.
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}
