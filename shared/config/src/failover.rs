//! Section `failover`: the handling of failing LLMs, and the breakers that the pool shares.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::{Checks, MAX_SECONDS, SectionChecks};
use super::position::At;
use super::{BreakerConfig, BreakerScope, Failover, FailureCondition};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawFailover {
    /// Whether a failing call moves to the backup LLMs.
    enabled: bool,
    /// How often a failing call is repeated on the same LLM.
    #[schemars(range(max = 20))]
    max_retries: u32,
    /// Seconds before a failing call is repeated.
    #[schemars(range(max = 86400))]
    retry_delay_s: u64,
    /// Whether failures that `failure_conditions` does not list move a call to the backup LLMs too.
    always_failover: bool,
    /// The failures that move a call to the backup LLMs.
    failure_conditions: BTreeSet<FailureCondition>,
    /// Seconds for one LLM call, from the request to the last byte of the answer.
    #[schemars(range(min = 1, max = 86400))]
    call_timeout_s: u64,
    /// A breaker for each LLM, shared by the pool. It keeps calls away from an LLM that fails.
    circuit_breaker: RawBreaker,
}

/// A breaker for each LLM, shared by the pool. It keeps calls away from an LLM that fails.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
struct RawBreaker {
    /// Whether there are breakers.
    enabled: bool,
    /// The number of failures within the window that opens a breaker.
    #[schemars(range(min = 1))]
    failure_threshold: u32,
    /// The share of failures, among the calls that ended since these failures began, that a breaker needs to open. 0: only
    /// the number of failures counts.
    #[schemars(range(min = 0, max = 1))]
    failure_ratio: f64,
    /// Minutes for which a failure counts.
    #[schemars(range(min = 1, max = 1440))]
    window_minutes: u64,
    /// Minutes for which a breaker stays open before one programmer probes the LLM.
    #[schemars(range(min = 1, max = 1440))]
    cooldown_minutes: u64,
    /// The window in seconds, instead of `window_minutes`.
    #[schemars(range(min = 1, max = 86400))]
    window_s: Option<u64>,
    /// The cooldown in seconds, instead of `cooldown_minutes`.
    #[schemars(range(min = 1, max = 86400))]
    cooldown_s: Option<u64>,
    /// Whether programmers share their breakers.
    scope: BreakerScope,
}

impl Default for RawFailover {
    fn default() -> Self {
        use FailureCondition::{ApiError, ModelUnavailable, RateLimit, Timeout};
        Self {
            enabled: true,
            max_retries: 2,
            retry_delay_s: 5,
            always_failover: true,
            failure_conditions: BTreeSet::from([Timeout, ApiError, RateLimit, ModelUnavailable]),
            call_timeout_s: 120,
            circuit_breaker: RawBreaker::default(),
        }
    }
}

impl Default for RawBreaker {
    fn default() -> Self {
        Self {
            enabled: true,
            failure_threshold: 3,
            failure_ratio: 0.5,
            window_minutes: 10,
            cooldown_minutes: 5,
            window_s: None,
            cooldown_s: None,
            scope: BreakerScope::Pool,
        }
    }
}

impl RawFailover {
    pub(super) fn check(self, checks: &mut Checks) -> Failover {
        let at = At::top("failover");
        let mut section = checks.section(at.clone());
        section.within("max_retries", self.max_retries, 0..=20, "retries");
        section.within(
            "retry_delay_s",
            self.retry_delay_s,
            0..=MAX_SECONDS,
            "seconds",
        );
        Failover {
            enabled: self.enabled,
            max_retries: self.max_retries,
            retry_delay: Duration::from_secs(self.retry_delay_s),
            always_failover: self.always_failover,
            failure_conditions: self.failure_conditions,
            call_timeout: section.seconds("call_timeout_s", self.call_timeout_s),
            breaker: self
                .circuit_breaker
                .check(checks.section(at.key("circuit_breaker"))),
        }
    }
}

impl RawBreaker {
    fn check(self, mut section: SectionChecks<'_>) -> BreakerConfig {
        section.within(
            "failure_threshold",
            self.failure_threshold,
            1..=u64::MAX,
            "failure",
        );
        BreakerConfig {
            enabled: self.enabled,
            failure_threshold: self.failure_threshold,
            failed_of_1000: thousandths(&mut section, "failure_ratio", self.failure_ratio),
            window: time(&mut section, "window", self.window_minutes, self.window_s),
            cooldown: time(
                &mut section,
                "cooldown",
                self.cooldown_minutes,
                self.cooldown_s,
            ),
            scope: self.scope,
        }
    }
}

/// A share in thousandths, because no decision uses floats.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is 0 to 1000"
)]
fn thousandths(section: &mut SectionChecks<'_>, key: &str, share: f64) -> u16 {
    if !(0.0..=1.0).contains(&share) {
        section.mistake(
            key,
            format!("{share} is out of range: write 0 to 1, for example 0.5"),
        );
        return 0;
    }
    (share * 1000.0).round() as u16
}

/// A duration that is written in minutes, or in seconds instead.
fn time(
    section: &mut SectionChecks<'_>,
    name: &str,
    minutes: u64,
    seconds: Option<u64>,
) -> Duration {
    match seconds {
        Some(seconds) => section.seconds(&format!("{name}_s"), seconds),
        None => section.minutes(&format!("{name}_minutes"), minutes),
    }
}
