//! The helper's message to the worker over the line: one JSON object, at the very end.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HelperReport {
    /// The program ended, by itself or because the helper stopped it.
    Ended {
        /// Exactly one of `status` and `signal` is set; neither if the program survived even
        /// SIGKILL.
        status: Option<i32>,
        signal: Option<i32>,
        /// The number of processes that outlived the program.
        stragglers: usize,
    },
    /// The program never ran; the text says why.
    Failed(String),
}
