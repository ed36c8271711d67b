//! The gateway adds only limits that a model accepts. It reads the refusal of an output limit, and
//! asks the same LLM again at once.

use pool_core::pool::{LlmSettings, OutputLimitField};

use super::super::llm_limits::LearnedLimits;
use super::provider::{Picky, Taste};
use super::*;

/// The limit of a request, under any name.
fn limit(request: &Value) -> Option<u64> {
    let names = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    names.into_iter().find_map(|name| request[name].as_u64())
}

fn deepseek(request: &Value) -> Option<(u16, String)> {
    let fits = limit(request).is_none_or(|limit| limit <= 8192);
    (!fits).then(|| {
        (
            400,
            "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]".to_owned(),
        )
    })
}

fn openai(request: &Value) -> Option<(u16, String)> {
    let given = limit(request).filter(|limit| *limit > 4096)?;
    let message = format!(
        "max_tokens is too large: {given}. This model supports at most 4096 completion tokens, whereas you provided {given}."
    );
    Some((400, message))
}

fn anthropic(request: &Value) -> Option<(u16, String)> {
    let given = limit(request).filter(|limit| *limit > 8192)?;
    let message = format!(
        "max_tokens: {given} > 8192, which is the maximum allowed number of output tokens for claude-3-5-sonnet"
    );
    Some((400, message))
}

fn gemini(request: &Value) -> Option<(u16, String)> {
    let given = limit(request).filter(|limit| *limit > 8192)?;
    let message = format!(
        "Unable to submit request because it has a maxOutputTokens value of {given} but the supported range is from 1 \
         (inclusive) to 8193 (exclusive). Update the value and try again."
    );
    Some((400, message))
}

fn mistral(request: &Value) -> Option<(u16, String)> {
    let given = limit(request).filter(|limit| *limit > 8192)?;
    Some((
        422,
        format!("max_tokens: Input should be less than or equal to 8192, input: {given}"),
    ))
}

fn bedrock_behind_a_proxy(request: &Value) -> Option<(u16, String)> {
    let message = "The maximum tokens you requested exceeds the model limit of 4096. Try again with a maximum tokens value \
                   that is lower than 4096.";
    limit(request)
        .filter(|limit| *limit > 4096)
        .map(|_| (500, message.to_owned()))
}

/// A small context, in vLLM's words: the prompt has 100 tokens.
fn vllm(request: &Value) -> Option<(u16, String)> {
    let given = limit(request).filter(|limit| limit + 100 > 8192)?;
    let message = format!(
        "'max_tokens' or 'max_completion_tokens' is too large: {given}. This model's maximum context length is 8192 tokens \
         and your request has 100 input tokens ({given} > 8192 - 100). None"
    );
    Some((400, message))
}

fn newest_of_openai(request: &Value) -> Option<(u16, String)> {
    request.get("max_tokens").map(|_| {
        let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' \
                       instead.";
        (400, message.to_owned())
    })
}

fn knows_only_max_tokens(request: &Value) -> Option<(u16, String)> {
    request.get("max_completion_tokens").map(|_| {
        (422, "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'msg': 'Extra inputs are not permitted'}]".to_owned())
    })
}

/// Both refusals at once: an o-series model with a small limit.
fn picky_in_both(request: &Value) -> Option<(u16, String)> {
    newest_of_openai(request).or_else(|| openai(request))
}

const CHAT: &str = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
const RESPONSES: &str = r#"{"input":"hi"}"#;

#[tokio::test]
async fn a_refusal_that_names_a_limit_is_learned_and_the_call_is_answered() {
    for (taste, path, llm, body, most) in [
        (
            deepseek as Taste,
            "chat/completions",
            "paid/gpt",
            CHAT,
            8192,
        ),
        (openai, "chat/completions", "paid/gpt", CHAT, 4096),
        (anthropic, "messages", "claude/paid", CHAT, 8192),
        (gemini, "chat/completions", "paid/gpt", CHAT, 8192),
        (mistral, "chat/completions", "paid/gpt", CHAT, 8192),
        (
            bedrock_behind_a_proxy,
            "chat/completions",
            "paid/gpt",
            CHAT,
            4096,
        ),
        (openai, "responses", "paid/gpt", RESPONSES, 4096),
        // The agent's own limit is lowered, too: it is the only part that the gateway may change.
        (
            deepseek,
            "chat/completions",
            "free/small",
            r#"{"messages":[{"content":"hi"}],"max_tokens":64000}"#,
            8192,
        ),
    ] {
        let mut provider = Picky::start(taste, plan(llm)).await;
        let (status, text) = provider.send(path, body.to_owned()).await;
        assert_eq!(status, 200, "{path} {body}: {text}");
        assert_eq!(
            provider.more(),
            2,
            "{path} {body}: the second request succeeds"
        );
        provider.got().await;
        let second: Value = serde_json::from_str(&provider.got().await).expect("JSON");
        assert_eq!(
            limit(&second),
            Some(most),
            "{path} {body}: with the values from the refusal"
        );
        let calls = provider.rig.session.record().calls;
        assert_eq!(calls.len(), 2, "both are on record");
        assert_eq!(
            (calls[0].class == CallClass::Ok, calls[0].cost),
            (false, MicroUsd::ZERO),
            "a refusal costs nothing"
        );

        let (status, text) = provider.send(path, body.to_owned()).await;
        assert_eq!(
            (status.as_u16(), provider.more()),
            (200, 1),
            "{path} {body}: the lesson is remembered: {text}"
        );
    }
}

#[tokio::test]
async fn a_refusal_that_names_the_other_field_is_learned_and_the_call_is_answered() {
    let own = r#"{"messages":[{"content":"hi"}],"max_completion_tokens":900}"#;
    for (taste, llm, body, field, most) in [
        (
            newest_of_openai as Taste,
            "paid/gpt",
            CHAT,
            "max_completion_tokens",
            16_384,
        ),
        (
            newest_of_openai,
            "paid/gpt",
            r#"{"messages":[{"content":"hi"}],"max_tokens":900}"#,
            "max_completion_tokens",
            900,
        ),
        (knows_only_max_tokens, "paid/gpt", own, "max_tokens", 900),
        (knows_only_max_tokens, "free/small", own, "max_tokens", 900),
    ] {
        let mut provider = Picky::start(taste, plan(llm)).await;
        let (status, text) = provider.send("chat/completions", body.to_owned()).await;
        assert_eq!(
            (status.as_u16(), provider.more()),
            (200, 2),
            "{body}: {text}"
        );
        provider.got().await;
        let second: Value = serde_json::from_str(&provider.got().await).expect("JSON");
        assert_eq!(
            (second[field].as_u64(), limit(&second)),
            (Some(most), Some(most)),
            "{body}: the limit in its field"
        );
        let (status, text) = provider.send("chat/completions", body.to_owned()).await;
        assert_eq!(
            (status.as_u16(), provider.more()),
            (200, 1),
            "{body}: the lesson is remembered: {text}"
        );
    }
}

#[tokio::test]
async fn two_things_are_learned_in_one_call_and_a_small_context_is_one_of_them() {
    let provider = Picky::start(picky_in_both, plan("paid/gpt")).await;
    let (status, text) = provider.send("chat/completions", CHAT.to_owned()).await;
    assert_eq!(
        (status.as_u16(), provider.more()),
        (200, 3),
        "the name, the number: {text}"
    );
    let mut provider = Picky::start(vllm, plan("paid/gpt")).await;
    let (status, text) = provider.send("chat/completions", CHAT.to_owned()).await;
    assert_eq!((status.as_u16(), provider.more()), (200, 2), "{text}");
    provider.got().await;
    let second: Value = serde_json::from_str(&provider.got().await).expect("JSON");
    assert_eq!(limit(&second), Some(8192 - 100), "the rest of the context");
}

#[tokio::test]
async fn a_refusal_that_goes_on_is_an_ordinary_failure() {
    fn never(request: &Value) -> Option<(u16, String)> {
        deepseek(request).or(Some((
            400,
            "Invalid max_tokens value, the valid range of max_tokens is [1, 4096]".to_owned(),
        )))
    }
    let mut provider = Picky::start(never, plan("paid/gpt")).await;
    let (status, _) = provider.send("chat/completions", CHAT.to_owned()).await;
    assert_eq!(
        (status.as_u16(), provider.more()),
        (400, 2),
        "the most is learned once in a call"
    );
    assert_eq!(
        provider.rig.last_call().class,
        CallClass::BadRequest,
        "its class"
    );
    provider.got().await;
    provider.got().await;
    provider.send("chat/completions", CHAT.to_owned()).await;
    let first: Value = serde_json::from_str(&provider.got().await).expect("JSON");
    assert_eq!(
        limit(&first),
        Some(16_384),
        "and a useless lesson is not kept"
    );
}

#[tokio::test]
async fn learning_is_no_retry_and_no_outage() {
    let llms = vec![name("paid/gpt"), name("free/small")];
    let provider = Picky::start(
        deepseek,
        CallPlan {
            llms,
            ..plan("paid/gpt")
        },
    )
    .await;
    let (status, _) = provider.send("chat/completions", CHAT.to_owned()).await;
    let record = provider.rig.session.record();
    let asked: Vec<&str> = record.calls.iter().map(|call| call.llm.as_str()).collect();
    assert_eq!(
        (status.as_u16(), asked),
        (200, vec!["paid/gpt", "paid/gpt"]),
        "the same LLM, although retries are off"
    );
    assert_eq!(record.no_llm_left, None, "no LLM was out");
}

#[tokio::test]
async fn what_the_pool_file_says_is_not_tried_out() {
    let known = |base_url: &str| {
        let settings = LlmSettings {
            max_output: Some(8192),
        };
        let paid = Provider {
            free: false,
            output_limit_field: Some(OutputLimitField::MaxCompletionTokens),
            ..provider(base_url)
        };
        let price = Price::from(Rates {
            cached_input: MicroUsd(1),
            ..Rates::new(MicroUsd(1), MicroUsd(1))
        });
        let known = LearnedLimits::from_file(&BTreeMap::from([(name("paid/gpt"), settings)]));
        let providers = BTreeMap::from([("paid".to_owned(), paid)]);
        Upstreams::with(
            &providers,
            BTreeMap::from([(name("paid/gpt"), price)]),
            known,
            |_| Some(KEY.to_owned()),
        )
        .expect("usable providers")
    };
    let taste: Taste = |request| newest_of_openai(request).or_else(|| deepseek(request));
    for body in [
        CHAT,
        r#"{"messages":[{"content":"hi"}],"max_tokens":64000}"#,
    ] {
        let mut provider = Picky::start_with(taste, plan("paid/gpt"), known).await;
        let (status, text) = provider.send("chat/completions", body.to_owned()).await;
        assert_eq!(
            (status.as_u16(), provider.more()),
            (200, 1),
            "at the first try: {text}"
        );
        let seen: Value = serde_json::from_str(&provider.got().await).expect("JSON");
        assert_eq!(
            (limit(&seen), seen.get("max_tokens")),
            (Some(8192), None),
            "{body}: number and name of the file"
        );
    }
}
