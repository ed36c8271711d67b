//! The states of a breaker.

use super::Caller;
use crate::event::BreakerOrder;
use crate::id::{AttemptId, ProgrammerId};
use crate::llm::{Dialect, Fault, Scope};
use crate::time::Timestamp;

/// The breaker of one LLM in one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// The number of its openings and closings.
    pub epoch: u64,
    /// Whether calls pass.
    pub state: State,
}

/// The state of a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Calls pass.
    Closed {
        /// When it closed.
        since: Timestamp,
        /// The programmer whose probe closed it; it is the first to call the LLM again.
        by: ProgrammerId,
    },
    /// No call passes.
    Open {
        /// Why.
        outage: Outage,
        /// When it may be probed.
        until: Timestamp,
    },
    /// One programmer probes; no other call passes.
    HalfOpen {
        /// Why it was open.
        outage: Outage,
        /// The programmer's right to probe.
        lease: Lease,
    },
}

/// Why and since when an LLM is not called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// When the breaker opened.
    pub since: Timestamp,
    /// The class of the last failure.
    pub fault: Fault,
    /// The dialects of the failed calls, in the order in which probes use them. Empty when only older versions reported
    /// failures.
    pub dialects: Vec<Dialect>,
    /// The failures that opened the breaker, plus the failed probes since.
    pub failures: u32,
}

/// The right to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Names the probe.
    pub probe: AttemptId,
    /// The programmer that probes.
    pub programmer: ProgrammerId,
    /// Another programmer may probe from this moment on.
    pub until: Timestamp,
}

/// Why a programmer may not call an LLM now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    /// The scope of the breaker that forbids it.
    pub scope: Scope,
    /// None: the breaker has closed, and this programmer's turn to call the LLM again has not come yet.
    pub outage: Option<Outage>,
    /// When the next probe is due, or when the programmer's turn comes.
    pub until: Timestamp,
}

impl Breaker {
    /// Carries out an order if it is open. `first` is the first programmer to call the LLM again after it was closed; without
    /// one nobody waits for it.
    pub(super) fn obey(
        &mut self,
        order: BreakerOrder,
        first: Option<&Caller>,
        now: Timestamp,
    ) -> bool {
        match (&mut self.state, order, first) {
            (State::Open { until, .. }, BreakerOrder::Probe, _) => {
                *until = (*until).min(now);
                true
            }
            (State::HalfOpen { .. }, BreakerOrder::Probe, _) => true,
            (State::Open { .. } | State::HalfOpen { .. }, BreakerOrder::Close, Some(first)) => {
                let by = first.programmer.clone();
                self.state = State::Closed { since: now, by };
                self.epoch += 1;
                true
            }
            (State::Open { .. } | State::HalfOpen { .. }, BreakerOrder::Close, None)
            | (State::Closed { .. }, BreakerOrder::Probe | BreakerOrder::Close, _) => false,
        }
    }

    /// Whether it may be probed.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        match &self.state {
            State::Closed { .. } => false,
            State::Open { until, .. } => now >= *until,
            State::HalfOpen { lease, .. } => now >= lease.until,
        }
    }
}
