//! What is kept of each result for reports: its numbers, without patch and logs.

use pool_core::id::{LlmName, ProgrammerId};
use pool_core::result::{Timings, Usage};
use serde::Deserialize;

/// A result message without what is large.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Record {
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

impl Record {
    /// None of a body that is no result message.
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}
