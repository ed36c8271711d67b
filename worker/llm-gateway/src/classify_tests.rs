use super::*;
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
        retry_after: RetryAfter::default(),
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
        (409, String::new(), CallClass::BadRequest),
        (413, "too large".into(), CallClass::ContextTooLong),
        (422, error("", "unprocessable"), CallClass::BadRequest),
        (429, error("rate_limit_exceeded", "slow down"), limited()),
        (429, error("insufficient_quota", "no money"), limited()),
        (500, "<html>".into(), CallClass::Unavailable),
        (502, String::new(), CallClass::Unavailable),
        (503, String::new(), CallClass::Unavailable),
        (504, String::new(), CallClass::Unavailable),
        (529, error("", "Overloaded"), CallClass::Unavailable),
        (
            529,
            anthropic("overloaded_error", "Overloaded"),
            CallClass::Unavailable,
        ),
        (
            500,
            anthropic("api_error", "Internal server error"),
            CallClass::Unavailable,
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
        (302, String::new(), CallClass::Unavailable),
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
            CallClass::Unavailable,
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
            CallClass::Unavailable,
            Billing::Nothing,
        ),
        (
            r#"{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0}}"#,
            CallClass::BadAnswer,
            Billing::Reported(Tokens {
                input: 5,
                ..Tokens::default()
            }),
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
        retry_after: RetryAfter::default(),
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
            CallClass::Unavailable,
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
            CallClass::Unavailable,
            Billing::WorstCase,
        ),
        (
            cut(BodyEnd::Broken { reason: reason() }),
            CallClass::Unavailable,
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
fn retry_after_is_read_in_all_its_forms() {
    for (milliseconds, seconds_or_date, expected) in [
        (None, Some("7"), Some(Duration::from_secs(7))),
        (None, Some(" 0 "), Some(Duration::ZERO)),
        (None, Some("1.5"), Some(Duration::from_secs(2))),
        (Some("250"), Some("1"), Some(Duration::from_millis(250))),
        (
            None,
            Some("Wed, 21 Oct 2015 07:28:00 GMT"),
            Some(Duration::from_secs(60)),
        ),
        (
            None,
            Some("Wed, 21 Oct 2015 07:26:00 GMT"),
            Some(Duration::ZERO),
        ),
        (None, Some("soon"), None),
        (None, Some("-3"), None),
        (None, None, None),
    ] {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let retry_after = RetryAfter {
            milliseconds: owned(milliseconds),
            seconds_or_date: owned(seconds_or_date),
        };
        let exchange = Exchange::Answered {
            form: CHAT,
            status: 429,
            retry_after,
            body: Bytes::new(),
            end: BodyEnd::Whole,
        };
        let class = failure(exchange).class;
        assert_eq!(
            class,
            CallClass::RateLimited {
                retry_after: expected
            },
            "{milliseconds:?} {seconds_or_date:?}"
        );
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
        (responses, failed("server_error", "sorry"), CallClass::Unavailable),
        (responses, failed("server_is_overloaded", "later"), CallClass::Unavailable),
        (responses, failed("rate_limit_exceeded", "slow down"), limited()),
        (responses, failed("context_length_exceeded", "too long"), CallClass::ContextTooLong),
        (responses, failed("invalid_prompt", "no"), CallClass::BadRequest),
        (
            responses,
            "data: {\"type\": \"error\", \"code\": \"rate_limit_exceeded\", \"message\":\"slow\"}\n\n".to_owned(),
            limited(),
        ),
        (responses, "data: {\"type\": \"response.created\", \"response\": {}}\n\n".to_owned(), CallClass::Unavailable),
        (responses, "data: {\"type\": \"respo\n\n".to_owned(), CallClass::BadAnswer),
        (responses, error_body_of_200(), CallClass::Unavailable),
        (messages, error("overloaded_error", "Overloaded"), CallClass::Unavailable),
        (messages, error("api_error", "Internal server error"), CallClass::Unavailable),
        (messages, error("rate_limit_error", "slow down"), limited()),
        (messages, error("authentication_error", "the-secret-key"), CallClass::Auth),
        (messages, error("invalid_request_error", "prompt is too long: 9 > 8"), CallClass::ContextTooLong),
        (messages, "event: message_start\ndata: {\"type\": \"message_start\"}\n\n".to_owned(), CallClass::Unavailable),
        (messages, String::new(), CallClass::Unavailable),
        (messages, "<html>login</html>".to_owned(), CallClass::Unavailable),
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
