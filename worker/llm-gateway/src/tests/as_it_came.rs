//! A request reaches the provider as the agent wrote it, byte for byte. The gateway only changes
//! the model, the stream and the output limit. Exactly one limit leaves the gateway.

use super::provider::{Picky, takes_all};
use super::*;

/// The samples look like the requests of aider (over LiteLLM), codex and claude. Their keys are in
/// a meaningful order. They contain numbers beyond 64 bits, escapes and whitespace.
#[tokio::test]
async fn a_request_is_passed_on_byte_for_byte_but_for_model_stream_and_limit() {
    for (path, llm, sent, changes) in [
        (
            "chat/completions",
            "free/small",
            include_str!("requests/aider.json"),
            vec![
                (r#""model": "openai/whatever""#, r#""model": "small""#),
                (
                    r#""stream": true, "stream_options": {"include_usage": true}, "#,
                    r#""stream": false, "#,
                ),
            ],
        ),
        (
            "chat/completions",
            "paid/gpt",
            include_str!("requests/aider.json"),
            vec![
                (r#""model": "openai/whatever""#, r#""model": "gpt""#),
                (
                    r#""stream": true, "stream_options": {"include_usage": true}, "#,
                    r#""stream": false, "#,
                ),
                (
                    r#""user": "aider"}"#,
                    r#""user": "aider","max_tokens":16384}"#,
                ),
            ],
        ),
        (
            "responses",
            "free/small",
            include_str!("requests/codex.json"),
            vec![(r#""model":"openai/gpt-x""#, r#""model":"small""#)],
        ),
        (
            "responses",
            "paid/gpt",
            include_str!("requests/codex.json"),
            vec![
                (r#""model":"openai/gpt-x""#, r#""model":"gpt""#),
                (
                    r#"{"verbosity":"low"}}"#,
                    r#"{"verbosity":"low"},"max_output_tokens":16384}"#,
                ),
            ],
        ),
        (
            "messages",
            "claude/paid",
            include_str!("requests/claude.json"),
            vec![(r#""model": "claude/paid""#, r#""model": "paid""#)],
        ),
    ] {
        let mut provider = Picky::start(takes_all, plan(llm)).await;
        let mut expected = sent.to_owned();
        for (from, to) in changes {
            assert!(expected.contains(from), "{path}: the sample has {from}");
            expected = expected.replace(from, to);
        }
        assert_eq!(provider.seen(path, sent).await, expected, "{path} of {llm}");
    }
}

#[tokio::test]
async fn one_output_limit_leaves_the_gateway() {
    const CHAT: &str = r#"{"model":"x","messages":[{"role":"user","content":"hi"}],"stream":false"#;
    for (limits, left) in [
        (
            r#""max_tokens":100000,"max_completion_tokens":100"#,
            r#""max_tokens":100"#,
        ),
        (
            r#""max_tokens":100,"max_completion_tokens":100000"#,
            r#""max_tokens":100"#,
        ),
        (
            r#""max_tokens":null,"max_completion_tokens":100"#,
            r#""max_completion_tokens":100"#,
        ),
        (
            r#""max_tokens":-1,"max_completion_tokens":100"#,
            r#""max_completion_tokens":100"#,
        ),
        (r#""max_completion_tokens":-1"#, r#""max_tokens":16384"#),
        (r#""max_tokens":null"#, r#""max_tokens":16384"#),
        (r#""max_tokens":1e2"#, r#""max_tokens":100"#),
        (r#""max_tokens":100.0"#, r#""max_tokens":100"#),
        (
            r#""max_tokens":9000,"max_output_tokens":100000,"n_predict":-1"#,
            r#""max_tokens":9000"#,
        ),
        (r#""max_new_tokens":100"#, r#""max_tokens":100"#),
        (r#""max_tok\u0065ns":100"#, r#""max_tok\u0065ns":100"#),
    ] {
        let mut provider = Picky::start(takes_all, plan("paid/gpt")).await;
        let seen = provider
            .seen("chat/completions", &format!("{CHAT},{limits}}}"))
            .await;
        let expected = format!(
            "{},{left}}}",
            CHAT.replace(r#""model":"x""#, r#""model":"gpt""#)
        );
        assert_eq!(seen, expected, "{limits}");
    }
    const MESSAGES: &str = r#"{"model":"paid","messages":[{"role":"user","content":"hi"}]"#;
    const RESPONSES: &str = r#"{"model":"gpt","input":"hi""#;
    for (path, llm, body, limits, left) in [
        (
            "messages",
            "claude/paid",
            MESSAGES,
            r#""max_tokens":100.0"#,
            r#""max_tokens":100"#,
        ),
        (
            "messages",
            "claude/paid",
            MESSAGES,
            r#""max_tokens":9000,"max_completion_tokens":100"#,
            r#""max_tokens":100"#,
        ),
        (
            "responses",
            "paid/gpt",
            RESPONSES,
            r#""max_output_tokens":-1"#,
            r#""max_output_tokens":16384"#,
        ),
        (
            "responses",
            "paid/gpt",
            RESPONSES,
            r#""max_output_tokens":9000,"max_tokens":50"#,
            r#""max_output_tokens":50"#,
        ),
    ] {
        let mut provider = Picky::start(takes_all, plan(llm)).await;
        let seen = provider.seen(path, &format!("{body},{limits}}}")).await;
        assert_eq!(seen, format!("{body},{left}}}"), "{path}: {limits}");
    }
}

#[tokio::test]
async fn a_call_never_costs_more_than_its_limit_whatever_limits_the_agent_names() {
    let rig = Rig::start(CallPlan {
        max_cost: MicroUsd(50_000),
        ..plan("paid/gpt")
    })
    .await;
    // The provider writes as much as the largest limit in its request allows.
    let mut body = prompt(&json!({"say": "x", "usage": "none"}));
    body["max_tokens"] = json!(100_000);
    body["max_completion_tokens"] = json!(100);
    rig.post(&body).await;
    let seen = &rig.llm.requests()[0].fields;
    let most = ["max_tokens", "max_completion_tokens"]
        .into_iter()
        .filter_map(|name| seen[name].as_u64())
        .max();
    assert_eq!(most, Some(100), "the smaller one is the limit");
    assert!(
        rig.last_call().cost <= MicroUsd(50_000),
        "the amount that was set aside: {}",
        rig.last_call().cost
    );
}
