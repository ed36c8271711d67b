//! The only place that classifies the outcome of an LLM call. Pure: time is an argument.

use std::time::Duration;

use bytes::Bytes;
use pool_core::time::Timestamp;
use serde_json::Value;

use super::answer::ProviderAnswer;
use super::class::{CallClass, Cut};
use super::error_inside::status_of;
use super::moderation::{is_about_the_prompt, is_page};
use super::protocol::{AnswerForm, Ending, NoAnswer, Reported};
use super::refusal::ProviderRefusal;
use super::waiting::WaitHeaders;

const MAX_MESSAGE_CHARS: usize = 300;

/// An exchange between the gateway and a provider.
#[derive(Debug, Clone)]
pub(super) enum Exchange {
    /// The worker's environment lacks the provider's key: nothing was sent.
    KeyMissing { variable: String },
    /// Nothing was sent.
    NotConnected { reason: String },
    /// Sent, but no complete answer came within the call's time-out.
    TimedOut { after: Duration },
    /// Sent, but the connection broke before a status came.
    Silent { reason: String },
    Answered {
        /// The form of a successful body.
        form: AnswerForm,
        status: u16,
        waits: WaitHeaders,
        body: Bytes,
        end: BodyEnd,
    },
}

#[derive(Debug, Clone)]
pub(super) enum BodyEnd {
    Whole,
    Broken { reason: String },
    TooLarge { limit: usize },
}

/// A classified call.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum CallOutcome {
    Answer(ProviderAnswer),
    /// An answer that is not whole.
    Cut(Cut, ProviderAnswer),
    Failure(CallFailure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallFailure {
    pub(super) class: CallClass,
    pub(super) status: Option<u16>,
    pub(super) message: String,
    pub(super) billing: Billing,
}

/// How a failed call is charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Billing {
    /// Providers do not bill errors.
    Nothing,
    Reported(Box<Reported>),
    /// The provider may have done the work, and the amount is unknown.
    WorstCase,
}

impl CallFailure {
    /// A failure before anything was sent.
    pub(super) fn unsent(class: CallClass, message: impl Into<String>) -> Self {
        Self {
            class,
            status: None,
            message: message.into(),
            billing: Billing::Nothing,
        }
    }

    /// A failure after which the provider may have done the work.
    pub(super) fn maybe_billed(class: CallClass, message: impl Into<String>) -> Self {
        Self {
            billing: Billing::WorstCase,
            ..Self::unsent(class, message)
        }
    }
}

/// Classifies an exchange. `secret` is the provider's key, which is removed from messages because
/// providers quote it.
pub(super) fn classify(exchange: Exchange, now: Timestamp, secret: Option<&str>) -> CallOutcome {
    outcome(exchange, now).unwrap_or_else(|failure| {
        CallOutcome::Failure(CallFailure {
            message: presentable(&failure.message, secret),
            ..failure
        })
    })
}

fn outcome(exchange: Exchange, now: Timestamp) -> Result<CallOutcome, CallFailure> {
    match exchange {
        Exchange::KeyMissing { variable } => Err(CallFailure::unsent(
            CallClass::Auth,
            format!("the key is missing: set the environment variable {variable} for the worker"),
        )),
        Exchange::NotConnected { reason } => {
            Err(CallFailure::unsent(CallClass::UNAVAILABLE, reason))
        }
        Exchange::TimedOut { after } => Err(CallFailure::maybe_billed(
            CallClass::Timeout,
            format!("no complete answer within {after:?}"),
        )),
        Exchange::Silent { reason } => Err(CallFailure::maybe_billed(
            CallClass::UNAVAILABLE,
            format!("the connection broke before the answer: {reason}"),
        )),
        Exchange::Answered {
            form,
            status: status @ 200..300,
            body,
            end,
            waits,
        } => {
            let read = || {
                ProviderAnswer::read(form, &body)
                    .map_err(|(error, usage)| no_answer(error, usage, &body, &waits, now))
            };
            whole(&end)
                .and_then(|()| ended(read()?))
                .map_err(|failure| CallFailure {
                    status: Some(status),
                    ..failure
                })
        }
        Exchange::Answered {
            form: _,
            status,
            waits,
            body,
            end: _,
        } => Err(CallFailure {
            status: Some(status),
            ..CallFailure::unsent(
                class_of_error(status, &body, &waits, now),
                format!("status {status}: {}", said(&body)),
            )
        }),
    }
}

/// Whether the whole body arrived.
fn whole(end: &BodyEnd) -> Result<(), CallFailure> {
    let (class, message) = match end {
        BodyEnd::Whole => return Ok(()),
        BodyEnd::Broken { reason } => (
            CallClass::UNAVAILABLE,
            format!("the connection broke in the middle of the answer: {reason}"),
        ),
        BodyEnd::TooLarge { limit } => (
            CallClass::BadAnswer,
            format!("the answer is longer than {limit} bytes"),
        ),
    };
    Err(CallFailure::maybe_billed(class, message))
}

/// Whether an answer counts, by how it ended.
fn ended(answer: ProviderAnswer) -> Result<CallOutcome, CallFailure> {
    let content = &answer.content;
    let class = match content.ending {
        Ending::Whole | Ending::ToolCall => return Ok(CallOutcome::Answer(answer)),
        Ending::OutputLimit => return Ok(CallOutcome::Cut(Cut::OutputLimit, answer)),
        Ending::Filtered => return Ok(CallOutcome::Cut(Cut::Filtered, answer)),
        Ending::Unfinished => return Ok(CallOutcome::Cut(Cut::Unfinished, answer)),
        Ending::ContextFull => CallClass::ContextTooLong,
        Ending::GaveUp => CallClass::UNAVAILABLE,
    };
    let nothing = content.empty.then(Reported::default);
    Err(CallFailure {
        billing: Billing::of(content.usage.or(nothing)),
        ..CallFailure::unsent(class, ended_with(content.finish_reason.as_deref()))
    })
}

/// For people: the reason that the provider gave for the end of an answer.
pub(super) fn ended_with(finish_reason: Option<&str>) -> String {
    format!(
        "the answer ended with `{}`",
        finish_reason.unwrap_or_default()
    )
}

impl Billing {
    fn of(usage: Option<Reported>) -> Self {
        match usage {
            None => Self::WorstCase,
            Some(reported) if reported == Reported::default() => Self::Nothing,
            Some(reported) => Self::Reported(Box::new(reported)),
        }
    }
}

/// A response with a success status but without an answer. It may have been billed.
fn no_answer(
    error: NoAnswer,
    usage: Option<Reported>,
    body: &[u8],
    waits: &WaitHeaders,
    now: Timestamp,
) -> CallFailure {
    let class = match &error {
        // A proxy or a login page answers in the provider's place.
        _ if is_page(body) => CallClass::UNAVAILABLE,
        NoAnswer::ErrorInside {
            status: Some(status),
            ..
        } => class_of_error(*status, body, waits, now),
        NoAnswer::Failed(error) => {
            let text = error.to_string();
            // A provider that gives up in the middle is out of service, unless it says why.
            let unsaid = match is_about_the_prompt(&error["error"], text.as_bytes()) {
                true => 400,
                false => 500,
            };
            let status = status_of(&error["error"]).unwrap_or(unsaid);
            class_of_error(status, text.as_bytes(), waits, now)
        }
        // A stream that stops in the middle counts like a broken connection.
        NoAnswer::Cut => CallClass::UNAVAILABLE,
        NoAnswer::ErrorInside { status: None, .. }
        | NoAnswer::Json(_)
        | NoAnswer::NoChoices
        | NoAnswer::NoMessage
        | NoAnswer::Lacks(_) => CallClass::BadAnswer,
    };
    CallFailure {
        billing: Billing::of(usage),
        ..CallFailure::unsent(class, error.to_string())
    }
}

/// The class of an error status. Codes and words are more precise than statuses, so they come
/// first.
fn class_of_error(status: u16, body: &[u8], waits: &WaitHeaders, now: Timestamp) -> CallClass {
    let refusal = ProviderRefusal::read(body);
    let unavailable = || CallClass::Unavailable {
        retry_after: waits.asked(&refusal.error, now),
    };
    match status {
        400..500 if refusal.is_not_serving() => unavailable(),
        400..500 if refusal.names_no_model() => CallClass::ModelUnavailable,
        400 | 429 if refusal.is_out_of_quota() => CallClass::Auth,
        400 | 422 if refusal.is_about_the_account() => CallClass::Auth,
        // Some servers report a prompt that is too long as an error of their own.
        400 | 422 | 500 if refusal.is_too_long() => CallClass::ContextTooLong,
        403 if is_about_the_prompt(&refusal.error, body) => CallClass::BadRequest,
        // 402: the account has no money left. 407: a proxy wants a password. Waiting does not help.
        401..=403 | 407 => CallClass::Auth,
        404 if refusal.is_about_the_request() => CallClass::BadRequest,
        404 | 410 => CallClass::ModelUnavailable,
        408 => CallClass::Timeout,
        // A conflict, a lock, an early call, a failed dependency, a proxy that gave up: they pass.
        409 | 421 | 423..=425 | 499 => unavailable(),
        413 => CallClass::ContextTooLong,
        429 if refusal.is_above_the_rate() => CallClass::ContextTooLong,
        429 => CallClass::RateLimited {
            retry_after: waits.until_reset(&refusal.error, now),
        },
        400..500 => CallClass::BadRequest,
        // Redirects are not followed, because they would send the key elsewhere. So a status below
        // 400 means that the provider does not serve here.
        0..400 | 500.. => unavailable(),
    }
}

/// The text of an error body, in the shapes that providers use.
fn said(body: &[u8]) -> String {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let texts = [
        &parsed["error"]["message"],
        &parsed["error"],
        &parsed["message"],
        &parsed["detail"],
    ];
    match texts.into_iter().find_map(Value::as_str) {
        Some(text) => text.to_owned(),
        None if body.is_empty() => "no message".to_owned(),
        None => {
            String::from_utf8_lossy(&body[..body.len().min(4 * MAX_MESSAGE_CHARS)]).into_owned()
        }
    }
}

/// The message as one short line without secrets.
fn presentable(message: &str, secret: Option<&str>) -> String {
    let message = match secret {
        Some(secret) if !secret.is_empty() => message.replace(secret, "***"),
        Some(_) | None => message.to_owned(),
    };
    let words = message
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let line = words.map(without_key).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Hides other people's keys, whole or partly masked, as providers quote them.
fn without_key(word: &str) -> String {
    match word.find("sk-") {
        Some(start) => format!("{}sk-***", &word[..start]),
        None => word.to_owned(),
    }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
