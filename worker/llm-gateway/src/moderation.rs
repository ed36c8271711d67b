//! Reads a refusal whose status is ambiguous: 403 can mean a bad key or a prompt that a moderation service rejects. Pure.

use serde_json::Value;

/// Values of `code` or `type` in an error.
const CODES: [&str; 9] = [
    "content_filter",
    "content_filtered",
    "content_policy_violation",
    "data_inspection_failed",
    "flagged",
    "input_moderation",
    "moderation_blocked",
    "prompt_blocked",
    "refusal",
];
/// Sentences of OpenRouter, xAI, Mistral, Azure, Bedrock and company proxies, in lower case.
const SENTENCES: [&str; 13] = [
    "blocked by moderation",
    "content filter",
    "content management policy",
    "content policy violation",
    "content violates",
    "guardrail",
    "inappropriate content",
    "input was flagged",
    "prompt injection",
    "prompt was flagged",
    "request was flagged",
    "requires moderation",
    "violates usage guidelines",
];
/// Words that make such a refusal one about the account.
const ABOUT_THE_ACCOUNT: [&str; 6] = [
    "account",
    "not authorized",
    "organization",
    "subscription",
    "temporarily blocked",
    "your resource",
];

/// Whether the provider, or a service in front of it, refuses this prompt. Another prompt with the
/// same key may pass. `error` is the object that describes the error.
pub(super) fn is_about_the_prompt(error: &Value, body: &[u8]) -> bool {
    if is_page(body) {
        return true;
    }
    let metadata = &error["metadata"];
    let words = [
        &error["code"],
        &error["type"],
        &error["error_type"],
        &metadata["error_type"],
    ];
    let text = String::from_utf8_lossy(body).to_lowercase();
    !metadata["reasons"].is_null()
        || !metadata["flagged_input"].is_null()
        || words.into_iter().filter_map(Value::as_str).any(is_code)
        || (SENTENCES.iter().any(|sentence| text.contains(sentence))
            && !ABOUT_THE_ACCOUNT.iter().any(|word| text.contains(word)))
}

/// Whether an error code or type stands for a refused prompt.
pub(super) fn is_code(word: &str) -> bool {
    CODES.contains(&word) || word.ends_with("_policy")
}

/// Whether the body is a page for people, from a proxy, a firewall or a login. No API has written
/// it.
pub(super) fn is_page(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"<")
}

/// Whether the body is an error as an API writes it, so that an API has read the request.
pub(super) fn is_api_error(body: &[u8]) -> bool {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    ["error", "message", "detail"]
        .into_iter()
        .any(|name| parsed.get(name).is_some_and(|said| !said.is_null()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refused_prompt_is_told_from_a_refused_key() {
        let flagged = json!({"code": 403, "message": "no", "metadata": {"reasons": ["hate"], "flagged_input": "…"}});
        for (error, about_the_prompt) in [
            (flagged, true),
            (
                json!({"code": 403, "message": "Your input was flagged for \"violence\". No credits were charged."}),
                true,
            ),
            (
                json!({"message": "Content violates usage guidelines. Team: t, API key ID: k, Failed check: BIO"}),
                true,
            ),
            (
                json!({"message": "Request blocked: prompt injection patterns detected"}),
                true,
            ),
            (
                json!({"message": "no", "metadata": {"error_type": "content_policy_violation"}}),
                true,
            ),
            (json!({"type": "moderation_blocked", "message": "no"}), true),
            (json!({"message": "Forbidden"}), false),
            (
                json!({"code": "unsupported_country_region_territory", "message": "Country not supported"}),
                false,
            ),
            (
                json!({"message": "Your account was flagged: content policy violation"}),
                false,
            ),
            (
                json!({"message": "This organization has been disabled."}),
                false,
            ),
            (
                json!({"message": "Your resource has been temporarily blocked: content policy violation"}),
                false,
            ),
            (
                json!({"message": "User is not authorized to perform bedrock:ApplyGuardrail"}),
                false,
            ),
            (
                json!({"type": "permission_error", "message": "Your API key does not have permission"}),
                false,
            ),
        ] {
            let body = json!({"error": error});
            let said = is_about_the_prompt(&body["error"], body.to_string().as_bytes());
            assert_eq!(said, about_the_prompt, "{body}");
        }
        for page in [
            "<!DOCTYPE html><html><title>Just a moment...</title>",
            "\n  <html>403 Forbidden</html>",
        ] {
            assert!(is_about_the_prompt(&Value::Null, page.as_bytes()), "{page}");
        }
        assert!(
            !is_about_the_prompt(&Value::Null, b""),
            "an empty body explains nothing"
        );
    }
}
