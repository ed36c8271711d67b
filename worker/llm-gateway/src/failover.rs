//! What comes after a call that failed: the same LLM again, the next one, or the end. Pure.

use std::time::Duration;

use pool_core::id::LlmName;
use pool_core::pool::{Failover, FailureCondition};

use super::record::{CallClass, Cap, Cut};

/// A provider's `Retry-After` up to this is waited for, even when `retry_delay_s` is shorter.
const SHORT_WAIT: Duration = Duration::from_secs(5);
/// No `Retry-After` makes a call wait longer, whatever `retry_delay_s` says: another LLM is there at once.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The next step of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The same LLM again, if it still may be called then.
    Retry {
        after: Duration,
    },
    MoveOn,
    /// No other LLM is asked.
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

/// `tries`: how often this LLM was asked in this call, the try that failed with `class` included.
pub(super) fn next(class: &CallClass, tries: u32, settings: &Failover) -> Next {
    match wait(class, settings) {
        Some(after) if tries <= settings.max_retries => Next::Retry { after },
        Some(_) | None if moves_on(class, settings) => Next::MoveOn,
        Some(_) | None => Next::GiveUp,
    }
}

/// How long to wait before the same LLM is worth another try; None: it is not.
fn wait(class: &CallClass, settings: &Failover) -> Option<Duration> {
    match class {
        CallClass::Unavailable | CallClass::BadAnswer => Some(settings.retry_delay),
        CallClass::RateLimited { retry_after: None } => Some(settings.retry_delay),
        CallClass::RateLimited {
            retry_after: Some(wanted),
        } => (*wanted <= settings.retry_delay.clamp(SHORT_WAIT, LONGEST_WAIT)).then_some(*wanted),
        // A hang has cost a whole call time-out already; the others would only say the same again.
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

/// Whether another LLM may answer a call that failed so.
fn moves_on(class: &CallClass, settings: &Failover) -> bool {
    let listed =
        |condition| settings.always_failover || settings.failure_conditions.contains(&condition);
    match class {
        CallClass::Timeout => listed(FailureCondition::Timeout),
        CallClass::Unavailable | CallClass::Auth => listed(FailureCondition::ApiError),
        CallClass::RateLimited { .. } => listed(FailureCondition::RateLimit),
        CallClass::ModelUnavailable => listed(FailureCondition::ModelUnavailable),
        // Another LLM may write better, have a longer context, know the parameter, cost nothing.
        CallClass::BadAnswer
        | CallClass::ContextTooLong
        | CallClass::BadRequest
        | CallClass::Cut(
            Cut::OutputLimit | Cut::TaskLimit(Cap::Cost) | Cut::Filtered | Cut::Unfinished,
        )
        | CallClass::Refused(Cap::Cost) => settings.always_failover,
        // Tokens are counted for all LLMs together.
        CallClass::Ok
        | CallClass::Cut(Cut::TaskLimit(Cap::Tokens))
        | CallClass::Refused(Cap::Tokens) => false,
    }
}

#[cfg(test)]
#[path = "failover_tests.rs"]
mod tests;
