use serde_json::json;

use pool_core::llm::Dialect;
use pool_core::pool::OutputLimitField;
use pool_core::price::CacheWrites;

use super::*;
use crate::pricing::Tokens;
use crate::protocol::{AnswerForm, BadRequest, LimitField, RequestHead};
use crate::request::{AgentRequest, Terms};

fn ask(body: Value) -> Result<AgentRequest, BadRequest> {
    let head = RequestHead::read(Dialect::Messages, &HeaderMap::new(), None);
    AgentRequest::read(head, body.to_string().as_bytes())
}

/// A request as claude 2.1.197 sends it, shortened.
fn of_claude() -> Value {
    json!({
        "model": "anthropic/claude-x",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Fix it.", "cache_control": {"type": "ephemeral"}}]},
            {"role": "system", "content": "Available agent types …"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "", "signature": "s"},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "calc.py"}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "1\tx"}]},
        ],
        "system": [{"type": "text", "text": "You are …", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "Read", "description": "…", "input_schema": {}}],
        "metadata": {"user_id": "u"}, "max_tokens": 32000, "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"}, "stream": true,
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut body = of_claude();
    body[field] = value;
    body
}

const TERMS: Terms = Terms {
    limit_field: LimitField::Usually(OutputLimitField::MaxTokens),
    asks_for_standard_tier: false,
};

fn sent(request: &AgentRequest, limit: Option<u64>) -> Value {
    serde_json::from_slice(&request.for_provider("claude-x", limit, TERMS)).expect("JSON")
}

#[test]
fn what_claude_sends_is_passed_on_but_for_the_model_and_the_limit() {
    let request = ask(of_claude()).expect("a good request");
    assert_eq!(
        request.form(),
        AnswerForm {
            dialect: Dialect::Messages,
            stream: true
        },
        "the provider streams"
    );
    assert_eq!(request.demand.max_output, Some(32_000), "its limit");
    assert_eq!(
        sent(&request, None),
        with("model", json!("claude-x")),
        "every field is kept"
    );
    assert_eq!(
        sent(&request, Some(700))["max_tokens"],
        700,
        "a lower limit"
    );
    assert_eq!(
        sent(&request, Some(700))["thinking"],
        json!({"type": "adaptive"}),
        "thinking without a budget stays"
    );
}

#[test]
fn a_budget_for_thinking_stays_below_the_limit() {
    let request = ask(with(
        "thinking",
        json!({"type": "enabled", "budget_tokens": 31_999}),
    ))
    .expect("a good request");
    for (limit, expected) in [
        (None, json!({"type": "enabled", "budget_tokens": 31_999})),
        (
            Some(31_999),
            json!({"type": "enabled", "budget_tokens": 31_998}),
        ),
        (
            Some(1_025),
            json!({"type": "enabled", "budget_tokens": 1_024}),
        ),
        (Some(1_024), json!({"type": "disabled"})),
    ] {
        assert_eq!(
            sent(&request, limit)["thinking"],
            expected,
            "limit {limit:?}"
        );
    }
}

#[test]
fn only_version_and_beta_features_of_the_agents_headers_go_on() {
    let of = |pairs: &[(&'static str, &'static str)], query| {
        let headers = pairs.iter().map(|(name, value)| {
            (
                name.parse().expect("a name"),
                HeaderValue::from_static(value),
            )
        });
        let head = RequestHead::read(Dialect::Messages, &headers.collect(), query);
        let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
        let headers = head
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", text(value)))
            .collect::<Vec<_>>();
        (headers, head.query)
    };
    let claude = [
        ("x-api-key", "tok"),
        ("x-app", "cli"),
        (VERSION, "2024-01-01"),
        (BETA, "a,b"),
    ];
    assert_eq!(
        of(&claude, Some("beta=true")).0,
        ["anthropic-version: 2024-01-01", "anthropic-beta: a,b"],
        "of claude"
    );
    assert_eq!(
        of(&claude, Some("x=1&beta=true&y=2")).1,
        Some("beta=true"),
        "the one query that is known"
    );
    assert_eq!(
        of(&[], Some("beta=1")),
        (vec!["anthropic-version: 2023-06-01".to_owned()], None),
        "other queries are dropped"
    );
}

#[test]
fn what_cannot_be_priced_is_refused_by_name() {
    let part = |part: Value| json!([{"role": "user", "content": [part]}]);
    for (field, value, named) in [
        ("service_tier", json!("priority"), "service_tier"),
        ("speed", json!("fast"), "speed"),
        ("inference_geo", json!("us"), "inference_geo"),
        ("container", json!("c_1"), "container"),
        ("mcp_servers", json!([{"url": "x"}]), "mcp_servers"),
        (
            "context_management",
            json!({"edits": [{"type": "compact_20260112"}]}),
            "compact_20260112",
        ),
        (
            "tools",
            json!([{"type": "web_search_20250305", "name": "web_search"}]),
            "web_search_20250305",
        ),
        (
            "tools",
            json!([{"type": "code_execution_20250825"}]),
            "code_execution",
        ),
        (
            "tools",
            json!([{"type": "web_fetch_20250910"}]),
            "web_fetch",
        ),
        (
            "messages",
            part(json!({"type": "image", "source": {}})),
            "image",
        ),
        (
            "messages",
            part(json!({"type": "document", "source": {}})),
            "document",
        ),
        (
            "messages",
            part(json!({"type": "tool_result", "content": [{"type": "image"}]})),
            "image",
        ),
        (
            "messages",
            part(json!({"type": "web_search_tool_result"})),
            "web_search_tool_result",
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
        ("service_tier", json!("auto")),
        ("service_tier", json!("standard_only")),
        ("speed", json!("standard")),
        ("mcp_servers", Value::Null),
        (
            "tools",
            json!([{"type": "custom", "name": "f"}, {"type": "bash_20250124", "name": "bash"}]),
        ),
        ("messages", json!([{"role": "user", "content": "hi"}])),
    ] {
        assert!(
            ask(with(field, value.clone())).is_ok(),
            "{field} = {value} has a price"
        );
    }
    for (field, value) in [
        ("messages", json!([])),
        ("messages", json!("hi")),
        ("max_tokens", json!(-5)),
    ] {
        let message = ask(with(field, value)).expect_err(field).to_string();
        assert!(message.contains(field), "{message}");
    }
}

#[test]
fn writing_a_cache_raises_the_worst_case_of_the_input() {
    let writes = |body| ask(body).expect("a good request").demand.writes;
    assert_eq!(
        writes(of_claude()),
        CacheWrites::Short,
        "kept for five minutes"
    );
    let hour =
        json!([{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]);
    assert_eq!(
        writes(with("system", hour)),
        CacheWrites::Hour,
        "one that is kept for an hour is the dearest"
    );
    assert_eq!(
        writes(json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9})),
        CacheWrites::None,
        "no cache"
    );
}

const USAGE: &str = r#"{"input_tokens": 100, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 200,
    "cache_creation": {"ephemeral_5m_input_tokens": 80, "ephemeral_1h_input_tokens": 120}, "output_tokens": 1,
    "service_tier": "standard"}"#;

fn usage_with(output: u64) -> Value {
    let mut usage: Value = serde_json::from_str(USAGE).expect("JSON");
    usage["output_tokens"] = output.into();
    usage
}

fn stream(content: &[Value], stop_reason: &str) -> Vec<Value> {
    let start = json!({"type": "message_start", "message": {"type": "message", "content": [], "usage": usage_with(1)}});
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 50}});
    let ends = [delta, json!({"type": "message_stop"})];
    [start, json!({"type": "ping"})]
        .into_iter()
        .chain(content.iter().cloned())
        .chain(ends)
        .collect()
}

fn text_of(events: &[Value]) -> String {
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

fn text_delta(text: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

#[test]
fn a_complete_answer_tells_its_end_and_its_tokens() {
    let content = json!([{"type": "text", "text": "Done."}]);
    let message =
        json!({"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage_with(50)}).to_string();
    let whole = read(message.as_bytes()).expect("an answer");
    let used = Tokens {
        input: 700,
        cached_input: 400,
        output: 50,
        cache_write: 80,
        cache_write_1h: 120,
    };
    assert_eq!(
        (whole.usage, whole.empty),
        (Some(used.into()), false),
        "cache reads and writes are input"
    );
    assert_eq!(
        whole.finish_reason.as_deref(),
        Some("end_turn"),
        "as the provider gave it"
    );
    let events = text_of(&stream(&[text_delta("Done.")], "end_turn"));
    assert_eq!(
        read_stream(events.as_bytes()),
        Ok(whole),
        "the same in a stream, with the last count of its output"
    );
    let usage = Reported::of_messages;
    let plain = json!({"input_tokens": 3, "output_tokens": 4});
    assert_eq!(
        usage(&plain),
        Some(
            Tokens {
                input: 3,
                output: 4,
                ..Tokens::default()
            }
            .into()
        ),
        "without a cache"
    );
    let unsaid = json!({"input_tokens": 3, "output_tokens": 4, "cache_creation_input_tokens": 10});
    assert_eq!(
        usage(&unsaid).map(|usage| (usage.tokens.cache_write, usage.unmarked_writes)),
        Some((10, true)),
        "the request decides if the answer does not say which"
    );
    assert_eq!(
        usage(&json!({"input_tokens": 3})),
        None,
        "half of the usage is missing"
    );
    assert_eq!(usage(&Value::Null), None, "nothing");
}

#[test]
fn an_answer_is_empty_only_without_text_and_calls() {
    let begin =
        |block: Value| json!({"type": "content_block_start", "index": 0, "content_block": block});
    let thinking = json!({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}});
    for (content, empty) in [
        (
            vec![begin(json!({"type": "text", "text": ""})), text_delta("x")],
            false,
        ),
        (
            vec![
                begin(json!({"type": "text", "text": ""})),
                text_delta(" \n"),
            ],
            true,
        ),
        (
            vec![begin(
                json!({"type": "tool_use", "name": "Read", "input": {}}),
            )],
            false,
        ),
        (
            vec![begin(json!({"type": "thinking", "thinking": ""})), thinking],
            true,
        ),
        (vec![], true),
    ] {
        let events = text_of(&stream(&content, "end_turn"));
        assert_eq!(
            read_stream(events.as_bytes()).expect("an answer").empty,
            empty,
            "{content:?}"
        );
    }
}

#[test]
fn whatever_is_not_complete_is_no_answer() {
    let events = stream(&[text_delta("Half")], "end_turn");
    let whole = text_of(&events);
    assert_eq!(
        read_stream(&whole.as_bytes()[..whole.len() - 1]),
        Err((NoAnswer::Cut, None)),
        "the last byte is missing"
    );
    for kept in 0..events.len() {
        let cut = text_of(&events[..kept]);
        assert_eq!(
            read_stream(cut.as_bytes()),
            Err((NoAnswer::Cut, None)),
            "{kept} events of {}",
            events.len()
        );
    }
    let error =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let mut with_error = events.clone();
    with_error.insert(2, error.clone());
    let failed = || NoAnswer::Failed(error.clone());
    let begun = Tokens {
        input: 700,
        cached_input: 400,
        output: 1,
        cache_write: 80,
        cache_write_1h: 120,
    };
    let within = read_stream(text_of(&with_error).as_bytes());
    assert_eq!(
        within,
        Err((failed(), Some(begun.into()))),
        "an error in the middle, charged by the usage before it"
    );
    let nothing = Some(Reported::default());
    assert_eq!(
        read(error.to_string().as_bytes()),
        Err((failed(), nothing)),
        "an error with status 200 is not charged"
    );
    assert_eq!(
        read(b"{}").expect_err("nothing").0,
        NoAnswer::Lacks("content"),
        "no content"
    );
    let foreign = "data: {\"choices\": []}\n\n";
    assert_eq!(
        read_stream(foreign.as_bytes()).expect_err("foreign").0,
        NoAnswer::Lacks("message_start"),
        "another protocol"
    );
}
