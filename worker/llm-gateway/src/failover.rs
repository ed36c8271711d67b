//! Decides what follows a failed call: the same LLM again, the next one, or the end. Pure.

use std::time::Duration;

use pool_core::id::LlmName;
use pool_core::pool::{Failover, FailureCondition};

use super::class::{CallClass, Cap, Cut};

/// A provider's `Retry-After` up to this long is obeyed, even if `retry_delay_s` is shorter.
const SHORT_WAIT: Duration = Duration::from_secs(5);
/// The longest wait for a `Retry-After`, whatever `retry_delay_s` says. Another LLM can be asked at
/// once.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The next step of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailoverStep {
    /// Ask the same LLM again, if it may still be called then.
    Retry {
        after: Duration,
    },
    MoveOn,
    /// Ask no other LLM.
    GiveUp,
}

/// The LLMs that a call may go to, in order.
pub fn candidates<'a>(llms: &'a [LlmName], settings: &Failover) -> &'a [LlmName] {
    if settings.enabled {
        llms
    } else {
        &llms[..llms.len().min(1)]
    }
}

/// Decides the next step. `tries` counts how often this LLM was asked in this call, the failed try
/// included.
pub(super) fn next(class: &CallClass, tries: u32, settings: &Failover) -> FailoverStep {
    match wait(class, settings) {
        Some(after) if tries <= settings.max_retries => FailoverStep::Retry { after },
        Some(_) | None if moves_on(class, settings) => FailoverStep::MoveOn,
        Some(_) | None => FailoverStep::GiveUp,
    }
}

/// How long to wait before another try with the same LLM. None: do not try it again.
fn wait(class: &CallClass, settings: &Failover) -> Option<Duration> {
    match class {
        CallClass::BadAnswer
        | CallClass::Unavailable { retry_after: None }
        | CallClass::RateLimited { retry_after: None } => Some(settings.retry_delay),
        CallClass::Unavailable {
            retry_after: Some(wanted),
        }
        | CallClass::RateLimited {
            retry_after: Some(wanted),
        } => (*wanted <= settings.retry_delay.clamp(SHORT_WAIT, LONGEST_WAIT)).then_some(*wanted),
        // A hang has already cost a whole time-out. The other classes would fail again in the same
        // way.
        CallClass::Ok
        | CallClass::Timeout
        | CallClass::ModelUnavailable
        | CallClass::Auth
        | CallClass::ContextTooLong
        | CallClass::BadRequest
        | CallClass::Cut(_)
        | CallClass::Refused(_) => None,
    }
}

/// Whether another LLM may answer a call that failed in this way.
fn moves_on(class: &CallClass, settings: &Failover) -> bool {
    let listed =
        |condition| settings.always_failover || settings.failure_conditions.contains(&condition);
    match class {
        CallClass::Timeout => listed(FailureCondition::Timeout),
        CallClass::Unavailable { .. } | CallClass::Auth => listed(FailureCondition::ApiError),
        CallClass::RateLimited { .. } => listed(FailureCondition::RateLimit),
        CallClass::ModelUnavailable => listed(FailureCondition::ModelUnavailable),
        // Another LLM may write better, have a longer context, know the parameter, or cost nothing.
        CallClass::BadAnswer
        | CallClass::ContextTooLong
        | CallClass::BadRequest
        | CallClass::Cut(
            Cut::OutputLimit | Cut::TaskLimit(Cap::Cost) | Cut::Filtered | Cut::Unfinished,
        )
        | CallClass::Refused(Cap::Cost) => settings.always_failover,
        // The tokens of all LLMs count together.
        CallClass::Ok
        | CallClass::Cut(Cut::TaskLimit(Cap::Tokens))
        | CallClass::Refused(Cap::Tokens) => false,
    }
}

#[cfg(test)]
#[path = "failover_tests.rs"]
mod tests;
