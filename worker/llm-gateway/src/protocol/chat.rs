//! Requests of chat completions. Pure.

use pool_core::pool::OutputLimitField;
use serde_json::{Map, Value};

use super::body::RequestBody;
use super::fields::{BadRequest, given, kind, list, positive, unpriceable_field};
use super::output_limit::{self, LimitField};

const MAX_CHOICES: u64 = 128;
/// Fields that make a provider do, or charge for, more than tokens at the configured price.
pub(super) const UNPRICEABLE: [&str; 5] = [
    "audio",
    "enable_search",
    "prediction",
    "search_parameters",
    "web_search_options",
];

/// The number of answers that the agent asks for.
pub(super) fn choices(fields: &Map<String, Value>) -> Result<u64, BadRequest> {
    positive(fields, "n")?
        .or(Some(1))
        .filter(|choices| *choices <= MAX_CHOICES)
        .ok_or(BadRequest::Number("n"))
}

/// The name of the output limit. It is the agent's own name, if the agent set a limit and the LLM
/// is not known to need another name.
pub(super) fn limit_field(body: &RequestBody, field: LimitField) -> OutputLimitField {
    let usual = match field {
        LimitField::Only(field) => return field,
        LimitField::Usually(field) => field,
    };
    let is_set = |field: OutputLimitField| output_limit::is_set(body, field.as_str());
    match (
        is_set(OutputLimitField::MaxTokens),
        is_set(OutputLimitField::MaxCompletionTokens),
    ) {
        (true, false) => OutputLimitField::MaxTokens,
        (false, true) => OutputLimitField::MaxCompletionTokens,
        (true, true) | (false, false) => usual,
    }
}

/// The first part of the request that tokens and the price list do not price.
pub(super) fn unpriceable(fields: &Map<String, Value>) -> Option<String> {
    let field = unpriceable_field(fields, &UNPRICEABLE, &[("service_tier", &["default"])]);
    if field.is_some() {
        return field;
    }
    if given(fields, "modalities") && fields["modalities"] != serde_json::json!(["text"]) {
        return Some("modalities".to_owned());
    }
    let mut tools = list(fields, "tools").iter();
    if let Some(tool) = tools.find(|tool| !["function", "custom"].contains(&kind(tool))) {
        return Some(format!("tools of type {}", tool["type"]));
    }
    let mut parts = list(fields, "messages")
        .iter()
        .filter_map(|message| message["content"].as_array())
        .flatten();
    let part = parts.find(|part| !["text", "refusal"].contains(&kind(part)))?;
    Some(format!("message content of type {}", part["type"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RequestHead;
    use crate::request::{AgentRequest, Terms};
    use pool_core::llm::Dialect;
    use serde_json::json;

    fn read_text(body: &str) -> Result<AgentRequest, BadRequest> {
        let head = RequestHead {
            dialect: Dialect::Chat,
            headers: Vec::new(),
            query: None,
        };
        AgentRequest::read(head, body.as_bytes())
    }

    fn read(body: Value) -> Result<AgentRequest, BadRequest> {
        read_text(&body.to_string())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut body = json!({"model": "x", "messages": [{"role": "user", "content": "hi"}]});
        body[field] = value;
        body
    }

    fn sent(request: &AgentRequest, limit: Option<u64>) -> Value {
        sent_on(TERMS, request, limit)
    }

    const TERMS: Terms = Terms {
        limit_field: LimitField::Usually(OutputLimitField::MaxCompletionTokens),
        asks_for_standard_tier: false,
    };

    fn sent_on(terms: Terms, request: &AgentRequest, limit: Option<u64>) -> Value {
        serde_json::from_slice(&request.for_provider("gpt-4o", limit, terms)).expect("JSON")
    }

    #[test]
    fn the_standard_tier_is_asked_for_where_the_provider_knows_it() {
        let asks = Terms {
            asks_for_standard_tier: true,
            ..TERMS
        };
        for (body, terms, tier) in [
            (with("temperature", json!(0)), asks, json!("default")),
            (with("service_tier", Value::Null), asks, json!("default")),
            (
                with("service_tier", json!("default")),
                asks,
                json!("default"),
            ),
            (
                with("service_tier", json!("default")),
                TERMS,
                json!("default"),
            ),
            (with("temperature", json!(0)), TERMS, Value::Null),
        ] {
            let request = read(body.clone()).expect("a good request");
            assert_eq!(
                sent_on(terms, &request, None)["service_tier"],
                tier,
                "{body}"
            );
        }
    }

    #[test]
    fn the_agents_fields_are_kept_and_model_and_stream_are_ours() {
        let mut body = with("temperature", json!(0.1));
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let request = read(body).expect("a good request");
        assert!(
            request.stream && request.include_usage,
            "the agent's wish for a stream is remembered"
        );
        let sent = sent(&request, None);
        assert_eq!(
            sent["temperature"],
            json!(0.1),
            "a field of the agent's own"
        );
        assert_eq!(
            (&sent["model"], &sent["stream"]),
            (&json!("gpt-4o"), &json!(false)),
            "ours"
        );
        assert_eq!(
            (sent.get("stream_options"), sent.get("max_tokens")),
            (None, None),
            "nothing else"
        );
    }

    #[test]
    fn an_output_limit_goes_where_the_agent_put_its_own() {
        let request = read(with("max_tokens", json!(900))).expect("a good request");
        assert_eq!(request.demand.max_output, Some(900), "the agent's limit");
        assert_eq!(
            sent(&request, Some(70))["max_tokens"],
            70,
            "lowered in place"
        );
        assert_eq!(
            sent(&request, Some(70)).get("max_completion_tokens"),
            None,
            "and only there"
        );
        let request = read(with("temperature", json!(0))).expect("a good request");
        assert_eq!(
            sent(&request, Some(70))["max_completion_tokens"],
            70,
            "else in the provider's field"
        );
    }

    #[test]
    fn what_cannot_be_priced_is_refused_by_name() {
        for (field, value, named) in [
            ("web_search_options", json!({}), "web_search_options"),
            ("service_tier", json!("priority"), "service_tier"),
            ("modalities", json!(["text", "audio"]), "modalities"),
            (
                "tools",
                json!([{"type": "web_search"}]),
                "tools of type \"web_search\"",
            ),
            (
                "messages",
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "content of type \"image_url\"",
            ),
        ] {
            let message = read(with(field, value)).expect_err(field).to_string();
            assert!(
                message.contains(named) && message.contains("cannot be priced"),
                "{field}: {message}"
            );
        }
        for (field, value) in [
            ("service_tier", json!("default")),
            ("modalities", json!(["text"])),
            (
                "tools",
                json!([{"type": "function", "function": {"name": "f"}}]),
            ),
            (
                "messages",
                json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]}]),
            ),
            ("web_search_options", Value::Null),
            ("n", json!(3)),
        ] {
            assert!(
                read(with(field, value.clone())).is_ok(),
                "{field} = {value} has a price"
            );
        }
    }

    #[test]
    fn requests_that_are_none_are_refused() {
        for (body, part) in [
            ("[]", "not a JSON object"),
            ("{", "not a JSON object"),
            ("{}", "`messages`"),
            (r#"{"messages": []}"#, "`messages`"),
            (r#"{"messages": [{}], "n": 0}"#, "`n`"),
            (r#"{"messages": [{}], "n": 1000}"#, "`n`"),
            (r#"{"messages": [{}], "max_tokens": -5}"#, "`max_tokens`"),
            (
                r#"{"messages": [{}], "max_completion_tokens": "many"}"#,
                "`max_completion_tokens`",
            ),
        ] {
            let message = read_text(body).expect_err(body).to_string();
            assert!(
                message.contains(part),
                "{body} gave {message:?}, without {part:?}"
            );
        }
    }
}
