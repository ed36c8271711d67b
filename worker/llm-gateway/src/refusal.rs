//! Reads a provider's refusal by its codes and words, where its status says too little: many
//! providers answer 400, 404 and 429 for several reasons. Pure.

use serde_json::Value;

/// Codes and types of a prompt that is too long.
const TOO_LONG_CODES: [&str; 9] = [
    "context_length_exceeded",
    "context_too_large",
    "context_window_exceeded",
    "exceed_context_size_error",
    "model_context_window_exceeded",
    "model_max_prompt_tokens_exceeded",
    "prompt_too_long",
    "string_above_max_length",
    "tokens_limit_reached",
];
/// Sentences of a prompt that is too long, in lower case.
const TOO_LONG: [&str; 21] = [
    "context length exceeded",
    "context length of only",
    "exceed context limit",
    "exceeded model token limit",
    "exceeds the available context size",
    "exceeds the context window",
    "input is too long",
    "maximum context length",
    "maximum prompt length",
    "max context length",
    "more than max tokens allowed",
    "prompt is too long",
    "prompt too long",
    "range of input length should be",
    "reached context length",
    "reduce the length of",
    "reduce your message size",
    "tokens + `max_new_tokens` must be",
    "too large for model",
    "too many tokens",
    "超长",
];
/// A prompt is too long if its refusal has one word of each of the three lists …
const PROMPT: [&str; 4] = ["prompt", "input", "context", "message"];
const LENGTH: [&str; 5] = ["token", "length", "context window", "context size", "n_ctx"];
const EXCESS: [&str; 9] = [
    "exceed",
    "too long",
    "too large",
    "too many",
    "longer than",
    "larger than",
    "greater than the",
    "must have less than",
    "overflow",
];
/// … and none of these, which stand for other limits.
const OTHER_LIMIT: [&str; 15] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "maxoutputtokens",
    "output tokens",
    "thinking",
    "per minute",
    "per min",
    "per day",
    "rate limit",
    "image",
    "tool",
    "stop",
    "file",
];
/// Codes and types of an account without money, rights or a valid key.
const ACCOUNT_CODES: [&str; 12] = [
    "access_terminated",
    "account_deactivated",
    "api_key_invalid",
    "arrearage",
    "billing_hard_limit_reached",
    "billing_not_active",
    "exceeded_current_quota_error",
    "insufficient_credits",
    "insufficient_quota",
    "invalid_api_key",
    "invalid_authentication_error",
    "unsupported_country_region_territory",
];
/// Sentences about such an account.
const ACCOUNT: [&str; 19] = [
    "account is not active",
    "api key expired",
    "api key not found",
    "api key not valid",
    "api usage limits",
    "billing hard limit",
    "credit balance is too low",
    "good standing",
    "incorrect api key",
    "insufficient balance",
    "insufficient credits",
    "invalid api key",
    "invalid x-api-key",
    "not enough credits",
    "organization has been disabled",
    "out of credits",
    "spending limit",
    "usage limit has been reached",
    "user location is not supported",
];
/// Sentences of a server that does not serve now, whatever is asked.
const NOT_SERVING: [&str; 11] = [
    "failed to load model",
    "lock timeout",
    "model has crashed",
    "model is currently loading",
    "model is loading",
    "model is not loaded",
    "model unloaded",
    "no models loaded",
    "out of memory",
    "server busy",
    "server is busy",
];
/// Codes and types of a model that is not served.
const MODEL_CODES: [&str; 6] = [
    "deploymentnotfound",
    "invalid_model",
    "model_decommissioned",
    "model_not_available",
    "model_not_found",
    "model_not_supported",
];
/// Sentences about such a model.
const MODEL: [&str; 5] = [
    "has been decommissioned",
    "invalid model name",
    "is not a valid model",
    "model not exist",
    "unknown model",
];
/// In a 404: the model is there, but not for this request.
const NOT_FOR_THIS_REQUEST: [&str; 8] = [
    "does not support function",
    "does not support image",
    "does not support tool",
    "endpoints found that support",
    "item with id",
    "previous response with id",
    "previous_response_not_found",
    "that can handle the requested parameters",
];

/// A provider's refusal.
#[derive(Debug)]
pub(super) struct ProviderRefusal {
    /// The provider's error object, or null.
    pub(super) error: Value,
    codes: Vec<String>,
    text: String,
}

impl ProviderRefusal {
    pub(super) fn read(body: &[u8]) -> Self {
        let error = described(body);
        let reasons = error["details"].as_array().into_iter().flatten();
        let codes = [&error["code"], &error["type"], &error["status"]]
            .into_iter()
            .chain(reasons.map(|detail| &detail["reason"]))
            .filter_map(|code| Some(code.as_str()?.to_lowercase()));
        Self {
            codes: codes.collect(),
            text: String::from_utf8_lossy(body).to_lowercase(),
            error,
        }
    }

    /// The prompt is longer than the model takes.
    pub(super) fn is_too_long(&self) -> bool {
        self.is(&TOO_LONG_CODES, &TOO_LONG)
            || ([&PROMPT[..], &LENGTH, &EXCESS]
                .iter()
                .all(|words| self.says(words))
                && !self.says(&OTHER_LIMIT))
    }

    /// A single request is above a limit of tokens a minute: no wait makes it pass.
    pub(super) fn is_above_the_rate(&self) -> bool {
        self.says(&["request too large", "reduce your message size"])
    }

    /// The account has no money, no right or no valid key.
    pub(super) fn is_about_the_account(&self) -> bool {
        self.is(&ACCOUNT_CODES, &ACCOUNT)
    }

    /// Like [`Self::is_about_the_account`], but by codes alone: the sentences also stand for limits
    /// that are full again soon.
    pub(super) fn is_out_of_quota(&self) -> bool {
        self.has(&ACCOUNT_CODES)
    }

    /// The server is up, but serves no model now.
    pub(super) fn is_not_serving(&self) -> bool {
        self.says(&NOT_SERVING)
    }

    /// The model is not served here.
    pub(super) fn names_no_model(&self) -> bool {
        self.is(&MODEL_CODES, &MODEL)
    }

    /// The model is served, but does not take a part of this request.
    pub(super) fn is_about_the_request(&self) -> bool {
        self.says(&NOT_FOR_THIS_REQUEST)
    }

    fn is(&self, codes: &[&str], sentences: &[&str]) -> bool {
        self.has(codes) || self.says(sentences)
    }

    fn has(&self, codes: &[&str]) -> bool {
        self.codes.iter().any(|code| codes.contains(&code.as_str()))
    }

    fn says(&self, sentences: &[&str]) -> bool {
        sentences
            .iter()
            .any(|sentence| self.text.contains(sentence))
    }
}

/// The error in a body. Google puts it into a list, and some providers write its fields without an
/// `error` around them.
fn described(body: &[u8]) -> Value {
    let mut parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(first) = parsed.get_mut(0) {
        parsed = first.take();
    }
    match parsed.get_mut("error") {
        Some(error @ Value::Object(_)) => error.take(),
        Some(_) | None => parsed,
    }
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
