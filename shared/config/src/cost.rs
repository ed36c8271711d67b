//! Section `cost_optimization`: the budget of the whole pool.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CostOptimization;
use super::checks::Checks;
use super::position::At;
use pool_core::money::MicroUsd;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawCost {
    /// Whether spending is limited.
    enabled: bool,
    /// Programmers whose primary LLM is free come first.
    prefer_free_over_paid: bool,
    /// US dollars that the pool spends at most in one day. 0 allows only free LLMs.
    max_daily_spend_usd: MicroUsd,
    /// US dollars of one day at which the pool warns.
    alert_threshold_usd: MicroUsd,
    /// The time zone in which the budget's day begins and ends: a name such as Europe/Berlin, or a POSIX TZ string.
    time_zone: String,
}

impl Default for RawCost {
    fn default() -> Self {
        Self {
            enabled: true,
            prefer_free_over_paid: true,
            max_daily_spend_usd: MicroUsd(50_000_000),
            alert_threshold_usd: MicroUsd(40_000_000),
            time_zone: "UTC".to_owned(),
        }
    }
}

impl RawCost {
    pub(super) fn check(self, checks: &mut Checks) -> CostOptimization {
        let mut section = checks.section(At::top("cost_optimization"));
        let (alert, most) = (self.alert_threshold_usd, self.max_daily_spend_usd);
        if alert > most && !section.is_broken("max_daily_spend_usd") {
            let problem =
                format!("{alert} is above max_daily_spend_usd ({most}): write at most {most}");
            section.mistake("alert_threshold_usd", problem);
        }
        if pool_core::rules::zone(&self.time_zone).is_none() {
            let problem = format!(
                "{:?} is not a time zone: write for example UTC or Europe/Berlin",
                self.time_zone
            );
            section.mistake("time_zone", problem);
        }
        CostOptimization {
            enabled: self.enabled,
            prefer_free_over_paid: self.prefer_free_over_paid,
            max_daily_spend: most,
            alert_threshold: alert,
            time_zone: self.time_zone,
        }
    }
}
