//! One small call of the pool's own: whether an LLM is back.

use std::time::Duration;

use axum::http::HeaderMap;
use pool_shared::config::Protocol;
use pool_shared::id::LlmName;
use pool_shared::llm::Fault;
use pool_shared::money::MicroUsd;
use pool_shared::time::wall_clock;
use serde_json::json;

use super::classify::{Outcome, classify};
use super::pricing::{Admission, Room, Tariff, admit};
use super::protocol::{Dialect, Envelope};
use super::record::CallClass;
use super::request::AgentRequest;
use super::session::charged;
use super::upstream::{Upstream, Upstreams};

/// What a probe may answer.
const OUTPUT_TOKENS: u64 = 16;
const ROOM: Room = Room { tokens: 1_000_000, cost: MicroUsd(u64::MAX), context: 100_000 };

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// None: it answered; or it refused the question, which also only somebody can who is there.
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
    /// The most that a probe of this LLM can cost; None when it cannot be called at all.
    pub fn probe_cost(&self, llm: &LlmName) -> Option<MicroUsd> {
        self.question(llm).map(|question| question.tariff.cost(question.admission.worst))
    }

    /// Asks. An LLM that cannot be called at all is out.
    pub async fn probe(&self, llm: &LlmName, timeout: Duration) -> Probed {
        let Some(Question { upstream, tariff, request, admission }) = self.question(llm) else {
            return Probed { fault: Some(Fault::Unavailable), retry_after: None, cost: MicroUsd::ZERO };
        };
        let body = request.for_provider(llm.model(), Some(OUTPUT_TOKENS), upstream.limit_field());
        let exchange = upstream.send(&request, body, timeout).await;
        let outcome = classify(exchange, wall_clock(), upstream.secret());
        let (tokens, _) = charged(&outcome, admission.worst);
        let class = match &outcome {
            // A probe's limit is shorter than some LLMs think. An LLM that answers at all is there.
            Outcome::Answer(_) | Outcome::Cut(..) => CallClass::Ok,
            Outcome::Failure(failure) => failure.class.clone(),
        };
        let (fault, retry_after) = class.fault().unzip();
        Probed { fault, retry_after: retry_after.flatten(), cost: tariff.cost(tokens) }
    }

    fn question(&self, llm: &LlmName) -> Option<Question<'_>> {
        let (upstream, tariff) = (self.provider(llm)?, self.tariff(llm)?);
        let (dialect, limit) = match upstream.protocol() {
            Protocol::OpenAi => (Dialect::Chat, upstream.limit_field()),
            Protocol::Anthropic => (Dialect::Messages, "max_tokens"),
        };
        let body = json!({"messages": [{"role": "user", "content": "Answer with the word OK."}], limit: OUTPUT_TOKENS});
        let envelope = Envelope::read(dialect, &HeaderMap::new(), None);
        let request = AgentRequest::read(envelope, body.to_string().as_bytes()).ok()?;
        let admission = admit(request.demand, tariff, ROOM).ok()?;
        Some(Question { upstream, tariff, request, admission })
    }
}
