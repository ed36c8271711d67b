//! What the gateway saw: one entry for each call that an agent made. The first evidence about a run.

use std::time::Duration;

use pool_shared::id::LlmName;
use pool_shared::money::MicroUsd;
use pool_shared::result::Usage;

/// The outcome of one LLM call, classified once, in `classify.rs`; everything downstream matches on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallClass {
    /// A complete answer of the protocol.
    Ok,
    RateLimited {
        retry_after: Option<Duration>,
    },
    Timeout,
    /// 5xx, no connection, a connection that broke.
    Unavailable,
    /// The provider does not serve this model.
    ModelUnavailable,
    Auth,
    ContextTooLong,
    BadRequest,
    /// 200, but no valid answer of the protocol: broken JSON, no choices.
    BadAnswer,
    /// Refused by the gateway itself: the task's token or cost limit would be passed.
    Refused,
}

/// One call of the agent.
#[derive(Debug, Clone)]
pub struct Call {
    pub llm: LlmName,
    pub class: CallClass,
    /// HTTP status of the provider; None when there was no answer.
    pub status: Option<u16>,
    /// For people: what the provider said, or what went wrong.
    pub message: String,
    /// `stop`, `length`, `content_filter`, … as the provider gave it.
    pub finish_reason: Option<String>,
    /// True when the answer held neither text nor tool calls.
    pub empty: bool,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    /// The provider gave no usage; the numbers are upper estimates.
    pub estimated: bool,
    pub cost: MicroUsd,
    /// From the arrival of the agent's request to the end of the answer, waiting for a free place included.
    pub duration: Duration,
}

/// All calls of one run, in the order in which they ended.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub calls: Vec<Call>,
    /// Calls that have not ended yet.
    pub open_calls: usize,
}

impl Record {
    pub fn last(&self) -> Option<&Call> {
        self.calls.last()
    }

    pub fn llm_time(&self) -> Duration {
        self.calls.iter().map(|call| call.duration).sum()
    }

    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for call in &self.calls {
            usage.calls += 1;
            usage.failed_calls += u64::from(call.class != CallClass::Ok);
            usage.input_tokens += call.input_tokens;
            usage.cached_input_tokens += call.cached_input_tokens;
            usage.output_tokens += call.output_tokens;
            usage.cost_usd += call.cost;
            usage.estimated |= call.estimated;
        }
        usage
    }
}
