use super::*;
use crate::pricing::Tokens;
use pool_core::llm::Dialect;

const NOW: Timestamp = Timestamp(1_445_412_420_000); // Wed, 21 Oct 2015 07:27:00 GMT

const CHAT: AnswerForm = AnswerForm {
    dialect: Dialect::Chat,
    stream: false,
};

fn answered(status: u16, body: &str) -> Exchange {
    answered_as(CHAT, status, body)
}

fn answered_as(form: AnswerForm, status: u16, body: &str) -> Exchange {
    let body = Bytes::copy_from_slice(body.as_bytes());
    Exchange::Answered {
        form,
        status,
        waits: WaitHeaders::default(),
        body,
        end: BodyEnd::Whole,
    }
}

fn failure(exchange: Exchange) -> CallFailure {
    match classify(exchange, NOW, Some("the-secret-key")) {
        CallOutcome::Failure(failure) => failure,
        CallOutcome::Answer(answer) | CallOutcome::Cut(_, answer) => {
            panic!("this must not be an answer: {answer:?}")
        }
    }
}

fn error(code: &str, message: &str) -> String {
    serde_json::json!({"error": {"message": message, "type": "t", "code": code}}).to_string()
}

fn anthropic(kind: &str, message: &str) -> String {
    serde_json::json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}).to_string()
}

#[test]
fn every_error_status_has_its_class() {
    let limited = || CallClass::RateLimited { retry_after: None };
    for (status, body, class) in [
        (
            400,
            error("", "temperature is wrong"),
            CallClass::BadRequest,
        ),
        (
            400,
            error("context_length_exceeded", "too long"),
            CallClass::ContextTooLong,
        ),
        (
            400,
            error("", "This model's maximum context length is 8192 tokens."),
            CallClass::ContextTooLong,
        ),
        (
            400,
            r#"{"error": {"code": 400, "type": "exceed_context_size_error"}}"#.into(),
            CallClass::ContextTooLong,
        ),
        (
            400,
            error("model_not_found", "no such model"),
            CallClass::ModelUnavailable,
        ),
        (401, error("invalid_api_key", "wrong key"), CallClass::Auth),
        (402, error("", "insufficient balance"), CallClass::Auth),
        (403, error("", "forbidden"), CallClass::Auth),
        (
            403,
            "<!DOCTYPE html><title>Just a moment...</title>".into(),
            CallClass::BadRequest,
        ),
        (
            403,
            error("content_policy_violation", "no"),
            CallClass::BadRequest,
        ),
        (
            403,
            anthropic(
                "permission_error",
                "Request blocked: prompt injection patterns",
            ),
            CallClass::BadRequest,
        ),
        (401, "<html>login</html>".into(), CallClass::Auth),
        (
            403,
            error("model_not_found", "no access to this model"),
            CallClass::ModelUnavailable,
        ),
        (
            404,
            r#"{"error": "model 'x' not found"}"#.into(),
            CallClass::ModelUnavailable,
        ),
        (408, String::new(), CallClass::Timeout),
        (407, String::new(), CallClass::Auth),
        (409, error("", "lock timeout"), CallClass::UNAVAILABLE),
        (410, "gone".into(), CallClass::ModelUnavailable),
        (423, String::new(), CallClass::UNAVAILABLE),
        (424, String::new(), CallClass::UNAVAILABLE),
        (425, String::new(), CallClass::UNAVAILABLE),
        (499, String::new(), CallClass::UNAVAILABLE),
        (
            400,
            anthropic(
                "invalid_request_error",
                "You have reached your specified API usage limits.",
            ),
            CallClass::Auth,
        ),
        (
            400,
            r#"[{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}]"#.into(),
            CallClass::Auth,
        ),
        (400, error("", "No models loaded"), CallClass::UNAVAILABLE),
        (
            400,
            error("model_decommissioned", "it is gone"),
            CallClass::ModelUnavailable,
        ),
        (
            404,
            error("", "No endpoints found that support tool use"),
            CallClass::BadRequest,
        ),
        (
            404,
            error("", "No endpoints found for a/model."),
            CallClass::ModelUnavailable,
        ),
        (
            429,
            error(
                "rate_limit_exceeded",
                "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 41000.",
            ),
            CallClass::ContextTooLong,
        ),
        (
            429,
            error("", "This request would exceed the limit of input tokens per minute"),
            limited(),
        ),
        (
            500,
            error("", "the request exceeds the available context size"),
            CallClass::ContextTooLong,
        ),
        (413, "too large".into(), CallClass::ContextTooLong),
        (422, error("", "unprocessable"), CallClass::BadRequest),
        (429, error("rate_limit_exceeded", "slow down"), limited()),
        (429, error("insufficient_quota", "no money"), CallClass::Auth),
        (500, "<html>".into(), CallClass::UNAVAILABLE),
        (502, String::new(), CallClass::UNAVAILABLE),
        (503, String::new(), CallClass::UNAVAILABLE),
        (504, String::new(), CallClass::UNAVAILABLE),
        (529, error("", "Overloaded"), CallClass::UNAVAILABLE),
        (
            529,
            anthropic("overloaded_error", "Overloaded"),
            CallClass::UNAVAILABLE,
        ),
        (
            500,
            anthropic("api_error", "Internal server error"),
            CallClass::UNAVAILABLE,
        ),
        (
            429,
            anthropic("rate_limit_error", "This request would exceed your limit"),
            limited(),
        ),
        (
            401,
            anthropic("authentication_error", "invalid x-api-key"),
            CallClass::Auth,
        ),
        (
            403,
            anthropic("permission_error", "not for you"),
            CallClass::Auth,
        ),
        (
            404,
            anthropic("not_found_error", "model: claude-9"),
            CallClass::ModelUnavailable,
        ),
        (
            413,
            anthropic("request_too_large", "too large"),
            CallClass::ContextTooLong,
        ),
        (
            400,
            anthropic("invalid_request_error", "max_tokens: required"),
            CallClass::BadRequest,
        ),
        (
            400,
            anthropic(
                "invalid_request_error",
                "prompt is too long: 209000 tokens > 200000 maximum",
            ),
            CallClass::ContextTooLong,
        ),
        (
            400,
            anthropic(
                "invalid_request_error",
                "input length and `max_tokens` exceed context limit: 190000 + 32000",
            ),
            CallClass::ContextTooLong,
        ),
        (
            400,
            anthropic(
                "invalid_request_error",
                "Your credit balance is too low to access the Anthropic API.",
            ),
            CallClass::Auth,
        ),
        (302, String::new(), CallClass::UNAVAILABLE),
    ] {
        let failure = failure(answered(status, &body));
        assert_eq!(failure.class, class, "class of {status} {body}");
        assert_eq!(
            (failure.status, failure.billing),
            (Some(status), Billing::Nothing),
            "{status} is reported, not billed"
        );
    }
}

#[test]
fn a_success_without_an_answer_is_none_and_may_have_been_billed() {
    for (body, class, billing) in [
        (
            "{\"choices\": [{\"mess",
            CallClass::BadAnswer,
            Billing::WorstCase,
        ),
        (
            "<html>login</html>",
            CallClass::UNAVAILABLE,
            Billing::WorstCase,
        ),
        ("", CallClass::BadAnswer, Billing::WorstCase),
        ("[]", CallClass::BadAnswer, Billing::WorstCase),
        (
            r#"{"choices": []}"#,
            CallClass::BadAnswer,
            Billing::WorstCase,
        ),
        (
            r#"{"choices": [{"message": "text"}]}"#,
            CallClass::BadAnswer,
            Billing::WorstCase,
        ),
        (
            r#"{"error": {"message": "odd"}}"#,
            CallClass::BadAnswer,
            Billing::Nothing,
        ),
        (
            r#"{"error": {"message": "busy", "code": 503}}"#,
            CallClass::UNAVAILABLE,
            Billing::Nothing,
        ),
        (
            r#"{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0}}"#,
            CallClass::BadAnswer,
            Billing::Reported(Box::new(
                Tokens {
                    input: 5,
                    ..Tokens::default()
                }
                .into(),
            )),
        ),
    ] {
        let failure = failure(answered(200, body));
        assert_eq!(
            (failure.class, failure.billing),
            (class, billing),
            "class and billing of {body:?}"
        );
    }
    let answer = classify(
        answered(200, r#"{"choices": [{"message": {"content": "x"}}]}"#),
        NOW,
        None,
    );
    assert!(
        matches!(answer, CallOutcome::Answer(_)),
        "a choice with a message is an answer"
    );
}

#[test]
fn transport_failures_have_their_class_and_only_sent_calls_are_billed() {
    let cut = |end| Exchange::Answered {
        form: CHAT,
        status: 200,
        waits: WaitHeaders::default(),
        body: Bytes::new(),
        end,
    };
    let reason = || "reset".to_owned();
    for (exchange, class, billing) in [
        (
            Exchange::KeyMissing {
                variable: "OPENAI_API_KEY".into(),
            },
            CallClass::Auth,
            Billing::Nothing,
        ),
        (
            Exchange::NotConnected { reason: reason() },
            CallClass::UNAVAILABLE,
            Billing::Nothing,
        ),
        (
            Exchange::TimedOut {
                after: Duration::from_secs(120),
            },
            CallClass::Timeout,
            Billing::WorstCase,
        ),
        (
            Exchange::Silent { reason: reason() },
            CallClass::UNAVAILABLE,
            Billing::WorstCase,
        ),
        (
            cut(BodyEnd::Broken { reason: reason() }),
            CallClass::UNAVAILABLE,
            Billing::WorstCase,
        ),
        (
            cut(BodyEnd::TooLarge { limit: 16 }),
            CallClass::BadAnswer,
            Billing::WorstCase,
        ),
    ] {
        let shown = format!("{exchange:?}");
        let failure = failure(exchange);
        assert_eq!(
            (failure.class, failure.billing),
            (class, billing),
            "class and billing of {shown}"
        );
    }
}

#[test]
fn a_wait_goes_with_the_outage_that_it_ends() {
    let google = r#"[{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
        "You exceeded your current quota, please check your plan and billing details.",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}]}}]"#;
    let limited = |seconds| CallClass::RateLimited {
        retry_after: Some(Duration::from_secs(seconds)),
    };
    let out = |seconds| CallClass::Unavailable {
        retry_after: Some(Duration::from_secs(seconds)),
    };
    for (status, header, body, class) in [
        (429, ("retry-after", "7"), "", limited(7)),
        (503, ("retry-after", "7"), "", out(7)),
        (529, ("retry-after", "7"), "", out(7)),
        (409, ("retry-after", "7"), "", out(7)),
        (
            429,
            ("x-ratelimit-reset-requests", "6m0s"),
            "",
            limited(360),
        ),
        (
            503,
            ("x-ratelimit-reset-requests", "6m0s"),
            "",
            CallClass::UNAVAILABLE,
        ),
        (429, ("x-nothing", ""), google, limited(36)),
        (400, ("retry-after", "7"), "", CallClass::BadRequest),
    ] {
        let mut headers = axum::http::HeaderMap::new();
        headers.insert(header.0, axum::http::HeaderValue::from_static(header.1));
        let exchange = Exchange::Answered {
            form: CHAT,
            status,
            waits: WaitHeaders::of(&headers),
            body: Bytes::copy_from_slice(body.as_bytes()),
            end: BodyEnd::Whole,
        };
        assert_eq!(failure(exchange).class, class, "{status} {header:?} {body}");
    }
}

#[test]
fn messages_are_one_short_line_without_keys() {
    let body = error(
        "",
        "Incorrect API key provided:\n the-secret-key and sk-proj-abc***xyz, \u{1b}[31mred",
    );
    let message = failure(answered(401, &body)).message;
    assert_eq!(
        message, "status 401: Incorrect API key provided: *** and sk-*** [31mred",
        "the message for people"
    );
    let long = failure(answered(500, &"ä".repeat(5_000))).message;
    assert!(
        long.chars().count() <= MAX_MESSAGE_CHARS + 1,
        "cut: {} characters",
        long.chars().count()
    );
}

#[test]
fn a_stream_that_fails_after_its_200_has_the_class_of_its_error() {
    let limited = || CallClass::RateLimited { retry_after: None };
    let responses = AnswerForm {
        dialect: Dialect::Responses,
        stream: true,
    };
    let messages = AnswerForm {
        dialect: Dialect::Messages,
        stream: true,
    };
    let failed = |code: &str, message: &str| {
        let response =
            serde_json::json!({"status": "failed", "error": {"code": code, "message": message}});
        format!(
            "data: {}\n\n",
            serde_json::json!({"type": "response.failed", "response": response})
        )
    };
    let error = |kind: &str, message: &str| {
        let start =
            "event: message_start\ndata: {\"type\": \"message_start\", \"message\": {}}\n\n";
        format!(
            "{start}event: error\ndata: {}\n\n",
            anthropic(kind, message)
        )
    };
    for (form, body, class) in [
        (responses, failed("server_error", "sorry"), CallClass::UNAVAILABLE),
        (responses, failed("server_is_overloaded", "later"), CallClass::UNAVAILABLE),
        (responses, failed("rate_limit_exceeded", "slow down"), limited()),
        (responses, failed("context_length_exceeded", "too long"), CallClass::ContextTooLong),
        (responses, failed("invalid_prompt", "no"), CallClass::BadRequest),
        (responses, failed("cyber_policy", "no"), CallClass::BadRequest),
        (responses, failed("content_policy_violation", "no"), CallClass::BadRequest),
        (responses, failed("odd", "Your prompt was flagged as violating our policy"), CallClass::BadRequest),
        (
            responses,
            "data: {\"type\": \"error\", \"code\": \"rate_limit_exceeded\", \"message\":\"slow\"}\n\n".to_owned(),
            limited(),
        ),
        (responses, "data: {\"type\": \"response.created\", \"response\": {}}\n\n".to_owned(), CallClass::UNAVAILABLE),
        (responses, "data: {\"type\": \"respo\n\n".to_owned(), CallClass::BadAnswer),
        (responses, error_body_of_200(), CallClass::UNAVAILABLE),
        (messages, error("overloaded_error", "Overloaded"), CallClass::UNAVAILABLE),
        (messages, error("api_error", "Internal server error"), CallClass::UNAVAILABLE),
        (messages, error("rate_limit_error", "slow down"), limited()),
        (messages, error("authentication_error", "the-secret-key"), CallClass::Auth),
        (messages, error("invalid_request_error", "prompt is too long: 9 > 8"), CallClass::ContextTooLong),
        (messages, "event: message_start\ndata: {\"type\": \"message_start\"}\n\n".to_owned(), CallClass::UNAVAILABLE),
        (messages, String::new(), CallClass::UNAVAILABLE),
        (messages, "<html>login</html>".to_owned(), CallClass::UNAVAILABLE),
    ] {
        let failure = failure(answered_as(form, 200, &body));
        assert_eq!(failure.class, class, "{body}");
        // An error alone is not billed. An answer that breaks off may have been billed.
        let billing = if body.contains("message\":\"") { Billing::Nothing } else { Billing::WorstCase };
        assert_eq!(failure.billing, billing, "{body}");
        assert!(!failure.message.contains("the-secret-key"), "{}", failure.message);
    }
}

fn error_body_of_200() -> String {
    error("server_error", "sorry")
}
