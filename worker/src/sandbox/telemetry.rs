//! Telemetry of the sandbox: what is in force, what it costs, and what it refuses.

use std::time::Duration;

use agent_sandbox::{RunLimit, SetupError, SetupStep};
use pool_core::id::ProgrammerId;
use pool_core::result::NetworkAttempts;
use pool_core::sandbox::SandboxStatus;
use pool_telemetry::catalog::{
    SANDBOX_FAILURES, SANDBOX_INFO, SANDBOX_LIMIT, SANDBOX_REFUSED_CONNECTIONS, SANDBOX_SETUP,
};

/// The sandbox of this process, for good.
pub(crate) struct SandboxInForce<'a> {
    pub(crate) status: &'a SandboxStatus,
}

impl SandboxInForce<'_> {
    pub(crate) fn emit(&self) {
        let SandboxStatus {
            level,
            proc,
            limits,
            ..
        } = self.status;
        SANDBOX_INFO.set_flag([level.as_str(), proc.as_str(), limits.as_str()], true);
        for step in SetupStep::ALL {
            SANDBOX_FAILURES.add([step.word()], 0);
        }
        for limit in RunLimit::ALL {
            SANDBOX_LIMIT.add([limit.name()], 0);
        }
    }
}

/// The layers around a program are in place.
pub(super) struct LayersSetUp {
    pub(super) took: Duration,
}

impl LayersSetUp {
    pub(super) fn emit(&self) {
        SANDBOX_SETUP.record([], self.took);
        tracing::debug!(took = ?self.took, "the sandbox of a program is set up");
    }
}

/// A program did not start, because a layer could not be set up.
pub(super) struct SetupFailed<'a> {
    pub(super) refused: &'a SetupError,
}

impl SetupFailed<'_> {
    pub(super) fn emit(&self) {
        SANDBOX_FAILURES.add([self.refused.step.word()], 1);
        tracing::debug!(refused = %self.refused, "the sandbox of a program could not be set up");
    }
}

/// A run was ended because it used more than it may.
pub(super) struct LimitExceeded {
    pub(super) limit: RunLimit,
}

impl LimitExceeded {
    pub(super) fn emit(&self) {
        let limit = self.limit.name();
        SANDBOX_LIMIT.add([limit], 1);
        tracing::debug!(limit, "a run exceeded its limit");
    }
}

/// A run has ended that tried to reach something outside of its network.
pub(crate) struct ConnectionsRefused<'a> {
    pub(crate) programmer: &'a ProgrammerId,
    pub(crate) attempts: NetworkAttempts,
}

impl ConnectionsRefused<'_> {
    /// Without attempts it creates the time series.
    pub(crate) fn emit(&self) {
        let (programmer, count) = (self.programmer.as_str(), self.attempts.sum());
        SANDBOX_REFUSED_CONNECTIONS.add([programmer], count);
        if count > 0 {
            tracing::debug!(programmer, attempts = ?self.attempts, "the sandbox refused connections");
        }
    }
}
