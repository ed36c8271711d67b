//! The states of a breaker.

use crate::id::{AttemptId, ProgrammerId};
use crate::llm::{Dialect, Fault, Scope};
use crate::time::Timestamp;

/// One breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Counts its openings and closings.
    pub epoch: u64,
    pub state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Calls pass. `by` has probed it last, and is the first to come back.
    Closed {
        since: Timestamp,
        by: ProgrammerId,
    },
    Open {
        outage: Outage,
        until: Timestamp,
    },
    HalfOpen {
        outage: Outage,
        lease: Lease,
    },
}

/// Why and since when an LLM is not called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    pub since: Timestamp,
    /// Of the last failure.
    pub fault: Fault,
    /// The dialects that failed, in the order in which probes ask in them. None: of an older version.
    pub dialects: Vec<Dialect>,
    /// How many failures opened the breaker; failed probes are added.
    pub failures: u32,
}

/// The right to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub probe: AttemptId,
    pub programmer: ProgrammerId,
    pub until: Timestamp,
}

/// Why a programmer may not call an LLM now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    pub scope: Scope,
    /// None: the breaker has closed, and it is not this programmer's turn to come back yet.
    pub outage: Option<Outage>,
    /// When the next probe is due, or its turn comes.
    pub until: Timestamp,
}

impl Breaker {
    /// Whether it wants to be probed.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        match &self.state {
            State::Closed { .. } => false,
            State::Open { until, .. } => now >= *until,
            State::HalfOpen { lease, .. } => now >= lease.until,
        }
    }
}
