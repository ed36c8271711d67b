use std::path::Path;

use super::*;
use crate::load::parse;
use pool_core::price::Served;

/// The price of `openai/a` that a pool file gives.
fn read(price: &str) -> Result<Price, Vec<String>> {
    let text =
        format!("programmers: [{{id: x, primary_llm: openai/a}}]\nprices:\n  openai/a: {price}\n");
    let llm = LlmName::new("openai/a").expect("an LLM");
    match parse(&text, Path::new("/pool.yaml")) {
        Ok(pool) => Ok(pool.prices[&llm].clone()),
        Err(mistakes) => Err(mistakes
            .all()
            .iter()
            .map(|mistake| format!("{}: {}", mistake.key, mistake.problem))
            .collect()),
    }
}

fn usd(text: &str) -> MicroUsd {
    text.parse().expect("an amount")
}

fn on(price: &Price, day: &str) -> DatedPrice {
    let day: UtcDay = day.parse().expect("a day");
    DatedPrice::clone(&price.on(day))
}

#[test]
fn two_rates_are_a_price_and_the_others_follow_the_input() {
    let price = read("{input_usd_per_mtok: 4, output_usd_per_mtok: 20}").expect("a price");
    assert_eq!(
        price,
        Rates::new(usd("4"), usd("20")).into(),
        "the defaults"
    );
    let rates = on(&price, "2026-01-01").standard.base;
    assert_eq!(
        (rates.cached_input, rates.cache_write, rates.cache_write_1h),
        (usd("4"), usd("5"), usd("8")),
        "as before, when the gateway knew these factors itself"
    );
}

#[test]
fn tiers_service_tiers_and_dates_are_read() {
    let price = read(
        "{input_usd_per_mtok: 4, cached_input_usd_per_mtok: 0.4, cache_write_usd_per_mtok: 6, output_usd_per_mtok: 20, \
         until: 2026-12-31, \
         tiers: [{above_input_tokens: 272000, input_usd_per_mtok: 8, output_usd_per_mtok: 30}], \
         service_tiers: {priority: {multiplier: 2.5}, flex: {input_usd_per_mtok: 1, output_usd_per_mtok: 5}}, \
         other_dates: [{from: 2027-01-01, input_usd_per_mtok: 3, output_usd_per_mtok: 15}]}",
    )
    .expect("a price");
    let now = on(&price, "2026-12-31");
    assert_eq!(
        (
            now.standard.base.cache_write,
            now.standard.base.cache_write_1h
        ),
        (usd("6"), usd("8")),
        "written, and the default"
    );
    let above = now.rates(Served::Standard, 272_001);
    assert_eq!(
        (
            above.input,
            above.cached_input,
            above.cache_write,
            above.output
        ),
        (usd("8"), usd("0.8"), usd("12"), usd("30")),
        "what a tier leaves out follows its input"
    );
    let served = |tier, input| now.rates(Served::Tier(tier), input);
    assert_eq!(
        served(ServiceTier::Priority, 1).output,
        usd("50"),
        "a factor"
    );
    assert_eq!(
        served(ServiceTier::Priority, 300_000).output,
        usd("75"),
        "of tiers too"
    );
    assert_eq!(
        served(ServiceTier::Flex, 1).cached_input,
        usd("0.1"),
        "prices"
    );
    assert_eq!(
        served(ServiceTier::Flex, 300_000).input,
        usd("8"),
        "never below a tier of size"
    );
    assert_eq!(
        on(&price, "2027-01-01").standard.base.input,
        usd("3"),
        "another date"
    );
}

#[test]
fn a_wrong_price_is_refused_with_its_place() {
    let with = |more: &str| format!("{{input_usd_per_mtok: 1, output_usd_per_mtok: 1, {more}}}");
    for (more, expected) in [
        (
            "tiers: [{input_usd_per_mtok: 2}]",
            "prices.openai/a.tiers[0].above_input_tokens: is missing: write the number of input tokens above which these prices \
             hold, for example 200000",
        ),
        (
            "tiers: [{above_input_tokens: 9, input_usd_per_mtok: 2}, {above_input_tokens: 9, input_usd_per_mtok: 3}]",
            "prices.openai/a.tiers[1].above_input_tokens: 9 is not above the tier before: write the smallest tier first",
        ),
        (
            "tiers: [{above_input_tokens: 9}]",
            "prices.openai/a.tiers[0]: has no price: write at least one that differs",
        ),
        (
            "service_tiers: {priority: {}}",
            "prices.openai/a.service_tiers.priority: has no price: write for example {multiplier: 2}",
        ),
        (
            "service_tiers: {priority: {multiplier: 2, input_usd_per_mtok: 1}}",
            "prices.openai/a.service_tiers.priority: has a multiplier and prices: keep one of the two",
        ),
        (
            "service_tiers: {priority: {multiplier: 0}}",
            "prices.openai/a.service_tiers.priority.multiplier: 0 is out of range: write 0.001 to 1000, for example 2",
        ),
        (
            "from: 2026-02-01, until: 2026-01-31",
            "prices.openai/a.until: 2026-01-31 is before `from` (2026-02-01): write a later day",
        ),
        (
            "from: soon",
            "prices.openai/a.from: \"soon\" is not a day: write year, month and day, for example 2026-12-31",
        ),
        (
            "other_dates: [{input_usd_per_mtok: 1, output_usd_per_mtok: 1}]",
            "prices.openai/a.other_dates[0]: has neither `from` nor `until`: write the days of this price",
        ),
        (
            "other_dates: [{from: 2026-01-01, input_usd_per_mtok: 1}]",
            "prices.openai/a.other_dates[0].output_usd_per_mtok: is missing: write US dollars per million tokens, for example 2.50",
        ),
    ] {
        assert_eq!(read(&with(more)), Err(vec![expected.to_owned()]), "{more}");
    }
}

#[test]
fn the_catalogue_prices_what_the_file_does_not() {
    let text = |catalogue: &str| {
        format!(
            "programmers: [{{id: x, primary_llm: openai/gpt-4o-mini, backup_llm: openai/gpt-4o}}]\nprices:\n  openai/gpt-4o: \
             {{input_usd_per_mtok: 7, output_usd_per_mtok: 9}}\nprice_catalogue: {catalogue}\n"
        )
    };
    let read = |catalogue: &str| parse(&text(catalogue), Path::new("/pool.yaml"));
    let pool = read("built_in").expect("both have a price");
    let input = |llm: &str| {
        let llm = LlmName::new(llm).expect("an LLM");
        on(&pool.prices[&llm], "2026-12-01").standard.base.input
    };
    assert_eq!(
        input("openai/gpt-4o"),
        usd("7"),
        "the file's own entry wins"
    );
    assert_eq!(input("openai/gpt-4o-mini"), usd("0.15"), "the catalogue's");
    assert_eq!(pool.catalogue_prices.len(), 1, "which one is from where");
    let missing = read("no/such.json").expect_err("no file").to_string();
    assert!(
        missing.contains("price_catalogue: \"no/such.json\": ")
            && missing.contains("write built_in"),
        "{missing}"
    );
    let unpriced = text("built_in").replace("gpt-4o-mini", "unheard-of");
    let unpriced = parse(&unpriced, Path::new("/pool.yaml"))
        .expect_err("no price")
        .to_string();
    assert!(
        unpriced.contains("openai/unheard-of costs money and has no price"),
        "{unpriced}"
    );
}
