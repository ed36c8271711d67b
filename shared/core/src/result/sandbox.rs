//! The refusals of the sandbox in an attempt, for the people who read the result.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Connections that the sandbox did not let through. The kernel of the worker's machine has counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkAttempts {
    /// Attempts to reach addresses of other machines.
    pub addresses: u64,
    /// Questions to name servers, and other datagrams without a receiver. A resolver asks several times for one name.
    pub names: u64,
    /// Connections to ports of 127.0.0.1 at which no server of the run listened.
    pub local_ports: u64,
}

impl NetworkAttempts {
    /// Whether there were none.
    pub fn is_nothing(&self) -> bool {
        self.sum() == 0
    }

    /// All of them.
    pub fn sum(&self) -> u64 {
        self.addresses
            .saturating_add(self.names)
            .saturating_add(self.local_ports)
    }

    /// The sum of both.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        Self {
            addresses: self.addresses.saturating_add(more.addresses),
            names: self.names.saturating_add(more.names),
            local_ports: self.local_ports.saturating_add(more.local_ports),
        }
    }
}

/// The refusals of the sandbox in an attempt. A refusal alone is not an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxReport {
    /// Connections that did not leave the sandbox, in all runs of the attempt.
    #[serde(default, skip_serializing_if = "NetworkAttempts::is_nothing")]
    pub network_attempts: NetworkAttempts,
    /// Likely causes of the failure, with the key to change; for people. Only if the attempt failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

impl SandboxReport {
    /// Whether there is nothing to tell.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}
