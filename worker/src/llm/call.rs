//! One call of an agent, from its request to the reply.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use pool_shared::id::LlmName;
use pool_shared::time::wall_clock;

use super::classify::{Failure, Outcome, classify};
use super::pricing::Refusal;
use super::protocol::{Dialect, Envelope};
use super::record::CallClass;
use super::reply;
use super::request::AgentRequest;
use super::session::{OpenCall, SessionState};
use super::upstream::{Upstream, Upstreams};

/// Answers the agent's request, whose body could be read or was too large.
pub(super) async fn answer(
    session: &Arc<SessionState>,
    upstreams: &Upstreams,
    envelope: Envelope,
    body: Result<&[u8], usize>,
) -> Response {
    // The place of failover: the next step takes the LLMs in an order that `failover.rs` gives (primary, backups,
    // without open breakers, within the budget) and tries each with `attempt`, until one has answered.
    let dialect = envelope.dialect;
    let Some(first) = session.plan.llms.first() else {
        return reply::error(StatusCode::BAD_REQUEST, "no_llm", "the task has no LLM");
    };
    let Some(llm) = session.plan.llms.iter().find(|llm| upstreams.speaks(llm, dialect)) else {
        return give_up(session.begin(first), first, nobody_speaks(dialect, first));
    };
    let call = session.begin(llm);
    let request = match read(envelope, body) {
        Ok(request) => request,
        Err(failure) => return give_up(call, llm, failure),
    };
    let outcome = tokio::select! {
        biased;
        () = session.ended.cancelled() => {
            return reply::error(StatusCode::UNAUTHORIZED, "session_ended", "the task has ended");
        }
        outcome = attempt(upstreams, llm, &request, call) => outcome,
    };
    match outcome {
        Outcome::Answer(answer) => reply::answer(answer.named(llm.as_str()), &request),
        Outcome::Failure(failure) => reply::failed(llm, &failure.class),
    }
}

/// The LLMs that are served in another protocol than the agent's are none for it.
fn nobody_speaks(dialect: Dialect, first: &LlmName) -> Failure {
    let provider = first.provider();
    let advice = match dialect {
        Dialect::Chat | Dialect::Responses => {
            "set its base_url to an OpenAI-compatible endpoint and protocol to openai"
        }
        Dialect::Messages => "set protocol to anthropic, and base_url where the provider serves Messages",
    };
    let message = format!("the agent speaks {dialect}, which no provider of its LLMs does; for {provider}: {advice}");
    Failure::unsent(CallClass::BadRequest, message)
}

fn read(envelope: Envelope, body: Result<&[u8], usize>) -> Result<AgentRequest, Failure> {
    match body {
        Ok(body) => AgentRequest::read(envelope, body)
            .map_err(|error| Failure::unsent(CallClass::BadRequest, error.to_string())),
        Err(limit) => {
            Err(Failure::unsent(CallClass::ContextTooLong, format!("the request is longer than {limit} bytes")))
        }
    }
}

/// The agent's own mistake: it is told what is wrong.
fn give_up(call: OpenCall, llm: &LlmName, failure: Failure) -> Response {
    let message = format!("the call of {llm} was not made: {}", failure.message);
    let code = failure.class.label();
    call.end(&Outcome::Failure(failure));
    reply::error(StatusCode::BAD_REQUEST, code, &message)
}

/// One try with one LLM, recorded whatever becomes of it.
async fn attempt(upstreams: &Upstreams, llm: &LlmName, request: &AgentRequest, mut call: OpenCall) -> Outcome {
    let outcome = match prepare(upstreams, llm, request, &mut call) {
        Err(failure) => Outcome::Failure(failure),
        Ok((upstream, body)) => {
            let timeout = call.timeout();
            let _place = upstream.place().await;
            call.sent();
            let exchange = upstream.send(request, body, timeout).await;
            classify(exchange, wall_clock(), upstream.secret())
        }
    };
    call.end(&outcome);
    outcome
}

/// Everything that can be known before a place is waited for: the provider, the price, the room that is left.
fn prepare<'a>(
    upstreams: &'a Upstreams,
    llm: &LlmName,
    request: &AgentRequest,
    call: &mut OpenCall,
) -> Result<(&'a Upstream, Vec<u8>), Failure> {
    let provider = llm.provider();
    let unusable = |message: String| Failure::unsent(CallClass::BadRequest, message);
    let upstream =
        upstreams.provider(llm).ok_or_else(|| unusable(format!("provider {provider} is not in the pool file")))?;
    if !upstreams.speaks(llm, request.envelope.dialect) {
        return Err(nobody_speaks(request.envelope.dialect, llm));
    }
    let tariff = upstreams.tariff(llm).ok_or_else(|| unusable(format!("prices has no entry for {llm}")))?;
    let admission = call.reserve(request.demand, tariff).map_err(|refusal| {
        let class = match refusal {
            Refusal::Tokens { .. } | Refusal::Cost { .. } => CallClass::Refused,
            Refusal::Context { .. } => CallClass::ContextTooLong,
        };
        Failure::unsent(class, refusal.to_string())
    })?;
    Ok((upstream, request.for_provider(llm.model(), admission.output_limit, upstream.limit_field())))
}
