//! The classes of LLM calls, which all other code matches on. Pure.

use std::time::Duration;

use pool_core::llm::Fault;

/// The outcome of one LLM call. `classify.rs` decides it once, and all other code matches on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallClass {
    /// A complete answer in the protocol.
    Ok,
    RateLimited {
        retry_after: Option<Duration>,
    },
    Timeout,
    /// 5xx, no connection, or a connection that broke.
    Unavailable {
        retry_after: Option<Duration>,
    },
    /// The provider does not serve this model.
    ModelUnavailable,
    Auth,
    ContextTooLong,
    BadRequest,
    /// 200, but not a valid answer in the protocol: broken JSON, no choices.
    BadAnswer,
    /// An answer in the protocol, but not all of it.
    Cut(Cut),
    /// Refused by the gateway itself, because the call would exceed a limit of the task.
    Refused(Cap),
}

/// The reason why an answer was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A limit of the LLM's output: its own, the agent's, or the one that the gateway sets for a
    /// paid LLM.
    OutputLimit,
    /// An output limit that the gateway had lowered to the rest of the task's limit.
    TaskLimit(Cap),
    /// A filter of the provider, or a refusal of the LLM.
    Filtered,
    /// The answer is incomplete for another reason.
    Unfinished,
}

/// A limit of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    Tokens,
    Cost,
}

impl CallClass {
    /// An outage whose end the provider does not tell.
    pub const UNAVAILABLE: Self = Self::Unavailable { retry_after: None };

    /// Whether the LLM is at fault, and not the request or the answer. Such a failure counts for
    /// the LLM's breaker. A task that met only such failures can be done by another programmer, or
    /// later.
    pub fn is_outage(&self) -> bool {
        self.fault().is_some()
    }

    /// The fault of an outage, and when the provider wants to be asked again.
    pub fn fault(&self) -> Option<(Fault, Option<Duration>)> {
        match self {
            Self::RateLimited { retry_after } => Some((Fault::RateLimited, *retry_after)),
            Self::Timeout => Some((Fault::Timeout, None)),
            Self::Unavailable { retry_after } => Some((Fault::Unavailable, *retry_after)),
            Self::ModelUnavailable => Some((Fault::ModelUnavailable, None)),
            Self::Auth => Some((Fault::Auth, None)),
            Self::Ok
            | Self::ContextTooLong
            | Self::BadRequest
            | Self::BadAnswer
            | Self::Cut(_)
            | Self::Refused(_) => None,
        }
    }

    /// The word in metrics and logs.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::RateLimited { .. } => "rate_limited",
            Self::Timeout => "timeout",
            Self::Unavailable { .. } => "unavailable",
            Self::ModelUnavailable => "model_unavailable",
            Self::Auth => "auth",
            Self::ContextTooLong => "context_too_long",
            Self::BadRequest => "bad_request",
            Self::BadAnswer => "bad_answer",
            Self::Cut(Cut::OutputLimit) => "output_limit",
            Self::Cut(Cut::TaskLimit(_)) => "task_limit",
            Self::Cut(Cut::Filtered) => "filtered",
            Self::Cut(Cut::Unfinished) => "unfinished",
            Self::Refused(_) => "refused",
        }
    }
}
