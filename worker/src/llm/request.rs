//! The agent's request: read, checked for what cannot be priced, and written again for a provider. Pure; what is
//! particular to a dialect is in `protocol`.

use serde_json::{Map, Value};

use super::pricing::Demand;
use super::protocol::{Envelope, Form};

/// A request that is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("the request is not a JSON object: {0}")]
    Json(String),
    #[error("`{0}` cannot be priced; send the request without it")]
    Unpriceable(String),
    #[error("`{0}` must be a positive whole number")]
    Number(&'static str),
    #[error("`{0}` must be a list that is not empty")]
    Nothing(&'static str),
}

/// What a request asks for, apart from its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) choices: u64,
    pub(super) max_output: Option<u64>,
    /// By how many percent input may cost more than its price.
    pub(super) input_surcharge: u64,
}

/// A request that can be priced.
#[derive(Debug, Clone)]
pub(super) struct AgentRequest {
    pub(super) envelope: Envelope,
    fields: Map<String, Value>,
    pub(super) demand: Demand,
    /// The agent wants server-sent events.
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

impl AgentRequest {
    pub(super) fn read(envelope: Envelope, body: &[u8]) -> Result<Self, BadRequest> {
        let fields: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| BadRequest::Json(error.to_string()))?;
        let Asked { choices, max_output, input_surcharge } = envelope.dialect.check(&fields)?;
        let stream = fields.get("stream") == Some(&Value::Bool(true));
        let include_usage = fields.get("stream_options").is_some_and(|options| options["include_usage"] == true);
        let demand = Demand { bytes: weight(body), choices, max_output, input_surcharge };
        Ok(Self { envelope, fields, demand, stream, include_usage })
    }

    /// In which form the provider answers.
    pub(super) fn form(&self) -> Form {
        let dialect = self.envelope.dialect;
        Form { dialect, stream: self.stream && dialect.streams() }
    }

    /// The body for a provider: its own name of the model, a stream only where its events are passed on, and the output
    /// limit where one must be told (chat completions: in `limit_field` when the agent set none).
    pub(super) fn for_provider(&self, model: &str, output_limit: Option<u64>, limit_field: &str) -> Vec<u8> {
        let mut fields = self.fields.clone();
        let dialect = self.envelope.dialect;
        fields.insert("model".to_owned(), model.into());
        if !dialect.streams() {
            fields.insert("stream".to_owned(), false.into());
            fields.remove("stream_options");
        }
        if let Some(limit) = output_limit {
            dialect.limit(&mut fields, limit, limit_field);
        }
        Value::Object(fields).to_string().into_bytes()
    }
}

/// The size of a request for estimates of its tokens from above: digits weigh three times, because many tokenizers make a
/// token of each.
fn weight(body: &[u8]) -> u64 {
    let digits = body.iter().filter(|byte| byte.is_ascii_digit()).count();
    (body.len() + 2 * digits) as u64
}

pub(super) fn positive(fields: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, BadRequest> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().filter(|number| *number > 0).map(Some).ok_or(BadRequest::Number(name)),
    }
}

/// Whether a field asks for something.
pub(super) fn given(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| !value.is_null() && value != false)
}

/// The elements of a list in a field; none when it is no list.
pub(super) fn list<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    fields.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
