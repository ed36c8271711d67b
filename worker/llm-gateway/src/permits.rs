//! Whether an LLM may be called at all, as one attempt of one programmer sees it: the pool knows
//! the breakers and decides the budget. The gateway asks before every call and reports every
//! outcome. It makes none of these decisions itself.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use pool_core::event::FailedCall;
use pool_core::id::LlmName;
use pool_core::llm::Dialect;
use pool_core::result::Usage;

use super::class::CallClass;

/// The generation of a breaker, which rises each time the breaker opens or closes. A call carries
/// the one it began under, so a late failure does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch(pub u64);

/// Why an LLM is not available to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnavailableReason {
    /// Its breaker is open.
    Breaker,
    /// The attempt's cap does not fit into the day's budget.
    Budget,
}

impl UnavailableReason {
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
    pub reason: UnavailableReason,
    /// For people: since when, until when, how much is missing. The agent does not see it.
    pub detail: String,
}

/// A call that has failed on one LLM, after its retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmFailure {
    pub class: CallClass,
    /// The epoch of its last try.
    pub epoch: Epoch,
    pub dialect: Dialect,
    /// The provider's HTTP status; None if no answer came.
    pub status: Option<u16>,
    /// The time since its first try was sent.
    pub took: Duration,
}

impl LlmFailure {
    /// The details for the log. A missing key and an account without money (402) prove that the key
    /// is bad. After any other refusal only a probe can tell whether the provider refused the key
    /// or the request.
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

/// The pool's knowledge and decisions about LLMs, for one attempt of one programmer. All runs of
/// the attempt share one.
pub trait Permits: Send + Sync {
    /// Whether this LLM may be called now. The gateway asks before a call waits for a place, and
    /// again before it is sent. The last epoch belongs to the call and to its failure.
    ///
    /// # Errors
    /// Why the LLM may not be called.
    fn check(&self, llm: &LlmName) -> Result<Epoch, Unavailable>;

    /// Reserves the attempt's cap in the day's budget; called before every paid call. Only the
    /// first call of an attempt asks the log; later calls get the known answer at once. The future
    /// may be dropped before it is done.
    ///
    /// # Errors
    /// The cap does not fit into the budget. Free LLMs may still be called.
    fn reserve(&self) -> BoxFuture<'_, Result<(), Unavailable>>;

    /// Called just before every paid call is sent, with the most that the attempt can have used
    /// after it. The future may be dropped before it is done.
    fn spending(&self, _: Usage) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// Reports a call that has failed on this LLM, if its class is a fault of the LLM and not of
    /// the request ([`CallClass::is_outage`]). At most once for each call and LLM; never for an
    /// abandoned call.
    fn failed(&self, llm: &LlmName, failed: &LlmFailure);

    /// Reports that a call of this LLM will probably fail: it is repeated, or its time is nearly
    /// over.
    fn in_trouble(&self, llm: &LlmName);

    /// Whether this LLM has refused this task before as if the key were bad, although the key is
    /// good.
    fn refuses_the_task(&self, llm: &LlmName) -> bool;

    /// Reports a call that got a complete answer.
    fn succeeded(&self, llm: &LlmName);
}

/// Allows everything and remembers nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl Permits for Unlimited {
    fn check(&self, _: &LlmName) -> Result<Epoch, Unavailable> {
        Ok(Epoch::default())
    }

    fn reserve(&self) -> BoxFuture<'_, Result<(), Unavailable>> {
        std::future::ready(Ok(())).boxed()
    }

    fn failed(&self, _: &LlmName, _: &LlmFailure) {}

    fn in_trouble(&self, _: &LlmName) {}

    fn refuses_the_task(&self, _: &LlmName) -> bool {
        false
    }

    fn succeeded(&self, _: &LlmName) {}
}
