//! Warnings about prices: they are no mistakes, but calls may cost more than the author of the pool file expects. Pure.

use std::collections::BTreeSet;

use pool_core::id::LlmName;
use pool_core::pool::Pool;
use pool_core::price::{Price, UtcDay};

/// Several providers charge more for a call with more input than this.
const LONG_INPUT: u64 = 200_000;

/// One sentence for each price that may be too low, without a full stop.
pub(crate) fn of(pool: &Pool, today: UtcDay) -> Vec<String> {
    let mut found = BTreeSet::new();
    for programmer in &pool.programmers {
        let context_limit = programmer.limits.context_limit;
        for llm in programmer.llms.iter().filter(|llm| !pool.is_free(llm)) {
            if let Some(price) = pool.prices.get(llm) {
                found.extend(without_tier(llm, price, context_limit, today));
                found.extend(without_day(llm, price, today));
            }
        }
    }
    found.into_iter().collect()
}

fn without_tier(llm: &LlmName, price: &Price, context_limit: u64, today: UtcDay) -> Option<String> {
    let has_tier = !price.on(today).standard.tiers.is_empty();
    (context_limit > LONG_INPUT && !has_tier).then(|| {
        format!(
            "context_limit is {context_limit}, and the price of {llm} has no tier: many providers charge more above \
             {LONG_INPUT} input tokens; add prices.{llm}.tiers, or lower context_limit"
        )
    })
}

fn without_day(llm: &LlmName, price: &Price, today: UtcDay) -> Option<String> {
    (!price.is_known_on(today)).then(|| {
        format!(
            "prices has no price of {llm} for today ({today}), so its dearest one counts; correct `from` and `until`"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn warnings(context_limit: u64, price: &str) -> Vec<String> {
        let text = format!(
            "programmers: [{{id: x, primary_llm: openai/a, backup_llm: ollama/b, context_limit: {context_limit}}}]\n\
             prices: {{openai/a: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1, {price}}}}}\n"
        );
        let pool = pool_config::parse(&text, Path::new("/pool.yaml")).expect("a good file");
        of(&pool, "2026-06-01".parse().expect("a day"))
    }

    #[test]
    fn a_price_that_may_be_too_low_is_told() {
        let tier = "tiers: [{above_input_tokens: 200000, input_usd_per_mtok: 2}]";
        for (context_limit, price, words) in [
            (200_000, "", None),
            (200_001, "", Some("the price of openai/a has no tier")),
            (1_000_000, tier, None),
            (1_000, "until: 2026-06-01", None),
            (
                1_000,
                "until: 2026-05-31",
                Some("no price of openai/a for today (2026-06-01)"),
            ),
            (1_000, "from: 2026-06-02", Some("its dearest one counts")),
        ] {
            let found = warnings(context_limit, price);
            assert_eq!(
                found.len(),
                usize::from(words.is_some()),
                "{price:?}: {found:?}"
            );
            let text = found.join("");
            assert!(text.contains(words.unwrap_or_default()), "{text}");
        }
    }
}
