//! The fields of a request that every dialect checks in the same way. Pure.

use pool_core::price::CacheWrites;
use serde_json::{Map, Value};

/// A request that is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    #[error("the request is not a JSON object: {0}")]
    Json(String),
    #[error("`{0}` cannot be priced; send the request without it")]
    Unpriceable(String),
    #[error(
        "`{0}` names another LLM, address or key than the pool file; send the request without it"
    )]
    Routing(&'static str),
    #[error("`{0}` must be a positive whole number")]
    Number(&'static str),
    #[error("`{0}` must be true or false")]
    Flag(&'static str),
    #[error("`{0}` is not spelled as providers document it; write it in lower case")]
    Spelling(String),
    #[error("`{0}` must be a list that is not empty")]
    Nothing(&'static str),
}

/// Fields by which routers and proxies choose another LLM, address or key than the pool file names,
/// or add work of their own. No dialect has them.
pub(super) const ROUTING: [&str; 17] = [
    "api_base",
    "api_key",
    "api_version",
    "base_url",
    "context_window_fallbacks",
    "custom_llm_provider",
    "extra_body",
    "extra_headers",
    "extra_query",
    "fallbacks",
    "models",
    "plugins",
    "preset",
    "provider",
    "route",
    "router",
    "transforms",
];

/// The parts of a request that decide its price, apart from its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PriceFactors {
    pub(crate) choices: u64,
    pub(crate) max_output: Option<u64>,
    /// How long the provider may keep the input in its cache.
    pub(crate) writes: CacheWrites,
}

/// The first field that is not priced: one of `names`, or one with another value than those listed.
pub(super) fn unpriceable_field(
    fields: &Map<String, Value>,
    names: &[&str],
    listed: &[(&str, &[&str])],
) -> Option<String> {
    let is_other = |(name, values): &&(&str, &[&str])| {
        given(fields, name)
            && fields[*name]
                .as_str()
                .is_none_or(|value| !values.contains(&value))
    };
    let name = names.iter().find(|name| given(fields, name));
    let name = name.or_else(|| Some(&listed.iter().find(is_other)?.0));
    name.map(|name| (*name).to_owned())
}

pub(super) fn positive(
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<u64>, BadRequest> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => whole(value)
            .filter(|number| *number > 0)
            .map(Some)
            .ok_or(BadRequest::Number(name)),
    }
}

/// A whole number, also if it is written as a float (`100.0`). Numbers beyond 64 bits count as the
/// largest one.
pub(super) fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        value
            .as_f64()
            .filter(|float| *float >= 0.0 && float.fract() == 0.0)
            .map(|float| float as u64)
    })
}

/// How long the `cache_control` of a request asks to keep its parts in a cache, at most.
pub(super) fn cache_writes(fields: &Map<String, Value>) -> CacheWrites {
    let each = fields.iter().map(|(name, value)| match (&**name, value) {
        ("cache_control", Value::Object(_)) if value["ttl"] == "1h" => CacheWrites::Hour,
        ("cache_control", Value::Object(_)) => CacheWrites::Short,
        (_, value) => cache_writes_inside(value),
    });
    each.max().unwrap_or(CacheWrites::None)
}

fn cache_writes_inside(value: &Value) -> CacheWrites {
    match value {
        Value::Object(fields) => cache_writes(fields),
        Value::Array(values) => {
            let each = values.iter().map(cache_writes_inside);
            each.max().unwrap_or(CacheWrites::None)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => CacheWrites::None,
    }
}

/// The first field that a router would act on.
pub(super) fn routing_field(fields: &Map<String, Value>) -> Option<&'static str> {
    ROUTING.into_iter().find(|name| given(fields, name))
}

/// Whether a field is set and asks for something.
pub(crate) fn given(fields: &Map<String, Value>, name: &str) -> bool {
    fields
        .get(name)
        .is_some_and(|value| !value.is_null() && value != false)
}

/// The elements of a field's list; empty if the field is not a list.
pub(crate) fn list<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    fields
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The `type` of a tool, a part of a message, or an event.
pub(super) fn kind(value: &Value) -> &str {
    value["type"].as_str().unwrap_or_default()
}
