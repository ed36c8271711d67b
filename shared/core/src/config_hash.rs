//! The hash of the values that decide for the whole pool. Processes with different hashes must not work together.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::pool::{
    BreakerConfig, CostOptimization, Failover, JobLimits, LoadBalancing, Pool, Price, Programmer,
};
use crate::price::{DatedPrice, RateCard, Rates, SizeTier};

/// The first 16 bytes of a SHA-256, as 32 hexadecimal digits. Processes with the same deciding values get the same hash,
/// whatever the path of their file and the ports, paths and broker in it.
pub fn config_hash(pool: &Pool) -> String {
    let digest = Sha256::digest(decisions(pool).to_string());
    digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The deciding values. The patterns name every field, so that a new field does not compile until it is placed here.
fn decisions(pool: &Pool) -> Value {
    let Pool {
        file: _,
        programmers,
        load_balancing,
        failover,
        cost,
        providers,
        llms: _,
        prices,
        catalogue_prices: _,
        agent: _,
        workspace: _,
        sandbox: _,
        patch: _,
        acceptance: _,
        broker: _,
        events: _,
        dispatcher,
    } = pool;
    let CostOptimization {
        enabled,
        prefer_free_over_paid,
        max_daily_spend,
        alert_threshold,
        time_zone,
    } = cost;
    let free: BTreeMap<&str, bool> = providers
        .iter()
        .map(|(name, provider)| (name.as_str(), provider.free))
        .collect();
    let prices: BTreeMap<&str, Value> = prices
        .iter()
        .map(|(llm, cost)| (llm.as_str(), price(cost)))
        .collect();
    json!({
        "programmers": programmers.iter().map(programmer).collect::<Vec<_>>(),
        "load_balancing": balancing(load_balancing),
        "failover": on_failure(failover),
        "cost": [json!(enabled), json!(prefer_free_over_paid), json!(max_daily_spend.0), json!(alert_threshold.0), json!(time_zone)],
        "free": free,
        "prices": prices,
        "max_attempts": [dispatcher.max_attempts, dispatcher.max_hand_backs],
        "retry_delay": dispatcher.retry_delay.as_secs(),
    })
}

fn programmer(programmer: &Programmer) -> Value {
    let Programmer {
        id,
        port: _,
        llms,
        capabilities,
        limits,
    } = programmer;
    let JobLimits {
        timeout,
        agent_timeout,
        max_tokens,
        max_cost,
        context_limit,
        auto_commit,
        max_fix_iterations,
    } = limits;
    json!({
        "id": id,
        "llms": llms,
        "capabilities": capabilities,
        "seconds": [timeout.as_secs(), agent_timeout.as_secs()],
        "tokens": [max_tokens, context_limit],
        "max_cost": max_cost.0,
        "auto_commit": auto_commit,
        "max_fix_iterations": max_fix_iterations,
    })
}

fn balancing(balancing: &LoadBalancing) -> Value {
    let LoadBalancing {
        strategy,
        prefer_free_models,
        max_queue_per_programmer,
        health_check_interval,
        spill_to_paid_after,
    } = balancing;
    json!({
        "strategy": strategy,
        "prefer_free_models": prefer_free_models,
        "max_queue_per_programmer": max_queue_per_programmer,
        "seconds": [health_check_interval.as_secs(), spill_to_paid_after.as_secs()],
    })
}

fn on_failure(failover: &Failover) -> Value {
    let Failover {
        enabled,
        max_retries,
        retry_delay,
        always_failover,
        failure_conditions,
        call_timeout,
        breaker:
            BreakerConfig {
                enabled: breaker,
                failure_threshold,
                failed_of_1000,
                window,
                cooldown,
                scope,
            },
    } = failover;
    json!({
        "enabled": [enabled, always_failover, breaker],
        "scope": scope,
        "failure_conditions": failure_conditions,
        "counts": [max_retries, failure_threshold, u32::from(*failed_of_1000)],
        "seconds": [retry_delay.as_secs(), call_timeout.as_secs(), window.as_secs(), cooldown.as_secs()],
    })
}

/// Every entry with its dates.
fn price(price: &Price) -> Value {
    let entry = |entry: &DatedPrice| {
        let DatedPrice {
            from,
            until,
            standard,
            service_tiers,
        } = entry;
        let tiers: BTreeMap<&str, Value> = service_tiers
            .iter()
            .map(|(tier, rates)| (tier.as_str(), card(rates)))
            .collect();
        json!([from, until, card(standard), tiers])
    };
    price.entries().map(entry).collect()
}

fn card(RateCard { base, tiers }: &RateCard) -> Value {
    let tier = |SizeTier {
                    above_input,
                    rates: of_tier,
                }: &SizeTier| json!([above_input, rates(*of_tier)]);
    json!([rates(*base), tiers.iter().map(tier).collect::<Vec<_>>()])
}

fn rates(rates: Rates) -> Value {
    let Rates {
        input,
        cached_input,
        cache_write,
        cache_write_1h,
        output,
    } = rates;
    json!([input, cached_input, cache_write, cache_write_1h, output].map(|rate| rate.0))
}
