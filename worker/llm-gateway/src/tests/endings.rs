//! Where an answer ends, and how. The provider in these tests writes given bytes and decides what
//! its connection does.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;

/// The behaviour of a provider after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It sends nothing more and keeps the connection open.
    KeepsOpen,
    /// It writes this again and again until the connection closes.
    GoesOn(&'static str),
}

/// A provider of raw bytes. Every connection gets the next answer; the last answer is repeated.
struct RawProvider {
    address: std::net::SocketAddr,
    /// One message for each connection that the gateway has closed.
    closed: mpsc::UnboundedReceiver<()>,
}

impl RawProvider {
    async fn start(head: &str, pieces: Vec<Vec<u8>>, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (tell, closed) = mpsc::unbounded_channel();
        let head = format!("HTTP/1.1 {head}\r\ntransfer-encoding: chunked\r\n\r\n");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (head, pieces, tell) = (head.clone(), pieces.clone(), tell.clone());
                tokio::spawn(async move {
                    serve(stream, &head, &pieces, then).await;
                    let _ = tell.send(());
                });
            }
        });
        Self { address, closed }
    }

    async fn events(text: &str, then: Then) -> Self {
        Self::start(
            "200 OK\r\ncontent-type: text/event-stream",
            vec![text.into()],
            then,
        )
        .await
    }

    async fn json(text: &str, then: Then) -> Self {
        Self::start(
            "200 OK\r\ncontent-type: application/json",
            vec![text.into()],
            then,
        )
        .await
    }
}

async fn serve(mut stream: TcpStream, head: &str, pieces: &[Vec<u8>], then: Then) {
    read_request(&mut stream).await;
    let _ = stream.write_all(head.as_bytes()).await;
    for piece in pieces {
        if write_chunk(&mut stream, piece).await.is_err() {
            return;
        }
    }
    if let Then::GoesOn(more) = then {
        while write_chunk(&mut stream, more.as_bytes()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        return;
    }
    // Until the gateway closes its side.
    let _ = stream.read(&mut [0; 1]).await;
}

async fn write_chunk(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    stream.write_all(&chunk).await?;
    stream.flush().await
}

/// Reads the head of a request and the body that it announces.
async fn read_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let announced = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= announced.unwrap_or(0) {
                return;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend_from_slice(&buffer[..read]),
        }
    }
}

/// A gateway whose only provider writes bytes, and one session.
struct RawRig {
    provider: RawProvider,
    session: LlmSession,
    client: Client,
    /// Keeps the sessions alive.
    _gateway: Gateway,
}

/// A way for an agent to ask, and an LLM that is served that way.
#[derive(Debug, Clone, Copy)]
struct Way {
    path: &'static str,
    llm: &'static str,
    stream: bool,
}

const CHAT: Way = Way {
    path: "chat/completions",
    llm: "raw/gpt",
    stream: false,
};
const RESPONSES: Way = Way {
    path: "responses",
    llm: "raw/gpt",
    stream: true,
};
const MESSAGES: Way = Way {
    path: "messages",
    llm: "rawclaude/x",
    stream: true,
};

impl Way {
    fn whole(self) -> Self {
        Self {
            stream: false,
            ..self
        }
    }

    fn body(self) -> Value {
        let prompt = json!([{"role": "user", "content": "hi"}]);
        let field = if self.path == "responses" {
            "input"
        } else {
            "messages"
        };
        json!({"model": "whatever", "stream": self.stream, field: prompt})
    }
}

impl RawRig {
    async fn start(provider: RawProvider, way: Way) -> Self {
        Self::start_within(provider, way, Duration::from_secs(20)).await
    }

    async fn start_within(raw: RawProvider, way: Way, call_timeout: Duration) -> Self {
        let open_ai = Provider {
            free: false,
            ..provider(&format!("http://{}/v1", raw.address))
        };
        let anthropic = Provider {
            protocol: Protocol::Anthropic,
            ..open_ai.clone()
        };
        let providers = BTreeMap::from([
            ("raw".to_owned(), open_ai),
            ("rawclaude".to_owned(), anthropic),
        ]);
        let price = Price::from(Rates {
            cached_input: MicroUsd(100_000),
            ..Rates::new(MicroUsd(1_000_000), MicroUsd(10_000_000))
        });
        let prices =
            BTreeMap::from(["raw/gpt", "rawclaude/x"].map(|llm| (name(llm), price.clone())));
        let upstreams = Upstreams::from_parts(&providers, prices, |_| Some(KEY.to_owned()))
            .expect("usable providers");
        let gateway = Gateway::start(upstreams).await.expect("a free port");
        let failover = Failover {
            call_timeout,
            ..failover()
        };
        let session = gateway.open(CallPlan {
            failover,
            ..plan(way.llm)
        });
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .expect("a client");
        Self {
            provider: raw,
            session,
            client,
            _gateway: gateway,
        }
    }

    async fn ask(&self, way: Way) -> (u16, String) {
        let url = format!("{}/{}", self.session.base_url(), way.path);
        let response = self
            .client
            .post(url)
            .bearer_auth(self.session.token())
            .json(&way.body())
            .send()
            .await;
        let response = response.expect("the gateway answers");
        (
            response.status().as_u16(),
            response.text().await.expect("a whole body"),
        )
    }

    fn last_call(&self) -> CallRecord {
        self.session
            .record()
            .last()
            .cloned()
            .expect("a recorded call")
    }
}

fn events(events: &[Value]) -> String {
    events
        .iter()
        .map(|event| {
            format!(
                "event: {}\ndata: {event}\n\n",
                event["type"].as_str().unwrap_or("?")
            )
        })
        .collect()
}

fn messages_stream() -> String {
    events(&[
        json!({"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 100, "output_tokens": 1}}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Done. Ä"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 10}}),
        json!({"type": "message_stop"}),
    ])
}

fn response(status: &str) -> Value {
    json!({
        "status": status, "error": null, "usage": {"input_tokens": 100, "output_tokens": 10},
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Done."}]}],
    })
}

fn responses_stream() -> String {
    let completed = json!({"type": "response.completed", "response": response("completed")});
    events(&[
        json!({"type": "response.output_text.delta", "delta": "Done."}),
        completed,
    ])
}

fn chat_body() -> Value {
    json!({
        "choices": [{"message": {"content": "Done. {\"}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    })
}

/// 100 tokens of input, 10 of output.
const COST: MicroUsd = MicroUsd(100 + 100);

#[tokio::test]
async fn an_answer_ends_with_its_last_event_whatever_the_provider_does_with_the_connection() {
    let message = json!({"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 100, "output_tokens": 10}});
    let after =
        "event: error\ndata: {\"type\": \"error\", \"error\": {\"message\": \"too late\"}}\n\n";
    for then in [Then::KeepsOpen, Then::GoesOn(after)] {
        for (way, text) in [
            (MESSAGES, messages_stream()),
            (RESPONSES, responses_stream()),
            (CHAT, chat_body().to_string()),
            (MESSAGES.whole(), message.to_string()),
            (RESPONSES.whole(), response("completed").to_string()),
        ] {
            let case = format!("{way:?} {then:?}");
            let raw = if way.stream {
                RawProvider::events(&text, then).await
            } else {
                RawProvider::json(&text, then).await
            };
            let mut rig = RawRig::start_within(raw, way, Duration::from_secs(5)).await;
            let began = Instant::now();
            let (status, body) = rig.ask(way).await;
            assert_eq!(status, 200, "{case}: {body}");
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{case}: answered after {:?}",
                began.elapsed()
            );
            assert!(
                !body.contains("too late"),
                "{case}: nothing after the end reaches the agent: {body}"
            );
            if way.path != CHAT.path {
                assert_eq!(body, text, "{case}: all of it, as it came");
            }
            let call = rig.last_call();
            assert_eq!(
                (call.class, call.cost, call.estimated),
                (CallClass::Ok, COST, false),
                "{case}: by its usage"
            );
            let closed =
                tokio::time::timeout(Duration::from_secs(2), rig.provider.closed.recv()).await;
            assert_eq!(closed, Ok(Some(())), "{case}: the connection is dropped");
        }
    }
}

#[tokio::test]
async fn a_failure_in_a_stream_ends_it_too() {
    let failed = json!({"type": "response.failed", "response": {"status": "failed", "error":
        {"code": "server_error", "message": "sorry"}, "usage": {"input_tokens": 100, "output_tokens": 10}}});
    let error =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    for (way, text, cost) in [
        (RESPONSES, events(&[failed]), COST),
        (
            RESPONSES,
            events(&[json!({"type": "error", "code": "server_error", "message": "sorry"})]),
            MicroUsd::ZERO,
        ),
        (MESSAGES, events(&[error]), MicroUsd::ZERO),
    ] {
        let rig = RawRig::start(RawProvider::events(&text, Then::KeepsOpen).await, way).await;
        let began = Instant::now();
        let (status, _) = rig.ask(way).await;
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{text}: answered after {:?}",
            began.elapsed()
        );
        let call = rig.last_call();
        assert_eq!(
            (status, call.class, call.cost),
            (400, CallClass::UNAVAILABLE, cost),
            "{text}: {}",
            call.message
        );
    }
}

#[tokio::test]
async fn a_stream_is_read_however_it_is_cut_into_pieces_and_lines() {
    let bom = |text: String| format!("\u{feff}{text}");
    let unnamed = |text: String| text.replace("\"type\":\"message_", "\"kind\":\"message_");
    for (what, text) in [
        ("LF", messages_stream()),
        ("CRLF", messages_stream().replace('\n', "\r\n")),
        ("CR", messages_stream().replace('\n', "\r")),
        ("a byte order mark", bom(messages_stream())),
        ("names of events, and no types", unnamed(messages_stream())),
    ] {
        let bytes: Vec<Vec<u8>> = text.bytes().map(|byte| vec![byte]).collect();
        for pieces in [vec![text.clone().into_bytes()], bytes] {
            let case = format!("{what} in {} pieces", pieces.len());
            let head = "200 OK\r\ncontent-type: text/event-stream";
            let raw = RawProvider::start(head, pieces, Then::KeepsOpen).await;
            let rig = RawRig::start_within(raw, MESSAGES, Duration::from_secs(5)).await;
            let (status, body) = rig.ask(MESSAGES).await;
            assert_eq!((status, &body), (200, &text), "{case}");
            assert_eq!(rig.last_call().cost, COST, "{case}: by its usage");
        }
    }
}

/// A chat answer with these fields beside or instead of its own.
fn chat(fields: &Value) -> Value {
    let mut body = chat_body();
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

fn choice(fields: Value) -> Value {
    let mut choice = json!({"message": {"content": "Half of it"}, "finish_reason": "stop"});
    for (name, value) in fields.as_object().expect("fields") {
        choice[name] = value.clone();
    }
    chat(&json!({"choices": [choice]}))
}

#[tokio::test]
async fn an_answer_that_carries_an_error_is_a_failure_of_the_errors_class() {
    let paid = COST;
    let error = |error: Value| chat(&json!({"error": error}));
    let of_response = |fields: Value| {
        let mut failed = response("failed");
        for (name, value) in fields.as_object().expect("fields") {
            failed[name] = value.clone();
        }
        failed
    };
    for (way, body, class, cost) in [
        (
            CHAT,
            choice(json!({"finish_reason": "error"})),
            "unavailable",
            paid,
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "insufficient_system_resource"})),
            "unavailable",
            paid,
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "abort"})),
            "unavailable",
            paid,
        ),
        (
            CHAT,
            choice(json!({"error": {"code": 429, "message": "slow"}})),
            "rate_limited",
            paid,
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "error", "error": {"code": 502}})),
            "unavailable",
            paid,
        ),
        (
            CHAT,
            error(json!({"code": 401, "message": "no key"})),
            "auth",
            paid,
        ),
        (CHAT, error(json!({"code": "429"})), "rate_limited", paid),
        (
            CHAT,
            error(json!({"type": "rate_limit_error"})),
            "rate_limited",
            paid,
        ),
        (
            CHAT,
            error(json!({"status": "RESOURCE_EXHAUSTED"})),
            "rate_limited",
            paid,
        ),
        (
            CHAT,
            error(json!({"metadata": {"error_type": "rate_limit_exceeded"}})),
            "rate_limited",
            paid,
        ),
        (
            CHAT,
            error(json!({"code": 503, "message": "overloaded"})),
            "unavailable",
            paid,
        ),
        (
            CHAT,
            error(json!({"code": "context_length_exceeded"})),
            "context_too_long",
            paid,
        ),
        (
            CHAT,
            error(json!("the model has stopped")),
            "unavailable",
            paid,
        ),
        (CHAT, error(Value::Null), "ok", paid),
        (CHAT, error(json!({})), "ok", paid),
        (
            CHAT,
            json!({"error": {"code": 503, "message": "busy"}}),
            "unavailable",
            MicroUsd::ZERO,
        ),
        (
            CHAT,
            json!({"error": {"code": "rate_limit_exceeded"}}),
            "rate_limited",
            MicroUsd::ZERO,
        ),
        (
            CHAT,
            json!({"error": {"message": "odd"}}),
            "bad_answer",
            MicroUsd::ZERO,
        ),
        (
            RESPONSES.whole(),
            of_response(json!({"error": {"code": "rate_limit_exceeded"}})),
            "rate_limited",
            paid,
        ),
        (
            RESPONSES.whole(),
            of_response(json!({})),
            "unavailable",
            paid,
        ),
        (
            RESPONSES.whole(),
            of_response(json!({"usage": null, "output": []})),
            "unavailable",
            MicroUsd::ZERO,
        ),
        (
            RESPONSES.whole(),
            of_response(json!({"error": {"code": "cyber_policy"}})),
            "bad_request",
            paid,
        ),
        (
            RESPONSES.whole(),
            of_response(json!({"error": {"code": "content_policy_violation"}})),
            "bad_request",
            paid,
        ),
        (
            CHAT,
            json!({"object": "error", "message": "no such model", "code": 404}),
            "model_unavailable",
            MicroUsd::ZERO,
        ),
        (
            CHAT,
            json!({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}, "choices": null}),
            "bad_answer",
            MicroUsd::ZERO,
        ),
        (
            RESPONSES.whole(),
            json!({"detail": "worker is gone"}),
            "unavailable",
            MicroUsd::ZERO,
        ),
        (
            MESSAGES.whole(),
            json!({"success": false, "errors": [{"code": 429, "message": "slow"}]}),
            "rate_limited",
            MicroUsd::ZERO,
        ),
        (
            MESSAGES.whole(),
            json!({"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}),
            "rate_limited",
            MicroUsd::ZERO,
        ),
    ] {
        let rig = RawRig::start(
            RawProvider::json(&body.to_string(), Then::KeepsOpen).await,
            way,
        )
        .await;
        rig.ask(way).await;
        let call = rig.last_call();
        assert_eq!(
            (call.class.label(), call.cost),
            (class, cost),
            "{}: {body}: {}",
            way.path,
            call.message
        );
    }
}

#[tokio::test]
async fn an_error_within_a_stream_is_charged_by_what_was_reported_and_done_before_it() {
    let start = json!({"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 100, "output_tokens": 10}}});
    let error =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let text = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Half"}});
    let used = json!({"type": "message_delta", "delta": {"stop_reason": null}, "usage": {"output_tokens": 10}});
    let delta = json!({"type": "response.output_text.delta", "delta": "Half"});
    for (way, before, cost, estimated) in [
        (MESSAGES, vec![start.clone()], COST, false),
        (
            MESSAGES,
            vec![start.clone(), text.clone(), used],
            COST,
            false,
        ),
        (MESSAGES, vec![start, text], MicroUsd(163_865), true),
        (
            RESPONSES,
            vec![json!({"type": "response.created", "response": {}})],
            MicroUsd::ZERO,
            false,
        ),
        (RESPONSES, vec![delta], MicroUsd(163_865), true),
    ] {
        let text = events(&before) + &events(std::slice::from_ref(&error));
        let rig = RawRig::start(RawProvider::events(&text, Then::KeepsOpen).await, way).await;
        rig.ask(way).await;
        let call = rig.last_call();
        assert_eq!(call.class.label(), "unavailable", "{text}");
        let near = call.cost.0.abs_diff(cost.0) < 100;
        assert!(
            near && call.estimated == estimated,
            "{text}: {} estimated {}",
            call.cost,
            call.estimated
        );
    }
}

#[tokio::test]
async fn an_answer_that_was_cut_is_no_answer_whatever_the_word_for_it() {
    let message = |reason: &str| {
        json!({"content": [{"type": "text", "text": "x"}], "stop_reason": reason,
        "usage": {"input_tokens": 100, "output_tokens": 10}})
    };
    let incomplete = |reason: Value| {
        let mut body = response("incomplete");
        body["incomplete_details"] = reason;
        body
    };
    for (way, body, class) in [
        (CHAT, choice(json!({"finish_reason": "stop"})), "ok"),
        (CHAT, choice(json!({"finish_reason": "STOP"})), "ok"),
        (CHAT, choice(json!({"finish_reason": "tool_calls"})), "ok"),
        (
            CHAT,
            choice(json!({"finish_reason": "function_call"})),
            "ok",
        ),
        (CHAT, choice(json!({"finish_reason": "eos"})), "ok"),
        (CHAT, choice(json!({"finish_reason": "eos_token"})), "ok"),
        (CHAT, choice(json!({"finish_reason": "end_turn"})), "ok"),
        (CHAT, choice(json!({"finish_reason": "endturn"})), "ok"),
        (CHAT, choice(json!({"finish_reason": "COMPLETE"})), "ok"),
        (CHAT, choice(json!({"finish_reason": null})), "ok"),
        (CHAT, choice(json!({"finish_reason": ""})), "ok"),
        (CHAT, choice(json!({"finish_reason": "null"})), "ok"),
        (
            CHAT,
            chat(&json!({"choices": [{"message": {"content": "x"}}]})),
            "ok",
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "length"})),
            "output_limit",
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "MAX_TOKENS"})),
            "output_limit",
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "content_filter"})),
            "filtered",
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "content_filter: RECITATION"})),
            "filtered",
        ),
        (CHAT, choice(json!({"finish_reason": "SAFETY"})), "filtered"),
        (
            CHAT,
            choice(json!({"finish_reason": "sensitive"})),
            "filtered",
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "MALFORMED_FUNCTION_CALL"})),
            "unfinished",
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "something_new"})),
            "unfinished",
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "network_error"})),
            "unavailable",
        ),
        (
            CHAT,
            choice(json!({"finish_reason": "model_length"})),
            "context_too_long",
        ),
        (
            CHAT,
            chat(&json!({"choices": [
                {"message": {"content": "whole"}, "finish_reason": "stop"},
                {"message": {"content": "half"}, "finish_reason": "content_filter"},
            ]})),
            "filtered",
        ),
        (MESSAGES.whole(), message("end_turn"), "ok"),
        (MESSAGES.whole(), message("stop_sequence"), "ok"),
        (MESSAGES.whole(), message("tool_use"), "ok"),
        (MESSAGES.whole(), message("refusal"), "filtered"),
        (MESSAGES.whole(), message("pause_turn"), "unfinished"),
        (MESSAGES.whole(), message("max_tokens"), "output_limit"),
        (
            MESSAGES.whole(),
            message("model_context_window_exceeded"),
            "context_too_long",
        ),
        (
            RESPONSES.whole(),
            incomplete(json!({"reason": "content_filter"})),
            "filtered",
        ),
        (
            RESPONSES.whole(),
            incomplete(json!({"reason": "max_output_tokens"})),
            "output_limit",
        ),
        (RESPONSES.whole(), incomplete(Value::Null), "unfinished"),
    ] {
        let rig = RawRig::start(
            RawProvider::json(&body.to_string(), Then::KeepsOpen).await,
            way,
        )
        .await;
        let (status, _) = rig.ask(way).await;
        let call = rig.last_call();
        assert_eq!(
            (call.class.label(), call.cost),
            (class, COST),
            "{}: {body}: {}",
            way.path,
            call.message
        );
        assert_eq!(
            status,
            if class == "ok" { 200 } else { 400 },
            "{}: {body}: not half of it",
            way.path
        );
    }
}

#[tokio::test]
async fn a_refusal_is_what_its_status_says_though_its_body_never_comes() {
    for (status, class) in [
        ("401 Unauthorized", "auth"),
        ("429 Too Many Requests", "rate_limited"),
    ] {
        let raw = RawProvider::start(status, vec![b"{\"err".to_vec()], Then::KeepsOpen).await;
        let rig = RawRig::start(raw, CHAT).await;
        let began = Instant::now();
        rig.ask(CHAT).await;
        let call = rig.last_call();
        assert_eq!(
            (call.class.label(), call.cost),
            (class, MicroUsd::ZERO),
            "{status}: {}",
            call.message
        );
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{status}: after {:?}",
            began.elapsed()
        );
    }
}
