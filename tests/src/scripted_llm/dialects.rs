//! The HTTP shell for agents that edit through tools: Responses and Messages. The same script
//! decides the answers.

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use serde_json::Value;

use super::answer::{Answer, Behave, Fail};
use super::connection::KillSwitch;
use super::log::{OpenEntry, Shared};
use super::server::{break_off, failed, json_text, token_hash};
use super::turn::{Conversation, Turn};
use super::{messages, render, responses};

#[derive(Debug, Clone, Copy)]
enum Dialect {
    Responses,
    Messages,
}

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/responses",
            post(|shared, switch, headers, body| {
                serve(Dialect::Responses, shared, switch, headers, body)
            }),
        )
        .route(
            "/v1/messages",
            post(|shared, switch, headers, body| {
                serve(Dialect::Messages, shared, switch, headers, body)
            }),
        )
}

async fn serve(
    dialect: Dialect,
    State(shared): State<Shared>,
    ConnectInfo(switch): ConnectInfo<KillSwitch>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body: Value = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(error) => {
            let message = format!("the request is not JSON: {error}");
            let fail = Fail {
                status: 400,
                message: Some(message),
                ..Fail::default()
            };
            return failed(&fail, dialect.error_body(&fail));
        }
    };
    let conversation = dialect.read(&body);
    let token_hash = token_hash(&headers);
    let entry = shared.begin(&token_hash, &conversation.request, &short(body));
    shared.held(&conversation.request).await;
    let (serves, answer) = {
        let mut inner = shared.lock();
        let request = &conversation.request;
        (
            inner.script.serves(&request.model),
            inner.script.answer(&token_hash, request),
        )
    };
    let mistake = |status, message| Fail {
        status,
        message: Some(message),
        ..Fail::default()
    };
    match answer {
        _ if !serves => {
            let message = format!("the model `{}` does not exist", conversation.request.model);
            dialect.fail(entry, &mistake(404, message))
        }
        Ok(answer) => dialect.play(&conversation, &answer, entry, &switch).await,
        Err(error) => dialect.fail(entry, &mistake(400, error.to_string())),
    }
}

/// The parts of a request that the log keeps.
fn short(mut body: Value) -> Value {
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|name, _| {
            !["input", "instructions", "system", "tools"].contains(&name.as_str())
        });
    }
    body
}

impl Dialect {
    fn read(self, body: &Value) -> Conversation {
        match self {
            Self::Responses => responses::read(body),
            Self::Messages => messages::read(body),
        }
    }

    fn error_body(self, fail: &Fail) -> Value {
        match self {
            Self::Responses => render::error_body(fail),
            Self::Messages => messages::error_body(fail),
        }
    }

    fn fail(self, entry: OpenEntry, fail: &Fail) -> Response {
        entry.end(Some(fail.status), "failed");
        failed(fail, self.error_body(fail))
    }

    async fn play(
        self,
        conversation: &Conversation,
        answer: &Answer,
        entry: OpenEntry,
        switch: &KillSwitch,
    ) -> Response {
        if let Some(delay) = answer.delay {
            tokio::time::sleep(delay).await;
        }
        if let Some(fail) = &answer.fail {
            return self.fail(entry, fail);
        }
        let whole = |hollow| self.text(conversation, &Turn::new(conversation, answer), hollow);
        let (outcome, content_type, text) = match answer.behave {
            None | Some(Behave::Empty | Behave::Length) => {
                ("ok", self.content_type(conversation), whole(false))
            }
            Some(Behave::NoChoices) => ("no choices", self.content_type(conversation), whole(true)),
            Some(Behave::BrokenJson) => (
                "broken json",
                self.content_type(conversation),
                broken(conversation, &whole(false)),
            ),
            Some(Behave::CutStream) => {
                entry.end(Some(200), "cut");
                return break_off(self.content_type(conversation), &whole(false));
            }
            Some(Behave::Hang) => return std::future::pending().await,
            Some(Behave::Drop) => {
                switch.close();
                entry.end(None, "dropped");
                return StatusCode::OK.into_response();
            }
            Some(Behave::Reset) => {
                switch.reset();
                entry.end(None, "reset");
                return StatusCode::OK.into_response();
            }
            Some(Behave::ContextTooLong) => {
                let fail = match self {
                    Self::Responses => render::context_too_long(),
                    Self::Messages => messages::context_too_long(),
                };
                return self.fail(entry, &fail);
            }
        };
        entry.end(Some(200), outcome);
        if conversation.request.stream {
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        } else {
            json_text(text)
        }
    }

    fn content_type(self, conversation: &Conversation) -> &'static str {
        if conversation.request.stream {
            "text/event-stream"
        } else {
            "application/json"
        }
    }

    /// The whole answer in the form that the agent asked for. With `hollow` it lacks its content.
    fn text(self, conversation: &Conversation, turn: &Turn, hollow: bool) -> String {
        let (body, events) = match self {
            Self::Responses => {
                let body = responses::body(conversation, turn);
                let body = if hollow {
                    responses::hollow(body)
                } else {
                    body
                };
                let events = responses::events(conversation, turn, &body);
                (body, events)
            }
            Self::Messages => {
                let body = messages::body(conversation, turn);
                let body = if hollow { messages::hollow(body) } else { body };
                // Without its first event the stream holds no message.
                let events = messages::events(conversation, turn, &body)
                    .into_iter()
                    .skip(usize::from(hollow));
                (body, events.collect())
            }
        };
        if !conversation.request.stream {
            return body.to_string();
        }
        let event = |event: &Value| {
            format!(
                "event: {}\ndata: {event}\n\n",
                event["type"].as_str().unwrap_or_default()
            )
        };
        events.iter().map(event).collect()
    }
}

/// Half a JSON text; in a stream it is a whole event.
fn broken(conversation: &Conversation, whole: &str) -> String {
    let half: String = whole.chars().take(whole.chars().count() / 2).collect();
    if !conversation.request.stream {
        return half;
    }
    let last = half.rfind("data: {").map_or(0, |at| at + "data: {".len());
    format!("{}\"\n\n", &half[..last])
}

#[cfg(test)]
#[path = "dialects_tests.rs"]
mod tests;
