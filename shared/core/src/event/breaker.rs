//! Events about the breakers of LLMs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use crate::llm::{Dialect, Fault, LlmKey, Scope};

/// An event about the breaker of an LLM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BreakerEvent {
    /// A call has failed on one LLM, after its retries.
    LlmFailed(LlmFailed),
    /// Answered calls of one LLM in one process. A process reports them when something is wrong with that LLM, because a
    /// breaker needs the share of failures. While the LLM only succeeds, nothing is reported.
    LlmAnswered(LlmAnswered),
    /// A programmer wants to probe an LLM behind an open breaker. The first one in the log gets the lease.
    Probing(ProbeStarted),
    /// The outcome of a probe. Without a fault the breaker closes.
    Probed(ProbeEnded),
    /// An operator does not want to wait until the next probe.
    BreakerOrdered(BreakerOrdered),
}

/// The values of `llm_failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LlmFailed {
    /// The LLM and its address.
    pub key: LlmKey,
    /// The programmer whose agent made the call.
    pub programmer: ProgrammerId,
    /// The host that the programmer runs on.
    pub host: String,
    /// The task of the call.
    pub task: TaskId,
    /// The class of the failure.
    pub fault: Fault,
    /// The epoch of the breakers when the call began. A failure from an older epoch does not count.
    pub epoch: u64,
    /// The wait that the provider demanded in `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// More about the call.
    #[serde(default)]
    pub call: FailedCall,
}

/// Details of a failed call. Events of older versions do not have them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCall {
    /// The dialect of the call; probes ask in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// Milliseconds from the first byte to the failure, retries included.
    #[serde(default)]
    pub took_ms: u64,
    /// For the fault `auth`: the provider may have refused this request and not the key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproven: bool,
}

/// The values of `llm_answered`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LlmAnswered {
    /// The LLM and its address.
    pub key: LlmKey,
    /// The host of the process.
    pub host: String,
    /// For each programmer, how many milliseconds before this event its calls ended.
    pub ended: BTreeMap<ProgrammerId, Vec<u64>>,
    /// A call of this process is about to fail: the other processes should report their answered calls now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
}

/// The values of `probing`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStarted {
    /// The LLM and its address.
    pub key: LlmKey,
    /// The scope of the breaker.
    pub scope: Scope,
    /// The programmer that probes.
    pub programmer: ProgrammerId,
    /// Names the probe, here and in its reservation.
    pub probe: AttemptId,
}

/// The values of `probed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeEnded {
    /// As in `probing`.
    pub key: LlmKey,
    /// As in `probing`.
    pub scope: Scope,
    /// As in `probing`.
    pub probe: AttemptId,
    /// Why the probe failed; None: it was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// The wait that the provider demanded in `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The values of `breaker_ordered`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerOrdered {
    /// All open breakers of this LLM are meant, at every address and in every scope.
    pub llm: LlmName,
    /// The operator's order.
    pub order: BreakerOrder,
}

crate::words!(
    /// An operator's order about an open breaker.
    pub enum BreakerOrder {
        /// Probe the LLM now, whatever wait its provider has demanded.
        Probe = "probe",
        /// Close the breaker without a probe. Programmers call the LLM again as after a probe: one, then two, then four.
        Close = "close",
    }
);
