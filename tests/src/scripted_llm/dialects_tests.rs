use reqwest::Client;
use serde_json::json;

use super::super::{Script, ScriptedLlm};
use super::*;

struct Rig {
    llm: ScriptedLlm,
    client: Client,
}

impl Rig {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let llm = ScriptedLlm::start(Script::default(), 0)
            .await
            .expect("a free port");
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .expect("a client");
        Self { llm, client }
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let url = format!("{}/{path}", self.llm.base_url());
        let response = self
            .client
            .post(url)
            .header("x-api-key", "key")
            .json(body)
            .send()
            .await
            .expect("an answer");
        (
            response.status().as_u16(),
            response
                .text()
                .await
                .unwrap_or_else(|error| error.to_string()),
        )
    }

    async fn json(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.post(path, body).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }
}

fn script(answer: &Value) -> String {
    format!("Task:\nSCRIPT: {answer}")
}

fn edit() -> Value {
    json!({"say": "Fixed.", "edits": [{"file": "a.py", "search": "x = 1", "replace": "x = 2"}]})
}

#[tokio::test]
async fn codex_is_told_to_patch_and_hears_the_words_when_it_has() {
    let rig = Rig::start().await;
    let prompt = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": script(&edit())}]});
    let tools = json!([{"type": "function", "name": "exec_command"}]);
    let first = rig
        .json(
            "responses",
            &json!({"model": "m", "input": [prompt], "tools": tools}),
        )
        .await;
    let call = &first["output"][0];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("exec_command")),
        "{first}"
    );
    let input = json!([prompt, call, {"type": "function_call_output", "call_id": call["call_id"], "output": "ok"}]);
    let second = rig
        .json(
            "responses",
            &json!({"model": "m", "input": input, "tools": tools}),
        )
        .await;
    assert_eq!(
        second["output"][0]["content"][0]["text"], "Fixed.",
        "{second}"
    );
    assert_eq!(second["status"], "completed", "the end");
}

#[tokio::test]
async fn claude_is_told_to_read_then_to_edit_and_then_hears_the_words() {
    let rig = Rig::start().await;
    let mut messages =
        vec![json!({"role": "user", "content": [{"type": "text", "text": script(&edit())}]})];
    let mut seen = Vec::new();
    for _ in 0..3 {
        let tools = json!([{"name": "Read"}, {"name": "Edit"}]);
        let body = json!({"model": "m", "max_tokens": 9, "messages": messages, "tools": tools});
        let answer = rig.json("messages", &body).await;
        let block = &answer["content"][0];
        seen.push(format!(
            "{} {}",
            answer["stop_reason"],
            block["name"]
                .as_str()
                .or(block["text"].as_str())
                .unwrap_or("")
        ));
        messages.push(json!({"role": "assistant", "content": answer["content"]}));
        let result = json!({"type": "tool_result", "tool_use_id": block["id"], "content": "ok"});
        messages.push(json!({"role": "user", "content": [result, {"type": "text", "text": "<system-reminder>"}]}));
    }
    assert_eq!(
        seen,
        [
            "\"tool_use\" Read",
            "\"tool_use\" Edit",
            "\"end_turn\" Fixed."
        ],
        "one call after the other"
    );
}

#[tokio::test]
async fn failures_have_the_shape_of_the_protocol() {
    let rig = Rig::start().await;
    for (path, body, expected) in [
        (
            "responses",
            json!({"input": script(&json!({"fail": {"status": 503}}))}),
            json!("server_error"),
        ),
        (
            "messages",
            json!({"messages": [{"role": "user", "content": script(&json!({"fail": {"status": 529}}))}]}),
            json!("overloaded_error"),
        ),
    ] {
        let (status, text) = rig.post(path, &body).await;
        let error: Value = serde_json::from_str(&text).expect("JSON");
        assert!(
            status > 500 && error["error"]["type"] == expected,
            "{path}: {status} {text}"
        );
    }
    let mut ask = json!({"stream": true, "messages": [{"role": "user", "content": ""}]});
    for (behave, part) in [
        ("cut_stream", "error"),
        ("broken_json", "data: {\"\n\n"),
        ("no_choices", "message_stop"),
    ] {
        ask["messages"][0]["content"] =
            script(&json!({"behave": behave, "say": "Half of this."})).into();
        let (_, text) = rig.post("messages", &ask).await;
        assert!(text.contains(part), "{behave}: {text}");
        assert!(
            !text.contains("message_start") || behave != "no_choices",
            "{behave}: {text}"
        );
    }
    let log = rig.llm.requests();
    assert_eq!(
        log.last().map(|entry| entry.outcome.as_str()),
        Some("no choices"),
        "the log"
    );
    assert!(
        log.iter().all(|entry| entry.fields.get("input").is_none()),
        "the log does not contain prompts"
    );
}
