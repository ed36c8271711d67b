//! Checks between sections: every LLM has a provider, every paid LLM has a price, every cap fits into the budget.

use std::collections::BTreeSet;
use std::time::Duration;

use super::checks::Checks;
use super::position::At;
use super::programmers::Listed;
use super::{AgentKind, Pool, Protocol, wording};
use pool_core::id::LlmName;

const CAP: &str = "max_cost_per_job_usd";

/// `pool` has no programmers yet; they are in `listed`, with their places.
pub(super) fn check(pool: &Pool, listed: &[Listed], checks: &mut Checks) {
    let mut without_price = BTreeSet::new();
    for programmer in listed {
        let llms = programmer.programmer.llms.iter().zip(&programmer.llms_at);
        for (llm, at) in llms {
            check_provider(pool, llm, at, checks);
            if needs_price(pool, llm) && without_price.insert(llm) {
                check_price(llm, at, checks);
            }
        }
        check_dispatcher_port(pool, programmer, checks);
    }
    check_caps(pool, listed, checks);
    check_env_allow(pool, checks);
}

fn check_provider(pool: &Pool, llm: &LlmName, at: &At, checks: &mut Checks) {
    let name = llm.provider();
    let Some(provider) = pool.providers.get(name) else {
        let known: Vec<&str> = pool.providers.keys().map(String::as_str).collect();
        let hint = wording::suggestion(name, &known);
        return checks.mistake(
            at,
            format!("{llm}: providers has no entry `{name}`: {hint} (or add it there)"),
        );
    };
    if provider.protocol == Protocol::Anthropic
        && matches!(pool.agent.kind, AgentKind::Aider { .. })
    {
        let problem = format!(
            "{llm} cannot be reached by aider, which speaks chat completions only: set providers.{name}.protocol to \
             openai and base_url to an OpenAI-compatible endpoint"
        );
        checks.mistake(at, problem);
    }
}

fn needs_price(pool: &Pool, llm: &LlmName) -> bool {
    let paid = pool
        .providers
        .get(llm.provider())
        .is_some_and(|provider| !provider.free);
    paid && !pool.prices.contains_key(llm)
}

fn check_price(llm: &LlmName, at: &At, checks: &mut Checks) {
    let provider = At::top("providers").key(llm.provider());
    let price = At::top("prices").key(llm.as_str());
    if !checks.is_broken(&provider) && !checks.is_broken(&price) {
        let problem = format!(
            "{llm} costs money and has no price: add it to prices, or set {provider}.free to true"
        );
        checks.mistake(at, problem);
    }
}

/// A reservation above the day's budget is never admitted, so the programmer would never make a paid call.
fn check_caps(pool: &Pool, listed: &[Listed], checks: &mut Checks) {
    let most = pool.cost.max_daily_spend;
    let is_paid = |listed: &&Listed| listed.programmer.llms.iter().any(|llm| !pool.is_free(llm));
    if !pool.cost.enabled || checks.is_broken(&At::top("cost_optimization")) {
        return;
    }
    check_log_keeps_a_day(pool, listed.iter().any(|listed| is_paid(&listed)), checks);
    let mut told = BTreeSet::new();
    for Listed { programmer, at, .. } in listed.iter().filter(is_paid) {
        let (own, default) = (at.key(CAP), At::top("defaults").key(CAP));
        let place = if checks.has(&own) { own } else { default };
        let cap = programmer.limits.max_cost;
        if cap > most && told.insert(place.to_string()) {
            let problem = format!(
                "{cap} is above the budget of a day ({most}), so that no paid call could start"
            );
            checks.mistake(&place, format!("{problem}: write at most {most}"));
        }
    }
}

/// The log must be longer than a day in every time zone, because today's spending is known from it alone.
fn check_log_keeps_a_day(pool: &Pool, spends: bool, checks: &mut Checks) {
    const LEAST: Duration = Duration::from_secs(2 * 24 * 60 * 60);
    let at = At::top("events").key("max_age");
    if spends && pool.events.age < LEAST && !checks.is_broken(&at) {
        let problem = format!(
            "{:?} is too short for the budget of a day, which is computed from the log: write at least 2D",
            pool.events.max_age
        );
        checks.mistake(&at, problem);
    }
}

fn check_dispatcher_port(pool: &Pool, listed: &Listed, checks: &mut Checks) {
    let port = listed.programmer.port;
    if port != 0 && port == pool.dispatcher.listen.port() {
        checks.mistake(
            &listed.at.key("port"),
            format!("{port} is the port of dispatcher.listen: write another one"),
        );
    }
}

fn check_env_allow(pool: &Pool, checks: &mut Checks) {
    let at = At::top("agent").key("env_allow");
    for (index, name) in pool.agent.env_allow.iter().enumerate() {
        let is_key = pool
            .providers
            .values()
            .any(|provider| provider.api_key_env.as_ref() == Some(name));
        if is_key || name == "AMQP_URL" {
            checks.mistake(
                &at.index(index),
                format!("{name} is a secret that no agent may see: remove it"),
            );
        }
    }
}
