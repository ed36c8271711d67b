//! The HTTP shell: chat completions, the list of models, rules, and the log of received requests.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::answer::{Answer, Behave, Fail, Rule, parse_rules};
use super::connection::{BreakableListener, KillSwitch};
use super::dialects;
use super::log::{LoggedRequest, OpenEntry, Shared};
use super::render::{Completion, context_too_long, error_body};
use super::script::{ChatRequest, Script};

const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// A running scripted LLM on a loopback port. Dropping it ends it.
pub struct ScriptedLlm {
    address: SocketAddr,
    shared: Shared,
    server: JoinHandle<()>,
}

impl ScriptedLlm {
    /// Listens on 127.0.0.1; port 0 chooses a free one.
    ///
    /// # Errors
    /// When the port is not free.
    pub async fn start(script: Script, port: u16) -> io::Result<Self> {
        Self::start_on(script, (Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// Listens on another address, as a container has to.
    ///
    /// # Errors
    /// When the port is not free.
    pub async fn start_on(script: Script, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Shared::default();
        shared.lock().script = script;
        let service = router(shared.clone()).into_make_service_with_connect_info::<KillSwitch>();
        let server = tokio::spawn(async move {
            // Serving never ends and never fails, because a failed accept is retried.
            let _ = axum::serve(BreakableListener(listener), service).await;
        });
        Ok(Self {
            address,
            shared,
            server,
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The `base_url` for a provider in the pool file.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn set_rules(&self, rules: Vec<Rule>) {
        self.shared.set_rules(rules);
    }

    /// The newest 10,000 requests, oldest first.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.shared.requests(0)
    }

    /// Serves until the process ends.
    pub async fn wait(mut self) {
        let _ = (&mut self.server).await;
    }
}

impl Drop for ScriptedLlm {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .merge(dialects::routes())
        .route("/v1/models", get(models))
        .route("/script/rules", put(put_rules))
        .route("/script/requests", get(requests))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(shared)
}

async fn models(State(shared): State<Shared>) -> Json<Value> {
    let mut names = shared.lock().script.models().to_vec();
    if names.is_empty() {
        names.push("scripted".to_owned());
    }
    let data: Vec<Value> = names
        .iter()
        .map(|id| json!({"id": id, "object": "model", "owned_by": "script"}))
        .collect();
    Json(json!({"object": "list", "data": data}))
}

async fn put_rules(State(shared): State<Shared>, body: Bytes) -> Response {
    match parse_rules(&body) {
        Ok(rules) => {
            let count = rules.len();
            shared.set_rules(rules);
            Json(json!({"rules": count})).into_response()
        }
        Err(error) => bad_request(error.to_string()),
    }
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn requests(
    State(shared): State<Shared>,
    Query(After { after }): Query<After>,
) -> Json<Vec<LoggedRequest>> {
    Json(shared.requests(after))
}

async fn chat(
    State(shared): State<Shared>,
    ConnectInfo(switch): ConnectInfo<KillSwitch>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let token_hash = token_hash(&headers);
    let body: Value = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(error) => {
            let entry = shared.begin(&token_hash, &ChatRequest::default(), &Value::Null);
            let message = Some(format!("the request is not JSON: {error}"));
            return failure(
                entry,
                &Fail {
                    status: 400,
                    message,
                    ..Fail::default()
                },
            );
        }
    };
    let request = ChatRequest::read(&body);
    let entry = shared.begin(&token_hash, &request, &body);
    shared.held(&request).await;
    let (serves, answer) = {
        let mut inner = shared.lock();
        (
            inner.script.serves(&request.model),
            inner.script.answer(&token_hash, &request),
        )
    };
    if !serves {
        let message = format!("the model `{}` does not exist", request.model);
        return failure(
            entry,
            &Fail {
                status: 404,
                message: Some(message),
                ..Fail::default()
            },
        );
    }
    match answer {
        Ok(answer) => play(&request, &answer, entry, &switch).await,
        Err(error) => failure(
            entry,
            &Fail {
                status: 400,
                message: Some(error.to_string()),
                ..Fail::default()
            },
        ),
    }
}

async fn play(
    request: &ChatRequest,
    answer: &Answer,
    entry: OpenEntry,
    switch: &KillSwitch,
) -> Response {
    if let Some(delay) = answer.delay {
        tokio::time::sleep(delay).await;
    }
    if let Some(fail) = &answer.fail {
        return failure(entry, fail);
    }
    let completion = Completion::new(request, answer);
    match answer.behave {
        None | Some(Behave::Empty | Behave::Length) => {
            entry.end(Some(200), "ok");
            whole(request, &completion)
        }
        Some(Behave::Hang) => std::future::pending().await,
        Some(Behave::Drop) => {
            switch.close();
            entry.end(None, "dropped");
            StatusCode::OK.into_response()
        }
        Some(Behave::Reset) => {
            switch.reset();
            entry.end(None, "reset");
            StatusCode::OK.into_response()
        }
        Some(Behave::CutStream) => {
            entry.end(Some(200), "cut");
            cut(request, &completion)
        }
        Some(Behave::BrokenJson) => {
            entry.end(Some(200), "broken json");
            let body = completion.body().to_string();
            json_text(body.chars().take(body.chars().count() / 2).collect())
        }
        Some(Behave::NoChoices) => {
            entry.end(Some(200), "no choices");
            Json(completion.body_without_choices()).into_response()
        }
        Some(Behave::ContextTooLong) => failure(entry, &context_too_long()),
    }
}

pub(super) fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn whole(request: &ChatRequest, completion: &Completion) -> Response {
    if request.stream {
        let events = completion.events(request.include_usage).concat();
        ([(header::CONTENT_TYPE, "text/event-stream")], events).into_response()
    } else {
        Json(completion.body()).into_response()
    }
}

fn cut(request: &ChatRequest, completion: &Completion) -> Response {
    let (content_type, text) = if request.stream {
        (
            "text/event-stream",
            completion.events(request.include_usage).concat(),
        )
    } else {
        ("application/json", completion.body().to_string())
    };
    break_off(content_type, &text)
}

/// Sends the first half of a text as if there were more, then breaks the connection.
pub(super) fn break_off(content_type: &'static str, text: &str) -> Response {
    let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
    let broken = stream::once(async {
        // Lets the server send the half before the connection breaks.
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    let body = Body::from_stream(stream::iter([Ok(half)]).chain(broken));
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

fn failure(entry: OpenEntry, fail: &Fail) -> Response {
    entry.end(Some(fail.status), "failed");
    failed(fail, error_body(fail))
}

pub(super) fn failed(fail: &Fail, body: Value) -> Response {
    let status = StatusCode::from_u16(fail.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(body)).into_response();
    if let Some(seconds) = fail.retry_after_s {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn bad_request(message: String) -> Response {
    let fail = Fail {
        status: 400,
        message: Some(message),
        ..Fail::default()
    };
    (StatusCode::BAD_REQUEST, Json(error_body(&fail))).into_response()
}

pub(super) fn token_hash(headers: &HeaderMap) -> String {
    let key = headers
        .get(header::AUTHORIZATION)
        .or_else(|| headers.get("x-api-key"));
    let digest = Sha256::digest(key.map(HeaderValue::as_bytes).unwrap_or_default());
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
