use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const FILE: &str = r#"
models: [small, large]
answers: [{when: "hello", say: "Hello to you, too."}]
"#;

async fn start() -> ScriptedLlm {
    ScriptedLlm::start(Script::from_yaml(FILE).expect("a valid file"), 0)
        .await
        .expect("a free port")
}

/// Sends a request and gives the whole answer, byte for byte, and whether the connection ended in
/// order.
async fn raw(llm: &ScriptedLlm, method: &str, path: &str, body: &Value) -> (String, bool) {
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer key\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", llm.port()))
        .await
        .expect("it listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer).await;
    (String::from_utf8_lossy(&answer).into_owned(), ended.is_ok())
}

fn ask(model: &str, prompt: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": prompt}]})
}

async fn chat(llm: &ScriptedLlm, body: &Value) -> String {
    raw(llm, "POST", "/v1/chat/completions", body).await.0
}

#[tokio::test]
async fn it_serves_the_models_of_its_file_and_no_others() {
    let llm = start().await;
    let (models, _) = raw(&llm, "GET", "/v1/models", &Value::Null).await;
    assert!(
        models.contains("small") && models.contains("large"),
        "the list: {models}"
    );
    let answer = chat(&llm, &ask("small", "hello")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("Hello to you, too."),
        "served: {answer}"
    );
    let answer = chat(&llm, &ask("other", "hello")).await;
    assert!(
        answer.starts_with("HTTP/1.1 404") && answer.contains("model_not_found"),
        "not served: {answer}"
    );
}

#[tokio::test]
async fn rules_put_over_http_hold_until_they_are_replaced() {
    let llm = start().await;
    let outage = json!([{"model": "small", "fail": {"status": 503, "retry_after_s": 4}}]);
    raw(&llm, "PUT", "/script/rules", &outage).await;
    let answer = chat(&llm, &ask("small", "hello")).await.to_lowercase();
    assert!(
        answer.starts_with("http/1.1 503") && answer.contains("retry-after: 4"),
        "an outage: {answer}"
    );
    assert!(
        chat(&llm, &ask("large", "hello"))
            .await
            .starts_with("HTTP/1.1 200"),
        "an outage of one model only"
    );
    let (answer, _) = raw(
        &llm,
        "PUT",
        "/script/rules",
        &json!([{"fail": {"status": 500}}]),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("rules[0] needs `model`"),
        "a mistake: {answer}"
    );
    assert!(
        chat(&llm, &ask("small", "hello"))
            .await
            .starts_with("HTTP/1.1 503"),
        "changes nothing"
    );
    raw(&llm, "PUT", "/script/rules", &json!([])).await;
    assert!(
        chat(&llm, &ask("small", "hello"))
            .await
            .starts_with("HTTP/1.1 200"),
        "the end of the outage"
    );

    let (log, _) = raw(&llm, "GET", "/script/requests", &Value::Null).await;
    let log: Value =
        serde_json::from_str(log.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    let seen: Vec<_> = log
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["status"].as_u64())
        .collect();
    assert_eq!(
        seen,
        [Some(503), Some(200), Some(503), Some(200)],
        "what was received"
    );
    assert!(
        !log.to_string().contains("key"),
        "keys are not shown: {log}"
    );
}

/// Requests `GET /script/requests`.
async fn log_over_http(llm: &ScriptedLlm, query: &str) -> Vec<LoggedRequest> {
    let (answer, _) = raw(
        llm,
        "GET",
        &format!("/script/requests{query}"),
        &Value::Null,
    )
    .await;
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    serde_json::from_str(body).unwrap_or_else(|error| panic!("a log ({error}): {body}"))
}

#[tokio::test]
async fn every_way_to_fail_can_be_switched_on_and_off_and_is_in_the_log_with_its_time() {
    let llm = start().await;
    let statuses = [429, 500, 529, 401, 404]
        .map(|status| (json!({"fail": {"status": status}}), status.to_string()));
    let others = [
        (
            json!({"fail": {"status": 429, "retry_after_s": 7}}),
            "retry-after: 7",
        ),
        (
            json!({"behave": "broken_json", "say": "a text of which half is sent"}),
            "HTTP/1.1 200",
        ),
        (
            json!({"behave": "cut_stream", "say": "a text of which half is sent"}),
            "HTTP/1.1 200",
        ),
        (json!({"say": "slow", "delay_ms": 30}), "slow"),
        (
            json!({"usage": {"input_tokens": 11, "output_tokens": 1900}}),
            "\"completion_tokens\":1900",
        ),
    ];
    let others = others.map(|(rule, part)| (rule, part.to_owned()));
    let cases: Vec<(Value, String)> = statuses.into_iter().chain(others).collect();
    for (rule, part) in &cases {
        let mut outage = rule.clone();
        outage["model"] = json!("small");
        raw(&llm, "PUT", "/script/rules", &json!([outage])).await;
        let answer = chat(&llm, &ask("small", "hello")).await;
        assert!(
            answer.contains(part.as_str()),
            "{rule}: {answer:?} without {part:?}"
        );
        assert!(
            chat(&llm, &ask("large", "hello"))
                .await
                .contains("Hello to you, too."),
            "{rule}: an outage of one model only"
        );
    }
    for (rule, outcome) in [("drop", "dropped"), ("reset", "reset")] {
        raw(
            &llm,
            "PUT",
            "/script/rules",
            &json!([{"model": "*", "behave": rule}]),
        )
        .await;
        let (answer, ended_well) =
            raw(&llm, "POST", "/v1/chat/completions", &ask("small", "hello")).await;
        assert_eq!(
            (answer.as_str(), ended_well),
            ("", rule == "drop"),
            "{rule}: not a byte"
        );
        assert_eq!(
            llm.requests()
                .pop()
                .map(|request| request.outcome)
                .as_deref(),
            Some(outcome),
            "{rule}: in the log"
        );
    }
    raw(&llm, "PUT", "/script/rules", &json!([])).await;
    assert!(
        chat(&llm, &ask("small", "hello"))
            .await
            .contains("Hello to you, too."),
        "the end of all outages"
    );

    let log = log_over_http(&llm, "").await;
    assert_eq!(
        log.len(),
        2 * cases.len() + 3,
        "every request, and none twice"
    );
    assert!(
        log.iter().all(|request| request.ended().is_some()),
        "all requests have ended: {log:?}"
    );
    let slow = log
        .iter()
        .find(|request| request.took_ms >= Some(30))
        .expect("one request was slow");
    assert_eq!(
        (slow.model.as_str(), slow.prompt.as_str()),
        ("small", "hello"),
        "the slow one is the first"
    );
    let newer = log_over_http(&llm, &format!("?after={}", log.len() - 1)).await;
    assert_eq!(
        newer
            .iter()
            .map(|request| request.number)
            .collect::<Vec<_>>(),
        [log.len() as u64],
        "only what is new"
    );
}

#[tokio::test]
async fn a_poisonous_prompt_fails_everywhere_and_no_other_does() {
    let llm = start().await;
    raw(
        &llm,
        "PUT",
        "/script/rules",
        &json!([{"model": "*", "prompt": "poison", "fail": {"status": 500}}]),
    )
    .await;
    for model in ["small", "large"] {
        assert!(
            chat(&llm, &ask(model, "hello, poison"))
                .await
                .starts_with("HTTP/1.1 500"),
            "{model}: the poisonous one"
        );
        assert!(
            chat(&llm, &ask(model, "hello"))
                .await
                .starts_with("HTTP/1.1 200"),
            "{model}: another one"
        );
    }
}

#[tokio::test]
async fn held_requests_are_answered_by_the_rules_that_come_next() {
    let llm = start().await;
    raw(
        &llm,
        "PUT",
        "/script/rules",
        &json!([{"model": "small", "hold": true}]),
    )
    .await;
    let body = ask("small", "hello");
    let release = async {
        while llm.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(llm.requests()[0].outcome, "open", "it waits");
        assert_eq!(llm.requests()[0].took_ms, None, "and has not ended");
        raw(
            &llm,
            "PUT",
            "/script/rules",
            &json!([{"model": "small", "fail": {"status": 503}}]),
        )
        .await;
    };
    let (held, ()) = tokio::join!(chat(&llm, &body), release);
    assert!(
        held.starts_with("HTTP/1.1 503"),
        "what the new rules say: {held}"
    );
}

#[tokio::test]
async fn connections_break_as_the_script_says() {
    let llm = start().await;
    let dropped = chat(&llm, &ask("small", r#"SCRIPT: {"behave": "drop"}"#)).await;
    assert_eq!(dropped, "", "not a byte");
    let mut body = ask(
        "small",
        r#"SCRIPT: {"behave": "cut_stream", "say": "A text of which half arrives."}"#,
    );
    body["stream"] = json!(true);
    let cut = chat(&llm, &body).await;
    assert!(
        cut.contains("data: {") && !cut.contains("[DONE]"),
        "half of a stream: {cut}"
    );
    body["stream"] = json!(false);
    let cut = chat(&llm, &body).await;
    assert!(
        cut.starts_with("HTTP/1.1 200") && !cut.contains("usage"),
        "half of a body: {cut}"
    );

    let body = ask("small", r#"SCRIPT: {"behave": "hang"}"#);
    let hung = tokio::time::timeout(Duration::from_millis(200), chat(&llm, &body)).await;
    assert!(hung.is_err(), "no answer at all");
    let outcomes = || {
        llm.requests()
            .into_iter()
            .map(|request| request.outcome)
            .collect::<Vec<_>>()
    };
    let gave_up = async {
        while outcomes().last().map(String::as_str) != Some("client went away") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gave_up)
        .await
        .expect("it sees its client go away");
    assert_eq!(
        outcomes(),
        ["dropped", "cut", "cut", "client went away"],
        "the log of it"
    );
}
