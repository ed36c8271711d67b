use serde_json::json;

use pool_core::llm::Dialect;
use pool_core::pool::OutputLimitField;

use super::*;
use crate::pricing::Tokens;
use crate::protocol::{AnswerForm, BadRequest, LimitField, RequestHead};
use crate::request::{AgentRequest, Terms};

fn ask(body: Value) -> Result<AgentRequest, BadRequest> {
    let head = RequestHead {
        dialect: Dialect::Responses,
        headers: Vec::new(),
        query: None,
    };
    AgentRequest::read(head, body.to_string().as_bytes())
}

/// A request as codex 0.169.0 sends it, shortened.
fn of_codex() -> Value {
    json!({
        "model": "openai/gpt-x",
        "input": [
            {"type": "message", "id": "msg_1", "role": "developer", "content": [{"type": "input_text", "text": "You are …"}]},
            {"type": "message", "id": "msg_2", "role": "user", "content": [{"type": "input_text", "text": "Fix it."}]},
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"},
            {"type": "function_call", "id": "fc_1", "name": "exec_command", "arguments": "{}", "call_id": "call_1"},
            {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "Process exited with code 0"},
        ],
        "tools": [
            {"type": "function", "name": "exec_command", "strict": false, "parameters": {}},
            {"type": "namespace", "name": "multi_agent_v1", "tools": [{"type": "function", "name": "close_agent"}]},
            {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
            {"type": "tool_search", "execution": "client"},
        ],
        "tool_choice": "auto", "parallel_tool_calls": true, "reasoning": {"summary": "auto"}, "store": false,
        "stream": true, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "client_metadata": {"a": "b"},
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut body = of_codex();
    body[field] = value;
    body
}

const TERMS: Terms = Terms {
    limit_field: LimitField::Usually(OutputLimitField::MaxTokens),
    asks_for_standard_tier: false,
};

fn sent(request: &AgentRequest, limit: Option<u64>) -> Value {
    serde_json::from_slice(&request.for_provider("gpt-x", limit, TERMS)).expect("JSON")
}

#[test]
fn what_codex_sends_is_passed_on_but_for_the_model_and_the_limit() {
    let request = ask(of_codex()).expect("a good request");
    assert_eq!(
        request.form(),
        AnswerForm {
            dialect: Dialect::Responses,
            stream: true
        },
        "the provider streams"
    );
    assert_eq!(
        (request.demand.choices, request.demand.max_output),
        (1, None),
        "the size that it asks for"
    );
    assert_eq!(
        sent(&request, None),
        with("model", json!("gpt-x")),
        "every field is kept"
    );
    assert_eq!(
        sent(&request, Some(70))["max_output_tokens"],
        70,
        "the limit has its own name"
    );
    let request = ask(with("max_output_tokens", json!(900))).expect("a good request");
    assert_eq!(request.demand.max_output, Some(900), "the agent's limit");
    assert_eq!(
        sent(&request, Some(70))["max_output_tokens"],
        70,
        "lowered in place"
    );
    assert!(
        ask(json!({"model": "m", "input": "a text"})).is_ok(),
        "a text is input, too"
    );
}

#[test]
fn what_cannot_be_priced_is_refused_by_name() {
    let part = |kind: &str| json!([{"role": "user", "content": [{"type": kind}]}]);
    for (field, value, named) in [
        ("background", json!(true), "background"),
        (
            "previous_response_id",
            json!("resp_1"),
            "previous_response_id",
        ),
        ("conversation", json!({"id": "conv_1"}), "conversation"),
        ("prompt", json!({"id": "pmpt_1"}), "prompt"),
        ("service_tier", json!("priority"), "service_tier"),
        ("service_tier", json!("flex"), "service_tier"),
        (
            "tools",
            json!([{"type": "web_search", "external_web_access": true}]),
            "tools of type \"web_search\"",
        ),
        ("tools", json!([{"type": "file_search"}]), "file_search"),
        (
            "tools",
            json!([{"type": "code_interpreter"}]),
            "code_interpreter",
        ),
        (
            "tools",
            json!([{"type": "image_generation"}]),
            "image_generation",
        ),
        ("tools", json!([{"type": "mcp", "server_url": "x"}]), "mcp"),
        (
            "tools",
            json!([{"type": "shell", "environment": {"type": "container_auto"}}]),
            "shell",
        ),
        (
            "tools",
            json!([{"type": "namespace", "tools": [{"type": "web_search"}]}]),
            "web_search",
        ),
        ("tools", json!([{"name": "nameless"}]), "tools of type \"\""),
        (
            "input",
            json!([{"type": "item_reference", "id": "rs_1"}]),
            "item_reference",
        ),
        ("input", part("input_image"), "input_image"),
        ("input", part("input_file"), "input_file"),
        (
            "input",
            json!([{"type": "function_call_output", "output": [{"type": "input_image"}]}]),
            "input_image",
        ),
    ] {
        let message = ask(with(field, value.clone()))
            .expect_err(field)
            .to_string();
        assert!(
            message.contains(named) && message.contains("cannot be priced"),
            "{field} = {value}: {message}"
        );
    }
    for (field, value) in [
        ("background", json!(false)),
        ("previous_response_id", Value::Null),
        ("store", json!(true)),
        ("service_tier", json!("default")),
        (
            "tools",
            json!([{"type": "local_shell"}, {"type": "shell", "environment": {"type": "local"}}]),
        ),
    ] {
        assert!(
            ask(with(field, value.clone())).is_ok(),
            "{field} = {value} has a price"
        );
    }
    for (field, value, part) in [
        ("input", json!([]), "`input`"),
        ("input", json!(""), "`input`"),
        ("max_output_tokens", json!(0), "number"),
    ] {
        let message = ask(with(field, value)).expect_err(field).to_string();
        assert!(message.contains(part), "{message}");
    }
}

fn response(status: &str) -> Value {
    json!({
        "id": "resp_1", "object": "response", "status": status, "error": null, "model": "gpt-x",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Done."}]}],
        "usage": {
            "input_tokens": 1000, "input_tokens_details": {"cached_tokens": 400}, "output_tokens": 50,
            "output_tokens_details": {"reasoning_tokens": 30}, "total_tokens": 1050,
        },
    })
}

fn stream(events: &[Value]) -> String {
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

const USED: Tokens = Tokens {
    input: 1000,
    cached_input: 400,
    output: 50,
    cache_write: 0,
    cache_write_1h: 0,
};

#[test]
fn a_complete_answer_tells_its_end_and_its_tokens() {
    let created =
        json!({"type": "response.created", "response": {"status": "in_progress", "usage": null}});
    let mut incomplete = response("incomplete");
    incomplete["incomplete_details"] = json!({"reason": "max_output_tokens"});
    for (last, response, reason) in [
        ("response.completed", response("completed"), "completed"),
        ("response.incomplete", incomplete, "max_output_tokens"),
    ] {
        let whole = read(response.to_string().as_bytes()).expect("an answer");
        let events = stream(&[created.clone(), json!({"type": last, "response": response})]);
        assert_eq!(
            read_stream(events.as_bytes()),
            Ok(whole.clone()),
            "{last}: the same in a stream"
        );
        assert_eq!(
            (whole.usage, whole.empty),
            (Some(USED.into()), false),
            "{last}: its tokens, hidden reasoning in the output"
        );
        assert_eq!(
            whole.finish_reason.as_deref(),
            Some(reason),
            "{last}: its end"
        );
    }
}

#[test]
fn an_answer_is_empty_only_without_text_and_calls() {
    for (output, empty) in [
        (
            json!([{"type": "message", "content": [{"type": "output_text", "text": "x"}]}]),
            false,
        ),
        (
            json!([{"type": "message", "content": [{"type": "output_text", "text": " \n"}]}]),
            true,
        ),
        (
            json!([{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]),
            false,
        ),
        (
            json!([{"type": "reasoning"}, {"type": "function_call", "name": "f"}]),
            false,
        ),
        (json!([{"type": "custom_tool_call"}]), false),
        (json!([{"type": "reasoning"}]), true),
        (json!([]), true),
    ] {
        let mut response = response("completed");
        response["output"] = output.clone();
        assert_eq!(
            read(response.to_string().as_bytes())
                .expect("an answer")
                .empty,
            empty,
            "{output}"
        );
    }
    let mut last = response("completed");
    last["output"] = json!([]);
    let item = json!({"type": "response.output_item.done", "item": {"type": "function_call"}});
    let events = stream(&[
        item,
        json!({"type": "response.completed", "response": last}),
    ]);
    assert!(
        !read_stream(events.as_bytes()).expect("an answer").empty,
        "items that are not repeated at the end count"
    );
}

#[test]
fn whatever_is_not_complete_is_no_answer() {
    let delta = json!({"type": "response.output_text.delta", "delta": "Do"});
    let completed = json!({"type": "response.completed", "response": response("completed")});
    let whole = stream(&[delta.clone(), completed]);
    assert_eq!(
        read_stream(&whole.as_bytes()[..whole.len() - 1]),
        Err((NoAnswer::Cut, None)),
        "the last byte is missing"
    );
    assert_eq!(
        read_stream(stream(&[delta]).as_bytes()),
        Err((NoAnswer::Cut, None)),
        "no last event"
    );
    let mut failed = response("failed");
    failed["error"] = json!({"code": "server_error", "message": "sorry"});
    let error = NoAnswer::Failed(json!({"error": failed["error"]}));
    let events = stream(&[json!({"type": "response.failed", "response": failed})]);
    assert_eq!(
        read_stream(events.as_bytes()),
        Err((error.clone(), Some(USED.into()))),
        "it failed, and says what it used"
    );
    assert_eq!(
        read(failed.to_string().as_bytes()),
        Err((error, Some(USED.into()))),
        "the same without a stream"
    );
    for status in ["in_progress", "queued"] {
        let error = read(response(status).to_string().as_bytes())
            .expect_err(status)
            .0;
        assert_eq!(error, NoAnswer::Lacks("status"), "{status} is not an end");
    }
    let mut without = response("completed");
    without["output"] = Value::Null;
    assert_eq!(
        read(without.to_string().as_bytes()).expect_err("nothing").0,
        NoAnswer::Lacks("output"),
        "no output"
    );
    let mut without = response("completed");
    without["usage"] = Value::Null;
    assert_eq!(
        read(without.to_string().as_bytes())
            .expect("an answer")
            .usage,
        None,
        "its usage is unknown"
    );
}
