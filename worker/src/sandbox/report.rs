//! What the helper tells the worker over the line: one JSON object, at the very end.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The program ended, by itself or because it was told to.
    Ended {
        /// Exactly one of the two is set; neither when it did not even end on SIGKILL.
        status: Option<i32>,
        signal: Option<i32>,
        /// Processes that outlived it.
        stragglers: usize,
    },
    /// The program never ran; the text says why.
    Failed(String),
}
