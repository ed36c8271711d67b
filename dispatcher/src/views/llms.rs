//! Breakers and the budget for the status, from the fold alone.

use std::collections::BTreeMap;

use pool_api::budget::BudgetStatus;
use pool_api::pool::{BreakerState, BreakerStatus};
use pool_core::eligibility::Eligibility;
use pool_core::llm::{LlmKey, Scope};
use pool_core::money::MicroUsd;
use pool_core::pool::{Pool, Programmer};
use pool_core::state::PoolState;
use pool_core::state::breaker::{Breaker, State};

pub(super) fn breakers(standing: &Eligibility<'_>) -> Vec<BreakerStatus> {
    standing
        .breakers()
        .map(|(key, scope, breaker)| breaker_status(key, scope, breaker))
        .collect()
}

fn breaker_status(key: &LlmKey, scope: &Scope, breaker: &Breaker) -> BreakerStatus {
    let (state, since, until, outage, probed_by) = match &breaker.state {
        State::Closed { since, by } => (BreakerState::Closed, *since, None, None, Some(by)),
        State::Open { outage, until } => (
            BreakerState::Open,
            outage.since,
            Some(*until),
            Some(outage),
            None,
        ),
        State::HalfOpen { outage, lease } => (
            BreakerState::HalfOpen,
            outage.since,
            Some(lease.until),
            Some(outage),
            Some(&lease.programmer),
        ),
    };
    BreakerStatus {
        llm: key.llm.clone(),
        base_url: key.base_url.clone(),
        host: key.host.clone(),
        scope: scope.clone(),
        state,
        since,
        until,
        reason: outage.map(|outage| outage.fault),
        failures: outage.map_or(0, |outage| outage.failures),
        probed_by: probed_by.cloned(),
    }
}

/// Today's budget by the log.
pub(super) fn budget(pool: &Pool, fold: &PoolState) -> BudgetStatus {
    let budget = &fold.budget;
    let (spent, reserved, alert) = (budget.spent(), budget.reserved(), budget.alert());
    let warning = budget
        .limit()
        .and_then(|limit| passed(limit, spent, reserved));
    let warning = warning.or_else(|| budget.room().and_then(|left| too_little(pool, left)));
    BudgetStatus {
        max_daily_spend_usd: budget.limit(),
        alert_threshold_usd: alert,
        set_for_today: budget.is_set_for_today(),
        spent_usd: spent,
        lost_usd: budget.lost(),
        reserved_usd: reserved,
        left_usd: budget.room(),
        alert: budget.limit().is_some() && alert > MicroUsd::ZERO && spent + reserved >= alert,
        day: budget.day().map(|day| day.date.to_string()),
        day_ends: budget.day().map(|day| day.ends),
        time_zone: budget.time_zone().to_owned(),
        by_llm: budget.by_llm().clone(),
        by_programmer: budget.by_programmer().clone(),
        warnings: warning.into_iter().collect(),
    }
}

/// A warning if the limit is below what is spent and reserved.
fn passed(limit: MicroUsd, spent: MicroUsd, reserved: MicroUsd) -> Option<String> {
    (limit < spent + reserved).then(|| {
        format!(
            "the limit of ${limit} is below what is spent (${spent}) and reserved (${reserved}): no paid call is made \
             until the day ends or the limit is raised"
        )
    })
}

/// Names the programmers whose tasks may cost more than what is left.
fn too_little(pool: &Pool, left: MicroUsd) -> Option<String> {
    let pays = |programmer: &&Programmer| programmer.llms.iter().any(|llm| !pool.is_free(llm));
    let mut shut: BTreeMap<MicroUsd, Vec<String>> = BTreeMap::new();
    for programmer in pool
        .programmers
        .iter()
        .filter(pays)
        .filter(|one| one.limits.max_cost > left)
    {
        shut.entry(programmer.limits.max_cost)
            .or_default()
            .push(programmer.id.display_name());
    }
    if shut.is_empty() {
        return None;
    }
    let each = shut
        .iter()
        .rev()
        .map(|(cap, names)| format!("{} (${cap} a task)", names.join(", ")));
    Some(format!(
        "${left} of today's limit is left, which is less than a task of these programmers may cost, so they take no paid \
         task: {}. Raise the limit, or lower their max_cost_per_job_usd in the pool file",
        each.collect::<Vec<_>>().join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_what_is_gone_is_warned_of() {
        let dollars = |text: &str| text.parse::<MicroUsd>().expect("an amount");
        let (spent, reserved) = (dollars("3.00"), dollars("1.00"));
        assert_eq!(
            passed(dollars("4.00"), spent, reserved),
            None,
            "it is reached, not passed"
        );
        let warning = passed(dollars("3.50"), spent, reserved).expect("it is below");
        assert!(
            warning.contains("$3.50 is below what is spent ($3.00) and reserved ($1.00)"),
            "{warning}"
        );
    }
}
