//! How the gateway handles a provider's answer or failure.

use super::*;

#[tokio::test]
async fn a_good_call_is_answered_metered_and_recorded() {
    let rig = Rig::start(plan("paid/gpt")).await;
    let usage = json!({"input_tokens": 1000, "cached_input_tokens": 400, "output_tokens": 50});
    let (status, body) = rig.ask(json!({"say": "Hello.", "usage": usage})).await;
    assert_eq!(status, 200, "answered: {body}");
    assert_eq!(
        body["choices"][0]["message"]["content"], "Hello.",
        "the text"
    );
    assert_eq!(
        body["model"], "paid/gpt",
        "under our name of the LLM, whatever the agent called it"
    );

    let call = rig.last_call();
    assert_eq!(
        (call.class, call.status, call.empty),
        (CallClass::Ok, Some(200), false),
        "the record"
    );
    assert_eq!(
        call.finish_reason.as_deref(),
        Some("stop"),
        "the finish reason"
    );
    assert_eq!(
        (
            call.input_tokens,
            call.cached_input_tokens,
            call.output_tokens
        ),
        (1000, 400, 50),
        "tokens"
    );
    assert_eq!(
        call.cost,
        MicroUsd(600 + 40 + 500),
        "600 new, 400 cached, 50 output tokens"
    );
    assert!(!call.estimated, "the provider reported them");

    let seen = rig.llm.requests().pop().expect("a request at the provider");
    assert_eq!(seen.model, "gpt", "the provider's own name of the model");
    assert_eq!(seen.fields["stream"], false, "never a stream");
}

#[tokio::test]
async fn an_agent_that_wants_a_stream_gets_the_whole_answer_as_events() {
    let rig = Rig::start(plan("free/small")).await;
    let mut body = prompt(&json!({"say": "One answer."}));
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = rig.post(&body).await;
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream",
        "the type"
    );
    let text = response.text().await.expect("a whole stream");
    let datas: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect();
    assert_eq!(
        datas[0]["choices"][0]["delta"]["content"], "One answer.",
        "the text"
    );
    assert_eq!(datas[1]["choices"][0]["finish_reason"], "stop", "the end");
    assert!(
        datas[2]["usage"]["completion_tokens"].as_u64() > Some(0),
        "the usage: {}",
        datas[2]
    );
    assert!(text.ends_with("data: [DONE]\n\n"), "the end mark");
}

#[tokio::test]
async fn every_failure_of_a_provider_is_a_400_for_the_agent_and_has_its_true_class() {
    let limited = |seconds: Option<u64>| CallClass::RateLimited {
        retry_after: seconds.map(Duration::from_secs),
    };
    for (script, class, status) in [
        (json!({"fail": {"status": 401}}), CallClass::Auth, Some(401)),
        (
            json!({"fail": {"status": 404}}),
            CallClass::ModelUnavailable,
            Some(404),
        ),
        (
            json!({"fail": {"status": 429, "retry_after_s": 3}}),
            limited(Some(3)),
            Some(429),
        ),
        (
            json!({"fail": {"status": 429, "code": "insufficient_quota"}}),
            CallClass::Auth,
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
        let rig = Rig::start(plan("free/small")).await;
        let (seen, body) = rig.ask(script.clone()).await;
        let call = rig.last_call();
        assert_eq!(
            (call.class, call.status),
            (class, status),
            "{script}: {}",
            call.message
        );
        assert_eq!(
            seen, 400,
            "{script}: the status that stops an agent at once"
        );
        let message = body["error"]["message"]
            .as_str()
            .expect("an error message")
            .to_lowercase();
        assert!(
            message.contains("free/small"),
            "{script}: the message names the LLM: {message}"
        );
        let spelled = ["rate limit", "rate_limit", "rate-limit", "ratelimit"];
        assert!(
            !spelled.iter().any(|word| message.contains(word)),
            "{script}: aider would retry {message:?}"
        );
        assert_eq!(rig.llm.requests().len(), 1, "{script}: called once");
    }
}

#[tokio::test]
async fn empty_and_cut_answers_are_recorded_as_such() {
    let rig = Rig::start(plan("free/small")).await;
    rig.ask(json!({"behave": "empty"})).await;
    assert!(rig.last_call().empty, "neither text nor tool calls");
    rig.ask(json!({"behave": "length", "say": "Half of this."}))
        .await;
    assert_eq!(
        rig.last_call().finish_reason.as_deref(),
        Some("length"),
        "cut at the output limit"
    );
}

#[tokio::test]
async fn a_provider_that_nobody_serves_or_that_has_no_key_fails_by_its_class_without_a_request() {
    for (llm, class, part) in [
        ("gone/small", CallClass::UNAVAILABLE, "refused"),
        ("keyless/small", CallClass::Auth, "NOT_SET"),
        ("claude/paid", CallClass::BadRequest, "OpenAI-compatible"),
        (
            "unknown/small",
            CallClass::BadRequest,
            "not in the pool file",
        ),
        (
            "paid/unpriced",
            CallClass::BadRequest,
            "prices has no entry for paid/unpriced",
        ),
    ] {
        let rig = Rig::start(plan(llm)).await;
        let (status, _) = rig.ask(json!({"say": "x"})).await;
        let call = rig.last_call();
        assert_eq!(
            (status, call.class, call.status),
            (400, class, None),
            "{llm}: {}",
            call.message
        );
        assert!(
            call.message.contains(part),
            "{llm}: {:?} says {part:?}",
            call.message
        );
        assert_eq!(
            (call.input_tokens, call.cost),
            (0, MicroUsd::ZERO),
            "{llm}: nothing was sent, nothing is charged"
        );
        assert!(rig.llm.requests().is_empty(), "{llm}: no request");
    }
}
