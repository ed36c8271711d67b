//! The values of a configuration that the fold decides by: they stand in the log, in force from their place on, so that
//! nobody's own file decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};

use crate::id::{LlmName, ProgrammerId};
use crate::money::MicroUsd;
use crate::pool::{BreakerScope, Pool};

/// What `configured` puts into force beside the routes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rules {
    pub budget: BudgetRules,
    /// None: there are no breakers.
    pub breaker: Option<BreakerRules>,
    pub programmers: BTreeMap<ProgrammerId, ProgrammerRules>,
    /// LLMs whose calls cost nothing.
    pub free: BTreeSet<LlmName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BudgetRules {
    /// Of one day; None: spending is counted and not limited.
    pub limit_usd: Option<MicroUsd>,
    /// From here on the pool warns.
    pub alert_usd: MicroUsd,
    /// Where the day begins and ends: see [`zone`].
    pub time_zone: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerRules {
    /// So many failures within the window open it.
    pub threshold: u32,
    /// And at least so many of 1000 calls; 0, as in logs of older versions: whatever their share.
    #[serde(default)]
    pub failed_of_1000: u16,
    pub window_ms: u64,
    pub cooldown_ms: u64,
    /// After so long somebody else may probe.
    pub lease_ms: u64,
    /// Each programmer for itself.
    pub for_itself: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgrammerRules {
    /// Primary first.
    pub llms: Vec<LlmName>,
    /// What one task of its may cost.
    pub cap_usd: MicroUsd,
}

/// A probe is as patient as a call. One that takes longer than that, and this much more, is lost.
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

    pub fn is_free(&self, llm: &LlmName) -> bool {
        self.free.contains(llm)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time zone by its IANA name (`Europe/Berlin`), or as a POSIX TZ string (`CET-1CEST,M3.5.0,M10.5.0/3`). The names come
/// from the database that is compiled in: every process of the pool must know the same.
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
            assert!(zone(name).is_none(), "{name} is none");
        }
    }
}
