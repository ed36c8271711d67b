use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const FILE: &str = r#"
models: [small, large]
answers: [{when: "hello", say: "Hello to you, too."}]
"#;

async fn start() -> ScriptedLlm {
    ScriptedLlm::start(Script::from_yaml(FILE).expect("a valid file"), 0).await.expect("a free port")
}

/// Sends a request and gives everything that comes back, byte for byte, and whether the connection ended well.
async fn raw(llm: &ScriptedLlm, method: &str, path: &str, body: &Value) -> (String, bool) {
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer key\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", llm.port())).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it reads");
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
    assert!(models.contains("small") && models.contains("large"), "the list: {models}");
    let answer = chat(&llm, &ask("small", "hello")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Hello to you, too."), "served: {answer}");
    let answer = chat(&llm, &ask("other", "hello")).await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("model_not_found"), "not served: {answer}");
}

#[tokio::test]
async fn rules_put_over_http_hold_until_they_are_replaced() {
    let llm = start().await;
    let outage = json!([{"model": "small", "fail": {"status": 503, "retry_after_s": 4}}]);
    raw(&llm, "PUT", "/script/rules", &outage).await;
    let answer = chat(&llm, &ask("small", "hello")).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 503") && answer.contains("retry-after: 4"), "an outage: {answer}");
    assert!(chat(&llm, &ask("large", "hello")).await.starts_with("HTTP/1.1 200"), "of one model only");
    let (answer, _) = raw(&llm, "PUT", "/script/rules", &json!([{"fail": {"status": 500}}])).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("rules[0] needs `model`"), "a mistake: {answer}");
    assert!(chat(&llm, &ask("small", "hello")).await.starts_with("HTTP/1.1 503"), "changes nothing");
    raw(&llm, "PUT", "/script/rules", &json!([])).await;
    assert!(chat(&llm, &ask("small", "hello")).await.starts_with("HTTP/1.1 200"), "the end of the outage");

    let (log, _) = raw(&llm, "GET", "/script/requests", &Value::Null).await;
    let log: Value = serde_json::from_str(log.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    let seen: Vec<_> = log.as_array().expect("a list").iter().map(|entry| entry["status"].as_u64()).collect();
    assert_eq!(seen, [Some(503), Some(200), Some(503), Some(200)], "what was received");
    assert!(!log.to_string().contains("key"), "keys are not shown: {log}");
}

#[tokio::test]
async fn connections_break_as_the_script_says() {
    let llm = start().await;
    let dropped = chat(&llm, &ask("small", r#"SCRIPT: {"behave": "drop"}"#)).await;
    assert_eq!(dropped, "", "not a byte");
    let mut body = ask("small", r#"SCRIPT: {"behave": "cut_stream", "say": "A text of which half arrives."}"#);
    body["stream"] = json!(true);
    let cut = chat(&llm, &body).await;
    assert!(cut.contains("data: {") && !cut.contains("[DONE]"), "half of a stream: {cut}");
    body["stream"] = json!(false);
    let cut = chat(&llm, &body).await;
    assert!(cut.starts_with("HTTP/1.1 200") && !cut.contains("usage"), "half of a body: {cut}");

    let body = ask("small", r#"SCRIPT: {"behave": "hang"}"#);
    let hung = tokio::time::timeout(Duration::from_millis(200), chat(&llm, &body)).await;
    assert!(hung.is_err(), "no answer at all");
    let outcomes = || llm.requests().into_iter().map(|request| request.outcome).collect::<Vec<_>>();
    let gave_up = async {
        while outcomes().last().map(String::as_str) != Some("client went away") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gave_up).await.expect("it sees its client go away");
    assert_eq!(outcomes(), ["dropped", "cut", "cut", "client went away"], "the log of it");
}
