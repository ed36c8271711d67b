//! Probes over real HTTP: which answers they accept, and in which dialect they ask.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use pool_core::llm::{Dialect, Fault};
use tokio::net::TcpListener;

use super::super::probe::Probed;
use super::*;

/// A provider that gives one answer, and remembers the request.
struct OneAnswer {
    upstreams: Arc<Upstreams>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl OneAnswer {
    async fn start(status: u16, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let answer = (
            StatusCode::from_u16(status).expect("a status"),
            body.to_owned(),
        );
        let served = |State(asked): State<Arc<Mutex<Vec<_>>>>, uri: Uri, body: String| async move {
            let body = serde_json::from_str(&body).expect("JSON");
            asked
                .lock()
                .expect("no panic")
                .push((uri.path().to_owned(), body));
            answer
        };
        let router = Router::new()
            .fallback(served)
            .with_state(Arc::clone(&asked));
        tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        let good = provider(&base_url);
        let claude = Provider {
            protocol: Protocol::Anthropic,
            ..good.clone()
        };
        let providers = BTreeMap::from([("free".to_owned(), good), ("claude".to_owned(), claude)]);
        let key = |_: &str| Some(KEY.to_owned());
        let upstreams =
            Upstreams::from_parts(&providers, BTreeMap::new(), key).expect("usable providers");
        Self { upstreams, asked }
    }

    async fn probe(&self, llm: &str, dialect: Option<Dialect>) -> Probed {
        self.upstreams
            .probe(&name(llm), dialect, Duration::from_secs(10))
            .await
    }
}

fn event(kind: &str, data: &Value) -> String {
    format!("event: {kind}\ndata: {data}\n\n")
}

#[tokio::test]
async fn only_a_valid_answer_or_a_refusal_by_the_api_is_health() {
    let choice = |content: Value, reason: &str| json!({"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": reason}]});
    let incomplete = json!({
        "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
        "output": [{"type": "reasoning", "summary": []}],
        "usage": {"input_tokens": 9, "output_tokens": 16, "total_tokens": 25},
    });
    let thought = json!({"type": "message", "role": "assistant", "content": [], "stop_reason": "max_tokens",
        "usage": {"input_tokens": 9, "output_tokens": 16}});
    let refused =
        |message: &str| json!({"error": {"message": message, "type": "invalid_request_error"}});
    let (page, out) = (
        "<!DOCTYPE html><html>hello</html>".to_owned(),
        Some(Fault::Unavailable),
    );
    let (chat, responses, messages) = (
        Some(Dialect::Chat),
        Some(Dialect::Responses),
        Some(Dialect::Messages),
    );
    let streamed = event(
        "response.incomplete",
        &json!({"type": "response.incomplete", "response": incomplete}),
    );
    for (dialect, status, body, fault) in [
        (chat, 200, choice(json!("OK"), "stop").to_string(), None),
        (chat, 200, choice(Value::Null, "length").to_string(), None),
        (responses, 200, incomplete.to_string(), None),
        (responses, 200, streamed, None),
        (messages, 200, thought.to_string(), None),
        (
            chat,
            400,
            refused("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead")
                .to_string(),
            None,
        ),
        (
            chat,
            400,
            refused("Could not finish the message because max_tokens was reached").to_string(),
            None,
        ),
        (
            chat,
            422,
            json!({"detail": "temperature is required"}).to_string(),
            None,
        ),
        (chat, 400, page.clone(), out),
        (chat, 400, String::new(), out),
        (chat, 403, page.clone(), out),
        (chat, 413, page.clone(), out),
        (chat, 200, page, out),
        (chat, 200, String::new(), out),
        (chat, 200, json!({"status": "ok"}).to_string(), out),
        (
            chat,
            200,
            json!({"error": {"message": "something went wrong"}}).to_string(),
            out,
        ),
        (
            responses,
            200,
            json!({"object": "response"}).to_string(),
            out,
        ),
        (
            messages,
            200,
            json!({"type": "error", "error": {"type": "api_error", "message": "no"}}).to_string(),
            out,
        ),
        (chat, 302, String::new(), out),
        (
            chat,
            401,
            refused("wrong key").to_string(),
            Some(Fault::Auth),
        ),
        (
            chat,
            403,
            refused("forbidden").to_string(),
            Some(Fault::Auth),
        ),
        (
            responses,
            404,
            refused("no such model").to_string(),
            Some(Fault::ModelUnavailable),
        ),
        (
            chat,
            429,
            refused("slow down").to_string(),
            Some(Fault::RateLimited),
        ),
    ] {
        let provider = OneAnswer::start(status, &body).await;
        let llm = if dialect == messages {
            "claude/x"
        } else {
            "free/x"
        };
        assert_eq!(
            provider.probe(llm, dialect).await.fault,
            fault,
            "{dialect:?} {status} {body}"
        );
    }
}

#[tokio::test]
async fn a_probe_asks_in_the_dialect_that_failed_and_as_usual_when_nobody_knows() {
    let provider = OneAnswer::start(503, "").await;
    for (llm, dialect, path, limit) in [
        (
            "free/x",
            Some(Dialect::Chat),
            "/v1/chat/completions",
            "max_tokens",
        ),
        (
            "free/x",
            Some(Dialect::Responses),
            "/v1/responses",
            "max_output_tokens",
        ),
        (
            "claude/x",
            Some(Dialect::Messages),
            "/v1/messages",
            "max_tokens",
        ),
        ("free/x", None, "/v1/chat/completions", "max_tokens"),
        ("claude/x", None, "/v1/messages", "max_tokens"),
        // The pool file names another protocol for it by now.
        (
            "free/x",
            Some(Dialect::Messages),
            "/v1/chat/completions",
            "max_tokens",
        ),
    ] {
        assert_eq!(
            provider.probe(llm, dialect).await.fault,
            Some(Fault::Unavailable),
            "{dialect:?}"
        );
        let asked = provider.asked.lock().expect("no panic").last().cloned();
        let (seen, body) = asked.expect("it was asked");
        assert_eq!(
            (seen.as_str(), &body[limit]),
            (path, &json!(16)),
            "{dialect:?}: {body}"
        );
        assert_eq!(body["model"], "x", "{dialect:?}: {body}");
    }
}
