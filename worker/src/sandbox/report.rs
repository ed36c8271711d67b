//! The helper's messages to the worker over the line: JSON objects, one on each line.

use std::time::Duration;

use agent_sandbox::{Exceeded, NetworkAttempts, SetupError};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HelperReport {
    /// The gateway's socket is open inside. The listener comes with this message.
    Listening,
    /// The program ended, by itself or because the helper stopped it.
    Ended {
        /// Exactly one of `status` and `signal` is set; neither if the program survived even
        /// SIGKILL.
        status: Option<i32>,
        signal: Option<i32>,
        /// The number of processes that outlived the program.
        stragglers: usize,
        /// The limit of the run that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<Exceeded>,
        /// Why the program was not started by the fork server that the plan names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cold: Option<String>,
        /// How long the kernel layers took until the program ran; None: there are none.
        setup: Option<Duration>,
        /// The connections that the run tried in vain.
        network: NetworkAttempts,
    },
    /// The program never ran; the text says why.
    Failed(String),
    /// The program never ran, because a layer of the sandbox could not be set up.
    Refused(SetupError),
}
