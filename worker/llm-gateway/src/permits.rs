//! Whether an LLM may be called at all: what the pool knows (breakers) and decides (budget), as one attempt of one
//! programmer sees it. The gateway asks before every call and tells what came of it; it decides nothing of this itself.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use pool_core::event::FailedCall;
use pool_core::id::LlmName;
use pool_core::llm::Dialect;
use pool_core::result::Usage;

use super::record::CallClass;

/// Which life of a breaker a call belongs to: it rises each time the breaker opens or closes, so that failures that come
/// late count nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch(pub u64);

/// Why an LLM is not available to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its breaker is open.
    Breaker,
    /// The day's budget has no room for the attempt's cap.
    Budget,
}

impl Why {
    /// The word in messages, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Breaker => "breaker",
            Self::Budget => "budget",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    pub reason: Why,
    /// For people: since when, until when, how much is missing. The agent does not see it.
    pub detail: String,
}

/// A call that has failed for good on one LLM, after its retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub class: CallClass,
    /// Of its last try.
    pub epoch: Epoch,
    pub dialect: Dialect,
    /// The provider's HTTP status; None when there was no answer.
    pub status: Option<u16>,
    /// Since its first try was sent.
    pub took: Duration,
}

impl Failed {
    /// The details for the log. A missing key is proven to be bad, and so is an account without money (402). After any other
    /// refusal only a probe can tell whether the provider refused the key or the request.
    pub fn call(&self) -> FailedCall {
        let unproven =
            self.class == CallClass::Auth && self.status.is_some_and(|status| status != 402);
        let took_ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        FailedCall {
            dialect: Some(self.dialect),
            took_ms,
            unproven,
        }
    }
}

/// What the pool knows and decides about LLMs, for one attempt of one programmer. All runs of the attempt share one.
pub trait Permits: Send + Sync {
    /// Whether this LLM may be called now. Asked before a call waits for a place and again before it is sent; the epoch
    /// that was given last goes along with the call, and with its failure.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, llm: &LlmName) -> Result<Epoch, Unavailable>;

    /// Before every paid call: the attempt's cap is reserved in the day's budget. Asks the log at the first call of an
    /// attempt only; later calls are answered at once from what is known. May be dropped before it is done.
    ///
    /// # Errors
    /// The budget has no room; free LLMs may be called all the same.
    fn reserve(&self) -> BoxFuture<'_, Result<(), Unavailable>>;

    /// Called just before every paid call is sent, with the most that the attempt can have used after it. The future may be
    /// dropped before it is done.
    fn spending(&self, _: Usage) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// A call has failed for good on this LLM, with a class that speaks of the LLM and not of the request
    /// ([`CallClass::is_outage`]). At most once for each call and LLM; not for calls that were given up.
    fn failed(&self, llm: &LlmName, failed: &Failed);

    /// A call of this LLM will probably fail: it is repeated, or its time is nearly over.
    fn in_trouble(&self, llm: &LlmName);

    /// Whether this LLM has refused this task before as if the key were bad, though the key is good.
    fn refuses_the_task(&self, llm: &LlmName) -> bool;

    /// A call got a complete answer.
    fn succeeded(&self, llm: &LlmName);
}

/// Everything is allowed and nothing is remembered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl Permits for Unlimited {
    fn check(&self, _: &LlmName) -> Result<Epoch, Unavailable> {
        Ok(Epoch::default())
    }

    fn reserve(&self) -> BoxFuture<'_, Result<(), Unavailable>> {
        std::future::ready(Ok(())).boxed()
    }

    fn failed(&self, _: &LlmName, _: &Failed) {}

    fn in_trouble(&self, _: &LlmName) {}

    fn refuses_the_task(&self, _: &LlmName) -> bool {
        false
    }

    fn succeeded(&self, _: &LlmName) {}
}
