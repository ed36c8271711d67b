use std::collections::BTreeMap;
use std::sync::Arc;

use pool_core::price::{DatedPrice, RateCard, Rates, ServiceTier, SizeTier};

use super::*;
use crate::pricing::{CallAllowance, admit};

/// Input 4, cached 0.40, output 20; above 272,000 tokens input costs double and output 1.5 times as much.
fn tariff(service_tiers: &[(ServiceTier, u32)]) -> Tariff {
    let base = Rates {
        cached_input: MicroUsd(400_000),
        ..Rates::new(MicroUsd(4_000_000), MicroUsd(20_000_000))
    };
    let above = Rates {
        output: MicroUsd(30_000_000),
        ..base.with_input(MicroUsd(8_000_000))
    };
    let standard = RateCard {
        base,
        tiers: vec![SizeTier {
            above_input: 272_000,
            rates: above,
        }],
    };
    let tier = |(tier, factor): &(ServiceTier, u32)| (*tier, standard.times(*factor));
    let service_tiers: BTreeMap<_, _> = service_tiers.iter().map(tier).collect();
    Tariff::Paid(Arc::new(DatedPrice {
        service_tiers,
        ..DatedPrice::always(standard)
    }))
}

fn demand(input: u64, writes: CacheWrites) -> Demand {
    Demand {
        bytes: input * 4,
        input,
        likely_input: input,
        choices: 1,
        max_output: Some(1_000),
        most_output: None,
        least_input: input / 4,
        writes,
    }
}

fn charged(reported: Reported, tariff: &Tariff, demand: Demand) -> (Charge, Vec<&'static str>) {
    let charge = Charge::believed(reported, tariff, demand, 0);
    let doubts = doubts(reported, charge, tariff, demand).map(BillingDoubt::reason);
    (charge, doubts.collect())
}

#[test]
fn cache_writes_and_tiers_of_size_cost_what_they_cost() {
    let written = Reported {
        tokens: Tokens {
            input: 3_000,
            cache_write: 3_000,
            ..Tokens::default()
        },
        unmarked_writes: true,
        ..Reported::default()
    };
    let long = Tokens {
        input: 300_000,
        output: 1_000,
        ..Tokens::default()
    };
    for (reported, demand, cost) in [
        (written, demand(3_000, CacheWrites::Short), 15_000),
        (written, demand(3_000, CacheWrites::Hour), 24_000),
        (long.into(), demand(300_000, CacheWrites::Short), 2_430_000),
    ] {
        let (charge, doubts) = charged(reported, &tariff(&[]), demand);
        assert_eq!(
            (charge.cost, charge.estimated),
            (MicroUsd(cost), false),
            "{reported:?}"
        );
        assert_eq!(doubts, [""; 0], "nothing is doubtful");
        let room = CallAllowance {
            tokens: u64::MAX,
            cost: MicroUsd(u64::MAX),
            context: 1_000_000,
        };
        let set_aside = admit(demand, &tariff(&[]), room).expect("it fits").cost;
        assert!(set_aside >= charge.cost, "it was set aside: {set_aside}");
    }
}

#[test]
fn a_tier_that_nobody_asked_for_is_charged_and_told() {
    let one = Tokens {
        input: 1_000,
        ..Tokens::default()
    };
    let served = |served| Reported {
        served,
        ..one.into()
    };
    let flex_and_priority = tariff(&[(ServiceTier::Flex, 500), (ServiceTier::Priority, 2_500)]);
    for (reported, tariff, cost, estimated) in [
        (served(Served::Standard), &flex_and_priority, 4_000, false),
        (
            served(Served::Tier(ServiceTier::Flex)),
            &flex_and_priority,
            2_000,
            false,
        ),
        (
            served(Served::Tier(ServiceTier::Priority)),
            &flex_and_priority,
            10_000,
            false,
        ),
        (
            served(Served::Tier(ServiceTier::Fast)),
            &flex_and_priority,
            10_000,
            true,
        ),
        (served(Served::Unknown), &tariff(&[]), 4_000, true),
    ] {
        let (charge, doubts) = charged(reported, tariff, demand(1_000, CacheWrites::None));
        assert_eq!(
            (charge.cost.0, charge.estimated),
            (cost, estimated),
            "{:?}",
            reported.served
        );
        assert_eq!(
            doubts.is_empty(),
            reported.served == Served::Standard,
            "{doubts:?}"
        );
    }
    let (free, doubts) = charged(
        served(Served::Unknown),
        &Tariff::Free,
        demand(1_000, CacheWrites::None),
    );
    assert_eq!(
        (free.cost, free.estimated, doubts.len()),
        (MicroUsd::ZERO, false, 0),
        "free is free"
    );
}

#[test]
fn a_bill_that_may_be_higher_is_told() {
    let one = Tokens {
        input: 1_000,
        ..Tokens::default()
    };
    let with = |cost, paid_tools| Reported {
        cost: Some(MicroUsd(cost)),
        paid_tools,
        ..one.into()
    };
    for (reported, expected) in [
        (with(4_000, 0), vec![]),
        (with(4_005, 0), vec![]),
        (with(4_006, 0), vec!["provider_cost"]),
        (with(0, 2), vec!["paid_tools"]),
    ] {
        let (charge, doubts) = charged(reported, &tariff(&[]), demand(1_000, CacheWrites::None));
        assert_eq!(doubts, expected, "{reported:?}");
        assert_eq!(charge.cost, MicroUsd(4_000), "our own prices count");
    }
}

#[test]
fn a_count_without_what_is_in_the_cache_is_no_cut() {
    for (input, counted, cut, case) in [
        (4_096, 4_096, true, "cut again"),
        (
            4_096,
            4_097,
            false,
            "a longer prompt was counted before: the rest is in the cache",
        ),
        (
            1_023,
            0,
            false,
            "shorter than any context: the rest is in the cache",
        ),
        (0, 0, false, "all of it is in the cache"),
    ] {
        assert_eq!(is_cut(input, 9_375, counted), cut, "{case}");
    }
}

#[test]
fn a_prompt_that_was_cut_is_noticed() {
    for (input, cut) in [
        (4_096, true),
        (9_374, true),
        (9_375, false),
        (37_500, false),
    ] {
        let tokens = Tokens {
            input,
            ..Tokens::default()
        };
        let (charge, doubts) = charged(
            tokens.into(),
            &Tariff::Free,
            demand(37_500, CacheWrites::Short),
        );
        assert_eq!(charge.prompt_cut, cut, "{input} of 37,500 tokens");
        assert_eq!(
            doubts,
            if cut { vec!["prompt_cut"] } else { vec![] },
            "{input}"
        );
    }
}
