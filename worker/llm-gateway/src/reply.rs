//! What the agent gets to see: a complete answer, or one of our own errors, never the provider's.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Json, Response};
use pool_core::id::LlmName;
use serde_json::{Value, json};

use super::answer::Answer;
use super::body::Body;
use super::record::{CallClass, Out};
use super::request::{AgentRequest, prompt};

/// A complete answer, in the form that the agent asked for.
pub(super) fn answer(answer: Answer, request: &AgentRequest) -> Response {
    let (content_type, body) = answer.for_agent(request);
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(content_type))],
        body,
    )
        .into_response()
}

/// A call that no LLM has answered: always 400, because that stops every agent at once, while most other statuses make it
/// try again for a minute. The words of the classes only: no detail of the pool's, nothing that a provider said.
pub(super) fn failed(outs: &[(LlmName, Out)]) -> Response {
    let of = |out: &Out| match out {
        Out::Failed(class) => word(class),
        Out::Unavailable(_) => out.word(),
    };
    let code = outs.last().map_or("no_llm", |(_, out)| of(out));
    let message = match outs {
        [(llm, Out::Failed(class))] => format!("the call of {llm} failed: {}", word(class)),
        _ => {
            let each: Vec<String> = outs
                .iter()
                .map(|(llm, out)| format!("{llm}: {}", of(out)))
                .collect();
            format!("no LLM is left for this call: {}", each.join(", "))
        }
    };
    error(StatusCode::BAD_REQUEST, code, &message)
}

/// What the agent is told. LiteLLM, which aider uses, takes an error for a rate limit, and retries, whatever its status,
/// as soon as its text has `rate limit` in any spelling; so the word is another one here, and the provider's own
/// message is kept out.
fn word(class: &CallClass) -> &'static str {
    match class {
        CallClass::RateLimited { .. } => "throttled",
        CallClass::Ok
        | CallClass::Timeout
        | CallClass::Unavailable
        | CallClass::ModelUnavailable
        | CallClass::Auth
        | CallClass::ContextTooLong
        | CallClass::BadRequest
        | CallClass::BadAnswer
        | CallClass::Cut(_)
        | CallClass::Refused(_) => class.label(),
    }
}

/// An error as OpenAI and as Anthropic write them: neither's clients mind what the other has.
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

/// Anthropic's question how long a prompt is, before it is sent: answered here, from above, because it costs nothing
/// and decides nothing that the gateway would not decide itself.
pub(super) fn token_count(body: &[u8]) -> Response {
    match Body::read(body) {
        Ok((body, fields)) => {
            Json(json!({"input_tokens": prompt(body.text(), &fields).0})).into_response()
        }
        Err(bad) => error(StatusCode::BAD_REQUEST, "bad_request", &bad.to_string()),
    }
}
