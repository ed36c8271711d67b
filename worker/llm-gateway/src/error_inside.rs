//! An error that comes with status 200, or in the middle of an answer. Pure.

use serde_json::{Value, json};

use super::moderation::is_code;

/// The error of an answer, or of a part of it, as an object `{"error": …}`. An empty error does not
/// count.
pub(super) fn error_in(part: &Value) -> Option<Value> {
    let error = &part["error"];
    let is_none = match error {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(code) => code.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(errors) => errors.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    (!is_none).then(|| json!({"error": error}))
}

/// The error of a body that is nothing but an error and has no member `error`, as an object `{"error": …}`. The caller has
/// made sure that the body is no answer.
pub(super) fn error_alone(body: &Value) -> Option<Value> {
    let says = |field: &str| body[field].as_str().is_some_and(|text| !text.is_empty());
    let code = &body["base_resp"]["status_code"];
    let error = if body["object"] == "error" || body["type"] == "error" {
        body
    } else if let Some(first) = body["errors"].as_array().and_then(|errors| errors.first()) {
        // Cloudflare's.
        first
    } else if code.as_i64().is_some_and(|code| code != 0) {
        // MiniMax's. Its codes are not HTTP statuses.
        &body["base_resp"]["status_msg"]
    } else if says("detail") || body["detail"].is_array() {
        // FastAPI's, which many servers of open models use.
        &body["detail"]
    } else if says("message")
        && ["code", "status", "error_code"]
            .iter()
            .any(|name| !body[*name].is_null())
    {
        body
    } else {
        return None;
    };
    Some(json!({"error": error}))
}

/// The status that the error would have had before the answer began. None if the error does not
/// say.
pub(super) fn status_of(error: &Value) -> Option<u16> {
    let said = [
        &error["code"],
        &error["type"],
        &error["status"],
        &error["metadata"]["error_type"],
    ];
    said.into_iter().find_map(numeric).or_else(|| {
        said.into_iter()
            .filter_map(Value::as_str)
            .find_map(status_of_word)
    })
}

fn numeric(code: &Value) -> Option<u16> {
    let number = code.as_u64().or_else(|| code.as_str()?.parse().ok())?;
    u16::try_from(number)
        .ok()
        .filter(|status| (400..600).contains(status))
}

/// Error codes of OpenAI, Anthropic, Google and OpenRouter.
fn status_of_word(word: &str) -> Option<u16> {
    match word.to_ascii_lowercase().as_str() {
        "invalid_request_error"
        | "invalid_request"
        | "invalid_argument"
        | "invalid_prompt"
        | "context_length_exceeded" => Some(400),
        "authentication_error"
        | "authentication"
        | "invalid_api_key"
        | "unauthenticated"
        | "unauthorized" => Some(401),
        "billing_error" | "payment_required" | "insufficient_credits" => Some(402),
        "permission_error" | "permission_denied" | "forbidden" => Some(403),
        "not_found_error" | "not_found" | "model_not_found" => Some(404),
        "request_too_large" => Some(413),
        "rate_limit_error"
        | "rate_limit_exceeded"
        | "rate_limited"
        | "too_many_requests"
        | "insufficient_quota"
        | "resource_exhausted" => Some(429),
        "overloaded_error"
        | "overloaded"
        | "provider_overloaded"
        | "provider_unavailable"
        | "server_is_overloaded"
        | "server_error"
        | "internal_error"
        | "api_error"
        | "internal"
        | "unavailable" => Some(503),
        code => is_code(code).then_some(400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_error_is_in_its_code_or_in_one_of_its_words() {
        for (error, status) in [
            (json!({"code": 429, "type": "server_error"}), Some(429)),
            (json!({"code": "503"}), Some(503)),
            (
                json!({"code": "whatever", "type": "rate_limit_error"}),
                Some(429),
            ),
            (
                json!({"code": 8, "status": "RESOURCE_EXHAUSTED"}),
                Some(429),
            ),
            (
                json!({"code": null, "metadata": {"error_type": "provider_overloaded"}}),
                Some(503),
            ),
            (json!({"code": 200, "message": "x"}), None),
            (json!("a text"), None),
            (Value::Null, None),
        ] {
            assert_eq!(status_of(&error), status, "{error}");
        }
    }

    #[test]
    fn a_body_that_is_only_an_error_is_one_in_every_spelling() {
        for (body, status) in [
            (
                json!({"object": "error", "message": "m", "type": "NotFoundError", "code": 404}),
                Some(404),
            ),
            (json!({"type": "error", "message": "m"}), None),
            (
                json!({"success": false, "errors": [{"code": 429, "message": "m"}], "result": null}),
                Some(429),
            ),
            (
                json!({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}, "choices": null}),
                None,
            ),
            (json!({"detail": "Not authenticated"}), None),
            (json!({"detail": [{"msg": "field required"}]}), None),
            (json!({"code": "503", "message": "m"}), Some(503)),
        ] {
            let error = error_alone(&body).unwrap_or_else(|| panic!("{body}"));
            assert_eq!(status_of(&error["error"]), status, "{body}");
        }
        for other in [
            json!({}),
            json!({"choices": []}),
            json!({"message": "hello"}),
            json!({"base_resp": {"status_code": 0}}),
            json!({"errors": []}),
            json!({"detail": ""}),
        ] {
            assert_eq!(error_alone(&other), None, "{other}");
        }
    }

    #[test]
    fn an_error_that_says_nothing_is_none() {
        for none in [
            Value::Null,
            json!(false),
            json!(""),
            json!({}),
            json!([]),
            json!(0),
        ] {
            assert_eq!(error_in(&json!({"error": none})), None, "{none}");
        }
        for some in [json!("x"), json!({"code": 1}), json!(true), json!(500)] {
            assert!(error_in(&json!({"error": some})).is_some(), "{some}");
        }
    }
}
