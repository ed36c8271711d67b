//! The values of the configuration by which the fold decides. They are in the log, in force from
//! their place on. So all processes decide alike, whatever their own pool files say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};

use crate::id::{LlmName, ProgrammerId};
use crate::money::MicroUsd;
use crate::pool::{BreakerScope, Pool};

/// The values that `configured` puts into force beside the routes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rules {
    /// From `cost_optimization` of the pool file.
    pub budget: BudgetRules,
    /// From `failover.circuit_breaker`; None when breakers are disabled.
    pub breaker: Option<BreakerRules>,
    /// From `programmers`.
    pub programmers: BTreeMap<ProgrammerId, ProgrammerRules>,
    /// LLMs whose calls cost nothing.
    pub free: BTreeSet<LlmName>,
}

/// The budget of a day.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BudgetRules {
    /// The most that may be spent in one day; None: spending is counted and not limited.
    pub limit_usd: Option<MicroUsd>,
    /// The pool warns when a day's spending has reached this amount.
    pub alert_usd: MicroUsd,
    /// The zone whose midnight begins the day, in the form that [`zone`] reads.
    pub time_zone: String,
}

/// When breakers open, and how they close.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerRules {
    /// A breaker opens when this many calls failed within the window …
    pub threshold: u32,
    /// … and at least this many of 1,000 calls failed. With 0 (logs of older versions) the share of
    /// failures does not matter.
    #[serde(default)]
    pub failed_of_1000: u16,
    /// How long a failure counts.
    pub window_ms: u64,
    /// How long a breaker stays open before it is probed.
    pub cooldown_ms: u64,
    /// How long a probe has for its answer; then another programmer may probe.
    pub lease_ms: u64,
    /// Every programmer has breakers of its own, and none are shared (`scope: programmer`).
    pub for_itself: bool,
}

/// The LLMs and the limit of one programmer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgrammerRules {
    /// The primary LLM first.
    pub llms: Vec<LlmName>,
    /// The most that a task may cost.
    pub cap_usd: MicroUsd,
}

/// A probe that takes longer than `call_timeout_s` and this margin is given up.
pub const LEASE_MARGIN: Duration = Duration::from_secs(10);

impl Rules {
    /// The rules of a pool file.
    pub fn of(pool: &Pool) -> Self {
        let breaker = &pool.failover.breaker;
        let programmers = pool.programmers.iter().map(|programmer| {
            let rules = ProgrammerRules {
                llms: programmer.llms.clone(),
                cap_usd: programmer.limits.max_cost,
            };
            (programmer.id.clone(), rules)
        });
        let llms = pool
            .programmers
            .iter()
            .flat_map(|programmer| &programmer.llms);
        Self {
            budget: BudgetRules {
                limit_usd: pool.cost.enabled.then_some(pool.cost.max_daily_spend),
                alert_usd: pool.cost.alert_threshold,
                time_zone: pool.cost.time_zone.clone(),
            },
            breaker: breaker.enabled.then(|| BreakerRules {
                threshold: breaker.failure_threshold,
                failed_of_1000: breaker.failed_of_1000,
                window_ms: millis(breaker.window),
                cooldown_ms: millis(breaker.cooldown),
                lease_ms: millis(pool.failover.call_timeout + LEASE_MARGIN),
                for_itself: breaker.scope == BreakerScope::Programmer,
            }),
            programmers: programmers.collect(),
            free: llms.filter(|llm| pool.is_free(llm)).cloned().collect(),
        }
    }

    /// Whether calls of this LLM cost nothing.
    pub fn is_free(&self, llm: &LlmName) -> bool {
        self.free.contains(llm)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time zone by its IANA name (`Europe/Berlin`) or as a POSIX TZ string
/// (`CET-1CEST,M3.5.0,M10.5.0/3`); an empty text is UTC, an unknown name None. The names come from
/// the database that is compiled in, because every process of the pool must know the same ones.
pub fn zone(name: &str) -> Option<TimeZone> {
    if name.is_empty() || name == "UTC" {
        return Some(TimeZone::UTC);
    }
    TimeZoneDatabase::bundled()
        .get(name)
        .ok()
        .or_else(|| TimeZone::posix(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_iana_names_or_posix_strings() {
        for name in [
            "UTC",
            "",
            "Europe/Berlin",
            "America/New_York",
            "CET-1CEST,M3.5.0,M10.5.0/3",
            "XXX-3:07:20",
        ] {
            assert!(zone(name).is_some(), "{name} is a time zone");
        }
        for name in ["Mars/Olympus", "8 o clock", "+2"] {
            assert!(zone(name).is_none(), "{name} is not a time zone");
        }
    }
}
