//! When a provider wants to be asked again: in headers of their own, in the error, or as the time
//! when a limit is full again. Pure: time is an argument.

use std::time::Duration;

use axum::http::HeaderMap;
use pool_core::time::Timestamp;
use serde_json::Value;

/// A longer wait is taken for a mistake, and cut.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Plain numbers from here on are seconds since 1970, and not a number of seconds.
const FIRST_DATE_S: f64 = 1e9;
/// Plain numbers from here on are milliseconds since 1970.
const FIRST_DATE_MS: f64 = 1e11;

/// The headers of an answer that tell when to come back, as the provider sent them. The names are
/// in lower case.
#[derive(Debug, Clone, Default)]
pub(super) struct WaitHeaders(Vec<(String, String)>);

impl WaitHeaders {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let kept = headers.iter().filter_map(|(name, value)| {
            let name = name.as_str();
            let tells = name.contains("retry-after") || name.contains("ratelimit");
            Some((name.to_owned(), value.to_str().ok()?.trim().to_owned())).filter(|_| tells)
        });
        Self(kept.collect())
    }

    /// The wait that the provider asks for. `error` is the body of its refusal.
    pub(super) fn asked(&self, error: &Value, now: Timestamp) -> Option<Duration> {
        let milliseconds = ["retry-after-ms", "x-ms-retry-after-ms"]
            .into_iter()
            .find_map(|name| self.value(name)?.parse().ok())
            .map(Duration::from_millis);
        let wait = milliseconds
            .or_else(|| seconds_or_date(self.value("retry-after")?, now))
            .or_else(|| in_the_error(error, now));
        wait.map(|wait| wait.min(LONGEST))
    }

    /// The wait until the limit that this refusal met is full again, unless the provider asks for
    /// a wait.
    pub(super) fn until_reset(&self, error: &Value, now: Timestamp) -> Option<Duration> {
        self.asked(error, now)
            .or_else(|| self.reset(now))
            .map(|wait| wait.min(LONGEST))
    }

    /// The longest reset among the limits of which nothing remains. If the provider does not say
    /// which limit it was, the shortest one: the next refusal costs nothing.
    fn reset(&self, now: Timestamp) -> Option<Duration> {
        let resets = self
            .0
            .iter()
            .filter(|(name, _)| name.contains("ratelimit") && name.contains("reset"));
        let (mut used_up, mut other) = (None, None);
        for (name, value) in resets {
            let Some(wait) = moment(value, now) else {
                continue;
            };
            let remaining = self.value(&name.replace("reset", "remaining"));
            if remaining.and_then(|left| left.parse::<f64>().ok()) == Some(0.0) {
                used_up = used_up.max(Some(wait));
            } else {
                other = Some(other.map_or(wait, |shortest: Duration| shortest.min(wait)));
            }
        }
        used_up.or(other)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(kept, _)| kept == name);
        values.next().map(|(_, value)| value.as_str())
    }
}

/// `Retry-After`: seconds, also with a fraction, or an HTTP date.
fn seconds_or_date(text: &str, now: Timestamp) -> Option<Duration> {
    let whole_seconds = text.split_once('.').map_or(text, |(seconds, _)| seconds);
    if let Ok(seconds) = whole_seconds.parse::<u64>() {
        let fraction = u64::from(whole_seconds.len() < text.len());
        return Some(Duration::from_secs(seconds.saturating_add(fraction)));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()?;
    from_date(date, now)
}

/// The waits that Google and OpenRouter write into an error, and OpenAI and Groq into its sentence.
fn in_the_error(error: &Value, now: Timestamp) -> Option<Duration> {
    let details = error["details"].as_array().into_iter().flatten();
    let google = details
        .filter_map(|detail| detail["retryDelay"].as_str())
        .find_map(units);
    let metadata = &error["metadata"];
    let header = metadata["headers"].as_object().into_iter().flatten();
    let router = || {
        let mut resets = header.filter(|(name, _)| name.to_lowercase().contains("ratelimit-reset"));
        resets.find_map(|(_, value)| moment(&text_of(value)?, now))
    };
    let seconds = || seconds_or_date(&text_of(&metadata["retry_after_seconds"])?, now);
    let sentence = || {
        let message = error["message"].as_str()?.to_lowercase();
        let (_, rest) = message.split_once("try again in ")?;
        units(rest.split_whitespace().next()?.trim_end_matches(['.', ',']))
    };
    google.or_else(router).or_else(seconds).or_else(sentence)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The time until a reset: a duration with units, a number of seconds, or a date.
fn moment(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        let since_1970 = match number {
            _ if number.is_nan() || number < 0.0 => return None,
            _ if number >= FIRST_DATE_MS => number,
            _ if number >= FIRST_DATE_S => number * 1000.0,
            seconds => return Duration::try_from_secs_f64(seconds).ok(),
        };
        return Some(Timestamp(since_1970 as u64).since(now));
    }
    units(text)
        .or_else(|| from_date(text.parse().ok()?, now))
        .or_else(|| seconds_or_date(text, now))
}

/// A duration such as `6m0s`, `1.5s`, `120ms` or `2d3h`.
fn units(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.saturating_add(part);
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

fn from_date(date: jiff::Timestamp, now: Timestamp) -> Option<Duration> {
    let at = u64::try_from(date.as_millisecond()).ok()?;
    Some(Timestamp(at).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_445_412_420_000); // Wed, 21 Oct 2015 07:27:00 GMT

    fn headers(pairs: &[(&str, &str)]) -> WaitHeaders {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        });
        WaitHeaders::of(&pairs.collect())
    }

    fn seconds(seconds: f64) -> Option<Duration> {
        Some(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn headers_tell_the_wait_in_all_their_forms() {
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        let past = "Wed, 21 Oct 2015 07:26:00 GMT";
        for (given, expected) in [
            (&[("retry-after", "7")][..], seconds(7.0)),
            (&[("Retry-After", " 0 ")], seconds(0.0)),
            (&[("retry-after", "1.5")], seconds(2.0)),
            (
                &[("retry-after", "1"), ("retry-after-ms", "250")],
                seconds(0.25),
            ),
            (&[("x-ms-retry-after-ms", "300")], seconds(0.3)),
            (&[("retry-after", date)], seconds(60.0)),
            (&[("retry-after", past)], seconds(0.0)),
            (&[("retry-after", "99999")], seconds(3600.0)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-3")], None),
            (&[], None),
            (&[("x-ratelimit-reset-requests", "6m0s")], seconds(360.0)),
            (&[("x-ratelimit-reset-tokens", "7.66s")], seconds(7.66)),
            (&[("x-ratelimit-reset-tokens", "120ms")], seconds(0.12)),
            (&[("x-ratelimit-reset-requests", "2d3h")], seconds(3600.0)),
            (&[("ratelimit-reset", "30")], seconds(30.0)),
            (&[("x-ratelimit-reset", "1445412435")], seconds(15.0)),
            (&[("x-ratelimit-reset", "1445412435000")], seconds(15.0)),
            (
                &[("anthropic-ratelimit-requests-reset", "2015-10-21T07:27:20Z")],
                seconds(20.0),
            ),
            (
                &[("retry-after", "2"), ("x-ratelimit-reset-requests", "6m0s")],
                seconds(2.0),
            ),
            (
                &[
                    ("x-ratelimit-remaining-requests", "0"),
                    ("x-ratelimit-reset-requests", "2m0s"),
                    ("x-ratelimit-remaining-tokens", "900"),
                    ("x-ratelimit-reset-tokens", "1s"),
                ],
                seconds(120.0),
            ),
            (
                &[
                    ("x-ratelimit-remaining-requests", "99"),
                    ("x-ratelimit-reset-requests", "2m0s"),
                    ("x-ratelimit-remaining-tokens", "12"),
                    ("x-ratelimit-reset-tokens", "7.5s"),
                ],
                seconds(7.5),
            ),
            (&[("x-ratelimit-reset-requests", "later")], None),
        ] {
            let wait = headers(given).until_reset(&Value::Null, NOW);
            assert_eq!(wait, expected, "{given:?}");
        }
    }

    #[test]
    fn errors_tell_the_wait_as_providers_write_them() {
        for (error, expected) in [
            (
                json!({"details": [
                    {"@type": "type.googleapis.com/google.rpc.QuotaFailure"},
                    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36.5s"},
                ]}),
                seconds(36.5),
            ),
            (
                json!({"metadata": {"headers": {"X-RateLimit-Reset": "1445412480000"}}}),
                seconds(60.0),
            ),
            (
                json!({"metadata": {"retry_after_seconds": 9}}),
                seconds(9.0),
            ),
            (
                json!({"message": "Rate limit reached … Please try again in 7m12.5s. Visit …"}),
                seconds(432.5),
            ),
            (
                json!({"message": "Please try again in 340ms."}),
                seconds(0.34),
            ),
            (json!({"message": "Please try again in a moment."}), None),
            (json!({"message": "Please try again later"}), None),
            (json!("a text"), None),
            (Value::Null, None),
        ] {
            let wait = WaitHeaders::default().asked(&error, NOW);
            assert_eq!(wait, expected, "{error}");
        }
    }

    #[test]
    fn a_limit_that_refills_says_nothing_about_an_outage() {
        let headers = headers(&[("x-ratelimit-reset-requests", "6m0s")]);
        assert_eq!(headers.asked(&Value::Null, NOW), None);
    }
}
