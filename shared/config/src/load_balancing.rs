//! Section `load_balancing`: how a task is given to one of several able programmers.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::checks::{Checks, MAX_SECONDS};
use super::position::At;
use super::{LoadBalancing, Strategy};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawLoadBalancing {
    /// Which programmer gets a task when several are free.
    strategy: RawStrategy,
    /// Programmers whose primary LLM is free come first.
    prefer_free_models: bool,
    /// Tasks that may wait in a queue for each programmer that consumes it. Without it the queues are not limited.
    #[schemars(range(min = 1))]
    max_queue_per_programmer: Option<u32>,
    /// Seconds without a heartbeat after which the status shows a programmer as `down`. Heartbeats are sent three times as
    /// often.
    #[schemars(range(min = 1, max = 86400))]
    health_check_interval_s: u64,
    /// How long a task waits for a free programmer before paid ones may take it: seconds, or 30s, 5m, 1h.
    spill_to_paid_after: Span,
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum RawStrategy {
    /// Any free programmer gets the task.
    LeastLoaded,
    /// The same as least_loaded.
    RoundRobin,
    /// The programmer with the fewest surplus capabilities first. This keeps premium programmers for premium tasks.
    CapabilityMatch,
}

impl Default for RawLoadBalancing {
    fn default() -> Self {
        Self {
            strategy: RawStrategy::LeastLoaded,
            prefer_free_models: true,
            max_queue_per_programmer: None,
            health_check_interval_s: 30,
            spill_to_paid_after: Span(0),
        }
    }
}

impl RawLoadBalancing {
    pub(super) fn check(self, checks: &mut Checks) -> LoadBalancing {
        let mut section = checks.section(At::top("load_balancing"));
        if let Some(most) = self.max_queue_per_programmer {
            section.within("max_queue_per_programmer", most, 1..=u64::MAX, "task");
        }
        section.within(
            "spill_to_paid_after",
            self.spill_to_paid_after.0,
            0..=MAX_SECONDS,
            "seconds",
        );
        LoadBalancing {
            strategy: match self.strategy {
                RawStrategy::LeastLoaded | RawStrategy::RoundRobin => Strategy::LeastLoaded,
                RawStrategy::CapabilityMatch => Strategy::CapabilityMatch,
            },
            prefer_free_models: self.prefer_free_models,
            max_queue_per_programmer: self.max_queue_per_programmer,
            health_check_interval: section
                .seconds("health_check_interval_s", self.health_check_interval_s),
            spill_to_paid_after: Duration::from_secs(self.spill_to_paid_after.0),
        }
    }
}

/// Seconds, written as a number or with a unit, because the key has no unit in its name.
struct Span(u64);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}s", self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl de::Visitor<'_> for SpanVisitor {
            type Value = Span;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("seconds, or a time such as 30s, 5m or 1h")
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Span, E> {
                Ok(Span(seconds))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                seconds(text)
                    .map(Span)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

fn seconds(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+[smh]?$"}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_and_without_its_unit() {
        for (text, expected) in [
            ("0", Some(0)),
            ("30s", Some(30)),
            ("5m", Some(300)),
            ("1h", Some(3600)),
            ("1d", None),
            ("-1s", None),
            ("s", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text:?}");
        }
    }
}
