//! A provider that answers as a test says, over real HTTP: for behaviour that the scripted LLM does
//! not have.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A received request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Timestamp,
    pub(crate) path: String,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn model(&self) -> &str {
        self.body["model"].as_str().unwrap_or_default()
    }

    /// Whether the pool itself makes the call, and not an agent with a task of `pool::tasks`.
    pub(crate) fn is_probe(&self) -> bool {
        !self.says(": change something")
    }

    /// Whether the request contains this text.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.body.to_string().contains(text)
    }

    /// A complete answer in the dialect of the request.
    pub(crate) fn ok(&self) -> Response {
        let body = match self.path.as_str() {
            "/v1/responses" => json!({
                "id": "r", "object": "response", "status": "completed", "error": null,
                "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "OK"}]}],
                "usage": {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10},
            }),
            "/v1/messages" => json!({
                "id": "m", "type": "message", "role": "assistant", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": "OK"}], "usage": {"input_tokens": 9, "output_tokens": 1},
            }),
            _chat => json!({
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "OK"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
            }),
        };
        Json(body).into_response()
    }
}

/// An error as providers write it.
pub(crate) fn error(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, Json(body)).into_response()
}

/// An HTML page.
pub(crate) fn page(status: u16) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    let html = "<!DOCTYPE html><html><head><title>Attention Required!</title></head><body>blocked</body></html>";
    (
        status,
        [(header::CONTENT_TYPE, "text/html; charset=UTF-8")],
        html,
    )
        .into_response()
}

/// Dropping it ends it.
pub(crate) struct Provider {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl Provider {
    /// `state` is the value that the test changes while the provider runs.
    pub(crate) async fn start<S, F, A>(state: &Arc<S>, answer: F) -> Self
    where
        S: Send + Sync + 'static,
        F: Fn(Arc<S>, Asked) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, state) = (Arc::clone(&asked), Arc::clone(state));
        let served = move |uri: Uri, body: String| {
            let body = serde_json::from_str(&body).unwrap_or_default();
            let request = Asked {
                at: wall_clock(),
                path: uri.path().to_owned(),
                body,
            };
            log.lock().expect("no panic").push(request.clone());
            answer(Arc::clone(&state), request)
        };
        let router = Router::new().fallback(served);
        let server =
            tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self {
            port,
            asked,
            server,
        }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// All received requests.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}
