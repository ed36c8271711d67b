//! One small call of the pool's own, to see whether an LLM is back. It uses the dialect that failed
//! and is sent like an agent's call. Only a valid answer counts.

use std::time::Duration;

use axum::http::HeaderMap;
use pool_core::id::LlmName;
use pool_core::llm::{Dialect, Fault};
use pool_core::money::MicroUsd;
use pool_core::pool::Protocol;
use pool_telemetry::clock::wall_clock;
use serde_json::json;
use tokio::sync::SemaphorePermit;

use super::charge::Charge;
use super::class::CallClass;
use super::classify::{CallOutcome, Exchange, classify};
use super::moderation::is_api_error;
use super::pricing::{Admission, CallAllowance, Tariff, admit};
use super::protocol::RequestHead;
use super::request::AgentRequest;
use super::upstream::{Upstream, Upstreams};

/// The output limit of a probe: the smallest that Responses accepts. A model that spends it all on
/// thinking is back, too.
const OUTPUT_TOKENS: u64 = 16;
const ROOM: CallAllowance = CallAllowance {
    tokens: 1_000_000,
    cost: MicroUsd(u64::MAX),
    context: 100_000,
};

/// The outcome of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// None: the LLM answered, or its API refused the question, which also proves that it is up.
    pub fault: Option<Fault>,
    pub retry_after: Option<Duration>,
    pub cost: MicroUsd,
}

/// A probe that is ready to be sent.
struct Question<'a> {
    upstream: &'a Upstream,
    tariff: Tariff,
    request: AgentRequest,
    admission: Admission,
}

impl Upstreams {
    /// Waits for a place under `max_concurrent`, as calls do. A provider that takes one call at a
    /// time must not refuse a probe because of another call.
    pub async fn place_for_probe(&self, llm: &LlmName) -> Option<SemaphorePermit<'_>> {
        self.provider(llm)?.place().await
    }

    /// The most that a probe of this LLM can cost; None if the LLM cannot be called at all.
    /// `dialect` is the one that failed.
    pub fn probe_cost(&self, llm: &LlmName, dialect: Option<Dialect>) -> Option<MicroUsd> {
        self.question(llm, dialect)
            .map(|question| question.admission.cost)
    }

    /// Sends the probe. An LLM that cannot be called at all counts as out.
    pub async fn probe(
        &self,
        llm: &LlmName,
        dialect: Option<Dialect>,
        timeout: Duration,
    ) -> Probed {
        let Some(Question {
            upstream,
            tariff,
            request,
            admission,
        }) = self.question(llm, dialect)
        else {
            return Probed {
                fault: Some(Fault::Unavailable),
                retry_after: None,
                cost: MicroUsd::ZERO,
            };
        };
        let body = request.for_provider(
            llm.model(),
            Some(OUTPUT_TOKENS),
            upstream.terms(self.limits.of(llm)),
        );
        let mut exchange = upstream.send(&request, body, timeout).await;
        let mut refused_by_api = false;
        if let Exchange::Answered {
            form, status, body, ..
        } = &mut exchange
        {
            // Some servers always answer with a stream, because agents ask for one.
            let starts = |word: &[u8]| body.trim_ascii_start().starts_with(word);
            form.stream |= starts(b"event:") || starts(b"data:");
            refused_by_api = (400..500).contains(status) && is_api_error(body);
        }
        let outcome = classify(exchange, wall_clock(), upstream.secret());
        let charge = Charge::of(llm, &outcome, &tariff, admission, 0);
        let (fault, retry_after) = match &outcome {
            // Some LLMs think longer than a probe's limit. An LLM that answers at all is back.
            CallOutcome::Answer(_) | CallOutcome::Cut(..) => (None, None),
            CallOutcome::Failure(failure) => fault_of(&failure.class, refused_by_api),
        };
        Probed {
            fault,
            retry_after,
            cost: charge.cost,
        }
    }

    fn question(&self, llm: &LlmName, dialect: Option<Dialect>) -> Option<Question<'_>> {
        let (upstream, tariff) = (self.provider(llm)?, self.tariff(llm, wall_clock())?);
        let usual = match upstream.protocol() {
            Protocol::OpenAi => Dialect::Chat,
            Protocol::Anthropic => Dialect::Messages,
        };
        // The pool file may name another protocol for it by now.
        let dialect = dialect
            .filter(|dialect| self.speaks(llm, *dialect))
            .unwrap_or(usual);
        let text = json!([{"role": "user", "content": "Answer with the word OK."}]);
        let body = match dialect {
            Dialect::Chat => {
                json!({"messages": text, upstream.terms(self.limits.of(llm)).limit_field.usual(): OUTPUT_TOKENS})
            }
            Dialect::Responses => {
                json!({"input": text, "max_output_tokens": OUTPUT_TOKENS, "store": false})
            }
            Dialect::Messages => json!({"messages": text, "max_tokens": OUTPUT_TOKENS}),
        };
        let head = RequestHead::read(dialect, &HeaderMap::new(), None);
        let request = AgentRequest::read(head, body.to_string().as_bytes()).ok()?;
        let admission = admit(request.demand, &tariff, ROOM).ok()?;
        Some(Question {
            upstream,
            tariff,
            request,
            admission,
        })
    }
}

/// The fault that a failed probe proves, if any.
fn fault_of(class: &CallClass, refused_by_api: bool) -> (Option<Fault>, Option<Duration>) {
    match class {
        // An API that explains the error in this question would answer a better one.
        CallClass::BadRequest | CallClass::ContextTooLong if refused_by_api => (None, None),
        CallClass::Ok | CallClass::Cut(_) => (None, None),
        CallClass::BadRequest
        | CallClass::ContextTooLong
        | CallClass::BadAnswer
        | CallClass::Refused(_) => (Some(Fault::Unavailable), None),
        CallClass::RateLimited { .. }
        | CallClass::Timeout
        | CallClass::Unavailable { .. }
        | CallClass::ModelUnavailable
        | CallClass::Auth => {
            let (fault, retry_after) = class.fault().unzip();
            (fault, retry_after.flatten())
        }
    }
}
