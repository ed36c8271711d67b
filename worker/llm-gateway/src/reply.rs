//! The replies to the agent: a complete answer, or an error of our own, never the provider's.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Json, Response};
use pool_core::id::LlmName;
use serde_json::{Value, json};

use super::answer::ProviderAnswer;
use super::class::CallClass;
use super::protocol::RequestBody;
use super::record::NotAnswered;
use super::request::{AgentRequest, prompt};

/// A complete answer, in the form that the agent asked for. `llm` is the name that the agent knows.
pub(super) fn answer(answer: ProviderAnswer, llm: &LlmName, request: &AgentRequest) -> Response {
    let (content_type, body) = answer.for_agent(llm.as_str(), request);
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(content_type))],
        body,
    )
        .into_response()
}

/// The reply to a call that no LLM has answered. The status is always 400, because that stops every
/// agent at once. Most other statuses make an agent try again for a minute. The message names only
/// the classes: no detail of the pool, and nothing from a provider.
pub(super) fn failed(not_answered: &[(LlmName, NotAnswered)]) -> Response {
    let of = |out: &NotAnswered| match out {
        NotAnswered::Failed(class) => word(class),
        NotAnswered::Unavailable(_) => out.word(),
    };
    let code = not_answered.last().map_or("no_llm", |(_, out)| of(out));
    let message = match not_answered {
        [(llm, NotAnswered::Failed(class))] => format!("the call to {llm} failed: {}", word(class)),
        _ => {
            let each: Vec<String> = not_answered
                .iter()
                .map(|(llm, out)| format!("{llm}: {}", of(out)))
                .collect();
            format!("no LLM is left for this call: {}", each.join(", "))
        }
    };
    error(StatusCode::BAD_REQUEST, code, &message)
}

/// The word for a class in replies to the agent. LiteLLM, which aider uses, takes every error whose
/// text contains `rate limit` in any spelling for a rate limit, and retries. So this word differs,
/// and the provider's own message is left out.
fn word(class: &CallClass) -> &'static str {
    if let CallClass::RateLimited { .. } = class {
        "throttled"
    } else {
        class.label()
    }
}

/// An error in the shape of OpenAI and of Anthropic at once. The clients of each ignore the other's
/// fields.
pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({"type": "error", "error": {"message": message, "type": "invalid_request_error", "param": null, "code": code}});
    (status, Json(body)).into_response()
}

/// The task's LLMs.
pub(super) fn models(llms: &[LlmName]) -> Response {
    let models = llms
        .iter()
        .map(|llm| json!({"id": llm, "object": "model", "owned_by": llm.provider()}));
    Json(json!({"object": "list", "data": models.collect::<Vec<Value>>()})).into_response()
}

/// Answers Anthropic's question for the length of a prompt, with an upper estimate. That costs
/// nothing, and the gateway decides by its own count in any case.
pub(super) fn token_count(body: &[u8]) -> Response {
    match RequestBody::read(body) {
        Ok((body, fields)) => {
            Json(json!({"input_tokens": prompt(body.text(), &fields).0})).into_response()
        }
        Err(bad) => error(StatusCode::BAD_REQUEST, "bad_request", &bad.to_string()),
    }
}
