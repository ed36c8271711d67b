//! The agent's request: read, checked for what cannot be priced, and written again for a provider. Pure.

use serde_json::{Map, Value};

use super::pricing::Demand;

const MAX_CHOICES: u64 = 128;
/// Where a request says how long an answer may be: the old name and OpenAI's new one.
const OUTPUT_LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];
/// Fields that make a provider do, or charge for, more than tokens at the configured price.
const UNPRICEABLE: [&str; 10] = [
    "audio",
    "enable_search",
    "models",
    "plugins",
    "prediction",
    "preset",
    "provider",
    "route",
    "search_parameters",
    "web_search_options",
];

/// A request that is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("the request is not a JSON object: {0}")]
    Json(String),
    #[error("`{0}` cannot be priced; send the request without it")]
    Unpriceable(String),
    #[error("`{0}` must be a positive whole number")]
    Number(&'static str),
    #[error("`messages` must be a list that is not empty")]
    Messages,
}

/// A request that can be priced.
#[derive(Debug, Clone)]
pub(super) struct AgentRequest {
    fields: Map<String, Value>,
    pub(super) demand: Demand,
    /// The agent wants server-sent events.
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

impl AgentRequest {
    pub(super) fn read(body: &[u8]) -> Result<Self, BadRequest> {
        let mut fields: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| BadRequest::Json(error.to_string()))?;
        if fields.get("messages").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return Err(BadRequest::Messages);
        }
        if let Some(field) = unpriceable(&fields) {
            return Err(BadRequest::Unpriceable(field));
        }
        let choices = positive(&fields, "n")?.unwrap_or(1);
        if choices > MAX_CHOICES {
            return Err(BadRequest::Number("n"));
        }
        let mut max_output = None;
        for name in OUTPUT_LIMITS {
            if let Some(limit) = positive(&fields, name)? {
                max_output = Some(max_output.map_or(limit, |other: u64| other.min(limit)));
            }
        }
        let stream = fields.remove("stream") == Some(Value::Bool(true));
        let include_usage = fields.remove("stream_options").is_some_and(|options| options["include_usage"] == true);
        let demand = Demand { bytes: body.len() as u64, choices, max_output };
        Ok(Self { fields, demand, stream, include_usage })
    }

    /// The body for a provider: its own name of the model, never a stream, and the output limit where one must be told
    /// (in `limit_field` when the agent set none).
    pub(super) fn for_provider(&self, model: &str, output_limit: Option<u64>, limit_field: &str) -> Vec<u8> {
        let mut fields = self.fields.clone();
        fields.insert("model".to_owned(), model.into());
        fields.insert("stream".to_owned(), false.into());
        if let Some(limit) = output_limit {
            let set: Vec<&str> =
                OUTPUT_LIMITS.into_iter().filter(|name| fields.get(*name).is_some_and(Value::is_u64)).collect();
            for name in if set.is_empty() { vec![limit_field] } else { set } {
                fields.insert(name.to_owned(), limit.into());
            }
        }
        Value::Object(fields).to_string().into_bytes()
    }
}

fn positive(fields: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, BadRequest> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().filter(|number| *number > 0).map(Some).ok_or(BadRequest::Number(name)),
    }
}

/// The first thing in the request whose price the tokens and the price list do not tell.
fn unpriceable(fields: &Map<String, Value>) -> Option<String> {
    let given = |name: &str| fields.get(name).is_some_and(|value| !value.is_null() && value != false);
    if let Some(name) = UNPRICEABLE.into_iter().find(|name| given(name)) {
        return Some(name.to_owned());
    }
    if given("service_tier") && fields["service_tier"] != "default" {
        return Some("service_tier".to_owned());
    }
    if given("modalities") && fields["modalities"] != serde_json::json!(["text"]) {
        return Some("modalities".to_owned());
    }
    let tools = fields.get("tools").and_then(Value::as_array).into_iter().flatten();
    if let Some(tool) = tools.map(|tool| &tool["type"]).find(|kind| *kind != "function" && *kind != "custom") {
        return Some(format!("tools of type {tool}"));
    }
    let messages = fields.get("messages").and_then(Value::as_array).into_iter().flatten();
    let mut parts = messages.filter_map(|message| message["content"].as_array()).flatten();
    let part = parts.find(|part| part["type"] != "text" && part["type"] != "refusal")?;
    Some(format!("message content of type {}", part["type"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<AgentRequest, BadRequest> {
        AgentRequest::read(body.to_string().as_bytes())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut body = json!({"model": "x", "messages": [{"role": "user", "content": "hi"}]});
        body[field] = value;
        body
    }

    fn sent(request: &AgentRequest, limit: Option<u64>) -> Value {
        serde_json::from_slice(&request.for_provider("gpt-4o", limit, "max_completion_tokens")).expect("JSON")
    }

    #[test]
    fn the_agents_fields_are_kept_and_model_and_stream_are_ours() {
        let mut body = with("temperature", json!(0.1));
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let request = read(body).expect("a good request");
        assert!(request.stream && request.include_usage, "what the agent wants is remembered");
        let sent = sent(&request, None);
        assert_eq!(sent["temperature"], json!(0.1), "an own field of the agent");
        assert_eq!((&sent["model"], &sent["stream"]), (&json!("gpt-4o"), &json!(false)), "ours");
        assert_eq!((sent.get("stream_options"), sent.get("max_tokens")), (None, None), "nothing else");
    }

    #[test]
    fn an_output_limit_goes_where_the_agent_put_its_own() {
        let request = read(with("max_tokens", json!(900))).expect("a good request");
        assert_eq!(request.demand.max_output, Some(900), "the agent's limit");
        assert_eq!(sent(&request, Some(70))["max_tokens"], 70, "lowered in its place");
        assert_eq!(sent(&request, Some(70)).get("max_completion_tokens"), None, "and only there");
        let request = read(with("temperature", json!(0))).expect("a good request");
        assert_eq!(sent(&request, Some(70))["max_completion_tokens"], 70, "else in the provider's field");
    }

    #[test]
    fn what_cannot_be_priced_is_refused_by_name() {
        for (field, value, named) in [
            ("web_search_options", json!({}), "web_search_options"),
            ("plugins", json!([{"id": "web"}]), "plugins"),
            ("models", json!(["dear/model"]), "models"),
            ("service_tier", json!("priority"), "service_tier"),
            ("modalities", json!(["text", "audio"]), "modalities"),
            ("tools", json!([{"type": "web_search"}]), "tools of type \"web_search\""),
            (
                "messages",
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "content of type \"image_url\"",
            ),
        ] {
            let message = read(with(field, value)).expect_err(field).to_string();
            assert!(message.contains(named) && message.contains("cannot be priced"), "{field}: {message}");
        }
        for (field, value) in [
            ("service_tier", json!("default")),
            ("modalities", json!(["text"])),
            ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
            ("messages", json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]}])),
            ("web_search_options", Value::Null),
            ("n", json!(3)),
        ] {
            assert!(read(with(field, value.clone())).is_ok(), "{field} = {value} has a price");
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
            (r#"{"messages": [{}], "max_completion_tokens": "many"}"#, "`max_completion_tokens`"),
        ] {
            let message = AgentRequest::read(body.as_bytes()).expect_err(body).to_string();
            assert!(message.contains(part), "{body} gave {message:?}, without {part:?}");
        }
    }
}
