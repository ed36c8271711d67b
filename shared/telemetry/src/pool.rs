//! Logs and metrics of the whole pool's state: breakers and the budget, read from the fold, so that every process reports the
//! same. Also how current the state of this process is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::catalog::{
    BREAKER_STATE, BUDGET_LIMIT, BUDGET_RESERVED, BUDGET_SPENT, BUDGET_THRESHOLD, CLOCK_OFFSET,
    LOG_FRESH, LOG_SILENCE,
};
use pool_core::eligibility::Eligibility;
use pool_core::llm::{LlmKey, Scope};
use pool_core::money::MicroUsd;
use pool_core::state::PoolState;
use pool_core::state::breaker::State;

/// A breaker's state in metrics: 0 closed, 1 half-open, 2 open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BreakerIs {
    Closed,
    HalfOpen,
    Open,
}

/// How much of the day's budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum BudgetIs {
    /// Below `alert_threshold_usd`.
    #[default]
    Calm,
    /// At or above `alert_threshold_usd`.
    Alert,
    /// Nothing is left.
    Spent,
}

/// Watches the fold, sets the metrics, and logs what has changed.
#[derive(Debug, Default)]
pub struct PoolWatch {
    breakers: BTreeMap<(LlmKey, Scope), BreakerIs>,
    budget: BudgetIs,
}

impl PoolWatch {
    /// Sets the metrics, and logs changes since the last call.
    pub fn look(&mut self, standing: &Eligibility<'_>) {
        self.breakers(standing);
        self.budget(standing.fold);
    }

    fn breakers(&mut self, standing: &Eligibility<'_>) {
        let governs: BTreeSet<(&LlmKey, &Scope)> = standing
            .breakers()
            .map(|(key, scope, _)| (key, scope))
            .collect();
        // Breakers whose last programmer has moved to another host. They come first, because another breaker may have the same
        // labels.
        self.breakers.retain(|(key, scope), _| {
            let stays = governs.contains(&(key, scope));
            if !stays {
                BREAKER_STATE.set([key.llm.as_str(), &scope.to_string()], 0.0);
            }
            stays
        });
        for (key, scope, breaker) in standing.breakers() {
            let is = match breaker.state {
                State::Closed { .. } => BreakerIs::Closed,
                State::HalfOpen { .. } => BreakerIs::HalfOpen,
                State::Open { .. } => BreakerIs::Open,
            };
            let was = self.breakers.insert((key.clone(), scope.clone()), is);
            BreakerChanged {
                key,
                scope,
                state: &breaker.state,
                changed: was != Some(is),
                is,
            }
            .emit();
        }
    }

    fn budget(&mut self, fold: &PoolState) {
        let budget = &fold.budget;
        BUDGET_SPENT.set([], dollars(budget.spent()));
        BUDGET_RESERVED.set([], dollars(budget.reserved()));
        let Some(limit) = budget.limit() else { return };
        BUDGET_LIMIT.set([], dollars(limit));
        BUDGET_THRESHOLD.set([], dollars(budget.alert()));
        let (spent, alert) = (budget.spent() + budget.reserved(), budget.alert());
        let is = if spent >= limit && limit > MicroUsd::ZERO {
            BudgetIs::Spent
        } else if spent >= alert && alert > MicroUsd::ZERO {
            BudgetIs::Alert
        } else {
            BudgetIs::Calm
        };
        if is > self.budget {
            let text = match is {
                BudgetIs::Spent => {
                    "the budget of the day is used up: only free LLMs are called until it ends"
                }
                BudgetIs::Alert | BudgetIs::Calm => {
                    "the pool has spent more today than alert_threshold_usd"
                }
            };
            tracing::warn!(spent_usd = %budget.spent(), reserved_usd = %budget.reserved(), limit_usd = %limit, "{text}");
        }
        // Within a day the level only rises, so each warning is logged once.
        self.budget = if is == BudgetIs::Calm {
            is
        } else {
            is.max(self.budget)
        };
    }
}

/// For metrics only, where a rounded number does no harm.
#[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
fn dollars(amount: MicroUsd) -> f64 {
    amount.0 as f64 / 1e6
}

/// Sets the metrics that say how current the state of this process is: whether the log was read to its end and a message came
/// recently, the time since the last message, and how far this machine's clock is ahead of the others' if it was compared.
#[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
pub fn report_currency(fresh: bool, silence: Duration, clock_offset_ms: Option<i64>) {
    LOG_FRESH.set_flag([], fresh);
    LOG_SILENCE.set([], silence.as_secs_f64());
    if let Some(offset) = clock_offset_ms {
        CLOCK_OFFSET.set([], offset as f64 / 1e3);
    }
}

/// The present state of a breaker.
struct BreakerChanged<'a> {
    key: &'a LlmKey,
    scope: &'a Scope,
    state: &'a State,
    is: BreakerIs,
    changed: bool,
}

impl BreakerChanged<'_> {
    fn emit(&self) {
        let level = match self.is {
            BreakerIs::Closed => 0.0,
            BreakerIs::HalfOpen => 1.0,
            BreakerIs::Open => 2.0,
        };
        BREAKER_STATE.set([self.key.llm.as_str(), &self.scope.to_string()], level);
        if !self.changed {
            return;
        }
        let (llm, scope, at) = (&self.key.llm, self.scope, &self.key.base_url);
        match self.state {
            State::Closed { by, .. } => {
                tracing::info!(%llm, %scope, at, %by, "breaker closed: calls pass again")
            }
            State::HalfOpen { lease, .. } => {
                tracing::info!(%llm, %scope, at, by = %lease.programmer, "breaker half-open: one programmer probes");
            }
            State::Open { outage, until } => {
                let (fault, failures) = (outage.fault.as_str(), outage.failures);
                tracing::warn!(%llm, %scope, at, fault, failures, %until, "breaker open: no calls until a probe succeeds");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::{BudgetReserved, Configuration, Event};
    use pool_core::id::{AttemptId, ProgrammerId};
    use pool_core::rules::{BudgetRules, Rules};
    use pool_core::time::Timestamp;

    const POOL: &str = r#"
programmers: [{id: "001", primary_llm: ollama/qwen, capabilities: [fast]}]
workspace: {dir: /tmp, roots: [/tmp]}
"#;

    #[test]
    fn the_budget_is_told_in_dollars() {
        let budget = BudgetRules {
            limit_usd: Some(MicroUsd(50_000_000)),
            ..BudgetRules::default()
        };
        let rules = Rules {
            budget,
            ..Rules::default()
        };
        let configured = Event::from(Configuration {
            hash: "h".to_owned(),
            capabilities: BTreeMap::new(),
            rules,
            again: false,
        });
        let reserved = Event::from(BudgetReserved {
            attempt: AttemptId::from_u128(1),
            task: None,
            programmer: ProgrammerId::new("001").expect("an id"),
            amount_usd: MicroUsd(2_500_000),
        });
        let fold = PoolState::of_events(Timestamp(1), [configured, reserved]);
        let pool =
            pool_config::parse(POOL, std::path::Path::new("pool.yaml")).expect("a good pool file");
        let standing = Eligibility {
            pool: &pool,
            fold: &fold,
            now: fold.now(),
        };
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || PoolWatch::default().look(&standing));
        let text = recorder.handle().render();
        for line in [
            "pool_budget_spent_usd 0",
            "pool_budget_reserved_usd 2.5",
            "pool_budget_limit_usd 50",
            "pool_budget_threshold_usd 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
