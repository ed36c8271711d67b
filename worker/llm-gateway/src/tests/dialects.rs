//! Responses and Messages: passed on as they are, with the same admission, classes and record as
//! chat completions.

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::routing::post;
use tokio::sync::mpsc;

use super::super::estimate::of_json;
use super::*;

/// A way to ask: the path below `/v1`, an LLM that is served there, and the request's field for its
/// prompt.
#[derive(Clone, Copy)]
struct Way {
    path: &'static str,
    llm: &'static str,
    prompt: &'static str,
    limit: &'static str,
}

const RESPONSES: Way = Way {
    path: "responses",
    llm: "paid/gpt",
    prompt: "input",
    limit: "max_output_tokens",
};
const MESSAGES: Way = Way {
    path: "messages",
    llm: "claude/paid",
    prompt: "messages",
    limit: "max_tokens",
};

impl Way {
    fn body(self, script: &Value, stream: bool) -> Value {
        let prompt = json!([{"role": "user", "content": format!("SCRIPT: {script}")}]);
        json!({"model": "whatever", "stream": stream, self.prompt: prompt})
    }

    async fn ask(self, rig: &Rig, body: &Value) -> (u16, String, String) {
        let url = format!("{}/{}", rig.session.base_url(), self.path);
        let response = rig
            .client
            .post(url)
            .header("x-api-key", rig.session.token())
            .json(body)
            .send()
            .await;
        let response = response.expect("the gateway answers");
        let kind = response.headers()["content-type"]
            .to_str()
            .expect("text")
            .to_owned();
        (
            response.status().as_u16(),
            kind,
            response.text().await.expect("a whole body"),
        )
    }

    /// The provider's answer to the body that the gateway made from the agent's.
    async fn directly(self, rig: &Rig, body: &Value) -> String {
        let mut body = body.clone();
        body["model"] = name(self.llm).model().into();
        let url = format!("{}/{}", rig.llm.base_url(), self.path);
        rig.client
            .post(url)
            .json(&body)
            .send()
            .await
            .expect("an answer")
            .text()
            .await
            .expect("a text")
    }
}

/// Every way, with and without a stream.
fn ways() -> impl Iterator<Item = (Way, bool)> {
    [RESPONSES, MESSAGES]
        .into_iter()
        .flat_map(|way| [(way, true), (way, false)])
}

#[tokio::test]
async fn a_good_answer_is_passed_on_byte_for_byte_and_metered() {
    let usage = json!({"input_tokens": 1000, "cached_input_tokens": 400, "output_tokens": 50});
    for (way, stream) in ways() {
        let case = format!("{} {stream}", way.path);
        let rig = Rig::start(plan(way.llm)).await;
        let body = way.body(
            &json!({"say": "One answer, whole.", "usage": usage}),
            stream,
        );
        let (status, kind, text) = way.ask(&rig, &body).await;
        assert_eq!(status, 200, "{case}: {text}");
        assert_eq!(
            kind,
            if stream {
                "text/event-stream"
            } else {
                "application/json"
            },
            "{case}: as it was asked for"
        );
        assert_eq!(text, way.directly(&rig, &body).await, "{case}: unchanged");

        let call = rig.last_call();
        assert_eq!(
            (call.class, call.status, call.empty),
            (CallClass::Ok, Some(200), false),
            "{case}: the record"
        );
        let tokens = (
            call.input_tokens,
            call.cached_input_tokens,
            call.output_tokens,
        );
        assert_eq!(
            tokens,
            (1000, 400, 50),
            "{case}: the tokens, cached ones within the input"
        );
        assert_eq!(
            (call.cost, call.estimated),
            (MicroUsd(600 + 40 + 500), false),
            "{case}: their price"
        );

        let seen = &rig.llm.requests()[0];
        assert_eq!(
            seen.model,
            name(way.llm).model(),
            "{case}: the provider's own name of the model"
        );
        assert_eq!(
            seen.fields["stream"], stream,
            "{case}: the provider streams when the agent wants it"
        );
        assert_eq!(
            seen.fields[way.limit], 16_384,
            "{case}: a paid LLM gets a limit"
        );
    }
}

#[tokio::test]
async fn every_failure_of_a_provider_is_a_400_for_the_agent_and_has_its_true_class() {
    let limited = |seconds: u64| CallClass::RateLimited {
        retry_after: Some(Duration::from_secs(seconds)),
    };
    for (way, stream) in ways() {
        for (script, class, status) in [
            (json!({"fail": {"status": 401}}), CallClass::Auth, Some(401)),
            (
                json!({"fail": {"status": 404}}),
                CallClass::ModelUnavailable,
                Some(404),
            ),
            (
                json!({"fail": {"status": 429, "retry_after_s": 3}}),
                limited(3),
                Some(429),
            ),
            (
                json!({"fail": {"status": 400}}),
                CallClass::BadRequest,
                Some(400),
            ),
            (
                json!({"fail": {"status": 500}}),
                CallClass::UNAVAILABLE,
                Some(500),
            ),
            (
                json!({"fail": {"status": 529}}),
                CallClass::UNAVAILABLE,
                Some(529),
            ),
            (
                json!({"behave": "context_too_long"}),
                CallClass::ContextTooLong,
                Some(400),
            ),
            (json!({"behave": "drop"}), CallClass::UNAVAILABLE, None),
            (
                json!({"behave": "cut_stream", "say": "Half of this is not enough."}),
                CallClass::UNAVAILABLE,
                Some(200),
            ),
            (
                json!({"behave": "broken_json", "say": "x"}),
                CallClass::BadAnswer,
                Some(200),
            ),
            (
                json!({"behave": "no_choices"}),
                CallClass::BadAnswer,
                Some(200),
            ),
        ] {
            let case = format!("{} {stream} {script}", way.path);
            let rig = Rig::start(plan(way.llm)).await;
            let (seen, _, text) = way.ask(&rig, &way.body(&script, stream)).await;
            let call = rig.last_call();
            assert_eq!(
                (call.class, call.status),
                (class, status),
                "{case}: {}",
                call.message
            );
            let body: Value = serde_json::from_str(&text).expect("an error is not a stream");
            assert_eq!(
                (seen, &body["type"]),
                (400, &json!("error")),
                "{case}: the status that stops an agent at once"
            );
            let message = body["error"]["message"].as_str().expect("a message");
            assert!(
                message.contains(way.llm) && !message.contains("scripted"),
                "{case}: ours, not theirs: {message}"
            );
            assert_eq!(rig.llm.requests().len(), 1, "{case}: called once");
        }
    }
}

#[tokio::test]
async fn empty_and_cut_answers_are_recorded_as_such() {
    for (way, reason) in [(RESPONSES, "max_output_tokens"), (MESSAGES, "max_tokens")] {
        for stream in [true, false] {
            let rig = Rig::start(plan(way.llm)).await;
            way.ask(&rig, &way.body(&json!({"behave": "empty"}), stream))
                .await;
            assert!(
                rig.last_call().empty,
                "{}: neither text nor calls",
                way.path
            );
            way.ask(
                &rig,
                &way.body(&json!({"behave": "length", "say": "Half of this."}), stream),
            )
            .await;
            assert_eq!(
                rig.last_call().finish_reason.as_deref(),
                Some(reason),
                "{}: cut",
                way.path
            );
        }
    }
}

#[tokio::test]
async fn the_limits_of_a_task_hold_in_every_dialect() {
    for (way, stream) in ways() {
        let case = format!("{} {stream}", way.path);
        let rig = Rig::start(CallPlan {
            max_tokens: 2_000,
            ..plan(way.llm)
        })
        .await;
        let mut body = way.body(
            &json!({"say": "x", "usage": {"input_tokens": 900, "output_tokens": 800}}),
            stream,
        );
        body[way.limit] = json!(10_000);
        let (status, ..) = way.ask(&rig, &body).await;
        let told = rig.llm.requests()[0].fields[way.limit]
            .as_u64()
            .expect("a limit");
        assert!(status == 200 && told < 2_000, "{case}: lowered to {told}");
        let (status, _, text) = way.ask(&rig, &body).await;
        assert_eq!(
            (status, rig.last_call().class),
            (400, CallClass::Refused(Cap::Tokens)),
            "{case}: 300 are left: {text}"
        );
        assert_eq!(
            rig.llm.requests().len(),
            1,
            "{case}: the second call was not made"
        );

        let mut body = way.body(&json!({"say": "x", "usage": "none"}), stream);
        body[way.limit] = json!(1_000);
        let rig = Rig::start(plan(way.llm)).await;
        way.ask(&rig, &body).await;
        let call = rig.last_call();
        assert_eq!(
            (call.output_tokens, call.estimated),
            (1_000, true),
            "{case}: unknown usage is the worst case"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_priced_is_refused_with_the_reason() {
    for (way, field, value) in [
        (RESPONSES, "previous_response_id", json!("resp_1")),
        (RESPONSES, "tools", json!([{"type": "web_search"}])),
        (MESSAGES, "service_tier", json!("priority")),
        (
            MESSAGES,
            "tools",
            json!([{"type": "web_search_20250305", "name": "web_search"}]),
        ),
    ] {
        let rig = Rig::start(plan(way.llm)).await;
        let mut body = way.body(&json!({"say": "x"}), true);
        body[field] = value;
        let (status, _, text) = way.ask(&rig, &body).await;
        assert!(
            status == 400 && text.contains("cannot be priced"),
            "{}: {field}: {text}",
            way.path
        );
        assert_eq!(
            rig.last_call().class,
            CallClass::BadRequest,
            "{}: {field}: the record",
            way.path
        );
        assert!(
            rig.llm.requests().is_empty(),
            "{}: {field}: the provider saw nothing",
            way.path
        );
    }
}

#[tokio::test]
async fn an_agent_reaches_those_of_its_llms_that_speak_as_it_does() {
    let llms = || CallPlan {
        llms: vec![name("claude/other"), name("free/small")],
        ..plan("free/small")
    };
    for (way, expected) in [(MESSAGES, "claude/other"), (RESPONSES, "free/small")] {
        let rig = Rig::start(llms()).await;
        let (status, _, text) = way.ask(&rig, &way.body(&json!({"say": "x"}), true)).await;
        assert_eq!(
            (status, rig.last_call().llm.as_str()),
            (200, expected),
            "{}: {text}",
            way.path
        );
    }
    let rig = Rig::start(llms()).await;
    assert_eq!(
        rig.ask(json!({"say": "x"})).await.0,
        200,
        "chat completions"
    );
    assert_eq!(
        rig.last_call().llm.as_str(),
        "free/small",
        "the backup is the only one that speaks them"
    );
    for (way, llm, part) in [
        (MESSAGES, "free/small", "the agent speaks Messages"),
        (RESPONSES, "claude/other", "the agent speaks Responses"),
    ] {
        let rig = Rig::start(plan(llm)).await;
        let (status, _, text) = way.ask(&rig, &way.body(&json!({"say": "x"}), true)).await;
        assert!(status == 400 && text.contains(part), "{}: {text}", way.path);
        let call = rig.last_call();
        assert_eq!(
            (call.class, call.llm.as_str()),
            (CallClass::BadRequest, llm),
            "{}: the record",
            way.path
        );
    }
}

#[tokio::test]
async fn an_anthropic_provider_gets_its_key_and_the_agents_version_and_nothing_else() {
    let (seen, mut requests) = mpsc::unbounded_channel::<(String, HeaderMap)>();
    let serve = move |request: Request| {
        let _ = seen.send((request.uri().to_string(), request.headers().clone()));
        async { "{}" }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/v1/messages", post(serve))).await
    });

    // Both ways in which people write Anthropic's address.
    for base_url in [format!("http://{address}"), format!("http://{address}/v1")] {
        let of = Provider {
            protocol: Protocol::Anthropic,
            ..provider(&base_url)
        };
        let key = |variable: &str| (variable == "SCRIPTED_KEY").then(|| KEY.to_owned());
        let providers = BTreeMap::from([("claude".to_owned(), of)]);
        let upstreams =
            Upstreams::from_parts(&providers, BTreeMap::new(), key).expect("a usable provider");
        let gateway = Gateway::start(upstreams).await.expect("a free port");
        let session = gateway.open(plan("claude/x"));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .expect("a client");
        let request = client
            .post(format!("{}/messages?beta=true", session.base_url()))
            .bearer_auth(session.token());
        let request = request
            .header("anthropic-beta", "one,two")
            .header("x-app", "cli")
            .header("cookie", "a=b");
        request
            .json(&MESSAGES.body(&json!({}), false))
            .send()
            .await
            .expect("an answer");

        let (uri, headers) = requests.recv().await.expect("the provider was asked");
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(uri, "/v1/messages?beta=true", "{base_url}");
        assert_eq!(text("x-api-key"), Some(KEY), "{base_url}: the key");
        assert_eq!(
            text("anthropic-version"),
            Some("2023-06-01"),
            "{base_url}: a version, though the agent sent none"
        );
        assert_eq!(
            text("anthropic-beta"),
            Some("one,two"),
            "{base_url}: the agent's features"
        );
        for name in ["authorization", "x-app", "cookie"] {
            assert_eq!(text(name), None, "{base_url}: {name} is the agent's own");
        }
    }
}

#[tokio::test]
async fn counting_tokens_costs_nothing_and_asks_nobody() {
    let rig = Rig::start(plan("claude/paid")).await;
    let count = Way {
        path: "messages/count_tokens",
        ..MESSAGES
    };
    let body = count.body(&json!({"say": "x"}), false);
    let (status, _, text) = count.ask(&rig, &body).await;
    let expected = json!({"input_tokens": of_json(&body.to_string()).tokens}).to_string();
    assert_eq!((status, text), (200, expected), "from above");
    assert!(
        rig.session.record().calls.is_empty() && rig.llm.requests().is_empty(),
        "no call was made"
    );
}
