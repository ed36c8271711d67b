//! Section `events`: the event log.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Events;
use super::checks::Checks;
use super::position::At;

const MIB: u64 = 1024 * 1024;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawEvents {
    /// How long events are kept, in the form of RabbitMQ: a number and one of Y M D h m s. An existing stream keeps the
    /// value with which it was declared.
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,8}[YMDhms]$"))]
    max_age: String,
    /// The size of one segment of the streams, in MiB. Retention drops whole segments.
    #[schemars(range(min = 1, max = 1024))]
    segment_mib: u64,
    /// Seconds of silence after which some process appends a tick.
    #[schemars(range(min = 1, max = 86400))]
    tick_s: u64,
    /// Seconds of silence after which a process does not trust its view of the log any more; at least twice tick_s.
    #[schemars(range(min = 2, max = 86400))]
    stale_s: u64,
}

impl Default for RawEvents {
    fn default() -> Self {
        Self {
            max_age: "7D".to_owned(),
            segment_mib: 16,
            tick_s: 5,
            stale_s: 20,
        }
    }
}

impl RawEvents {
    pub(super) fn check(self, checks: &mut Checks) -> Events {
        let mut section = checks.section(At::top("events"));
        let age = age(&self.max_age);
        if age.is_none() {
            let problem = format!(
                "{:?} is not a duration in the form of RabbitMQ: write for example 7D, 12h or 1Y",
                self.max_age
            );
            section.mistake("max_age", problem);
        }
        section.within("segment_mib", self.segment_mib, 1..=1024, "MiB");
        let least = self.tick_s.saturating_mul(2);
        if self.stale_s < least && !section.is_broken("tick_s") {
            let problem = format!(
                "{} is too short for ticks every {} s: write at least {least}",
                self.stale_s, self.tick_s
            );
            section.mistake("stale_s", problem);
        }
        Events {
            max_age: self.max_age,
            age: age.unwrap_or(Duration::MAX),
            segment_bytes: self.segment_mib.saturating_mul(MIB),
            tick: section.seconds("tick_s", self.tick_s),
            stale: section.seconds("stale_s", self.stale_s),
        }
    }
}

fn age(text: &str) -> Option<Duration> {
    const DAY: u64 = 24 * 60 * 60;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "Y" => 365 * DAY,
        "M" => 30 * DAY,
        "D" => DAY,
        "h" => 60 * 60,
        "m" => 60,
        "s" => 1,
        _ => return None,
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let good = (1..=9).contains(&number.len()) && !number.starts_with('0') && digits;
    let number: u64 = number.parse().ok().filter(|_| good)?;
    Some(Duration::from_secs(number.saturating_mul(seconds)))
}
