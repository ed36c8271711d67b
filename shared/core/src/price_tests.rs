use super::*;
use proptest::prelude::*;

fn usd(text: &str) -> MicroUsd {
    text.parse().expect("an amount")
}

/// Input 4, cached 0.40, output 20; above 272,000 tokens all input costs double, and output 1.5 times as much.
fn card() -> RateCard {
    let base = Rates {
        cached_input: usd("0.40"),
        ..Rates::new(usd("4"), usd("20"))
    };
    let above = Rates {
        output: usd("30"),
        ..base.with_input(usd("8"))
    };
    RateCard {
        base,
        tiers: vec![SizeTier {
            above_input: 272_000,
            rates: above,
        }],
    }
}

fn input(input: u64) -> Tokens {
    Tokens {
        input,
        ..Tokens::default()
    }
}

#[test]
fn each_kind_of_token_has_its_price() {
    let price = DatedPrice::always(card());
    for (case, tokens, cost) in [
        ("plain", input(3_000), "0.012"),
        (
            "read from the cache",
            Tokens {
                cached_input: 3_000,
                ..input(3_000)
            },
            "0.0012",
        ),
        (
            "written into the cache",
            Tokens {
                cache_write: 3_000,
                ..input(3_000)
            },
            "0.015",
        ),
        (
            "written for an hour",
            Tokens {
                cache_write_1h: 3_000,
                ..input(3_000)
            },
            "0.024",
        ),
        (
            "all of them",
            Tokens {
                input: 4_000,
                cached_input: 1_000,
                cache_write: 1_000,
                cache_write_1h: 1_000,
                output: 100,
            },
            "0.0194",
        ),
        (
            "at the border of a tier",
            Tokens {
                output: 1_000,
                ..input(272_000)
            },
            "1.108",
        ),
        (
            "above it",
            Tokens {
                output: 1_000,
                ..input(300_000)
            },
            "2.43",
        ),
        (
            "a cache read above it",
            Tokens {
                cached_input: 300_000,
                ..input(300_000)
            },
            "0.24",
        ),
        (
            "more than all money",
            input(u64::MAX),
            "18446744073709.551615",
        ),
    ] {
        assert_eq!(price.cost(Served::Standard, tokens), usd(cost), "{case}");
    }
}

#[test]
fn a_call_is_rounded_up_once_not_part_by_part() {
    let rates = Rates::new(usd("0.15"), usd("0.60"));
    let one_each = Tokens {
        cached_input: 1,
        output: 1,
        ..input(2)
    };
    // 0.15 + 0.15 + 0.60 micro-dollars.
    assert_eq!(rates.cost(one_each), MicroUsd(1), "not three");
    assert_eq!(
        rates.cost(input(1)),
        MicroUsd(1),
        "a fraction is charged in full"
    );
    assert_eq!(
        rates.cost(Tokens::default()),
        MicroUsd::ZERO,
        "nothing costs nothing"
    );
}

#[test]
fn a_service_tier_has_its_price_or_the_dearest() {
    let price = DatedPrice {
        service_tiers: BTreeMap::from([
            (ServiceTier::Priority, card().times(2_500)),
            (ServiceTier::Flex, card().times(500)),
        ]),
        ..DatedPrice::always(card())
    };
    for (served, cost) in [
        (Served::Standard, "4"),
        (Served::Tier(ServiceTier::Priority), "10"),
        (Served::Tier(ServiceTier::Flex), "2"),
        (Served::Tier(ServiceTier::Fast), "10"),
        (Served::Unknown, "10"),
    ] {
        assert_eq!(price.rates(served, 1_000).input, usd(cost), "{served:?}");
    }
    assert_eq!(
        price
            .rates(Served::Tier(ServiceTier::Priority), 300_000)
            .output,
        usd("75"),
        "tiers of size have it too"
    );
}

#[test]
fn a_day_has_the_last_entry_that_holds_or_the_dearest_of_all() {
    let day = |text: &str| text.parse::<UtcDay>().expect("a day");
    let costing = |input: &str, from: Option<&str>, until: Option<&str>| DatedPrice {
        from: from.map(day),
        until: until.map(day),
        ..DatedPrice::always(Rates::new(usd(input), usd("1")).into())
    };
    let price = Price::new(
        costing("2", Some("2026-01-01"), None),
        [
            costing("1", Some("2026-03-01"), Some("2026-03-31")),
            costing("3", Some("2026-03-31"), Some("2026-04-01")),
        ],
    );
    for (on, input, known) in [
        ("2025-12-31", "3", false),
        ("2026-01-01", "2", true),
        ("2026-03-01", "1", true),
        ("2026-03-30", "1", true),
        ("2026-03-31", "3", true),
        ("2026-04-02", "2", true),
    ] {
        let day = day(on);
        assert_eq!(price.on(day).standard.base.input, usd(input), "{on}");
        assert_eq!(price.is_known_on(day), known, "{on}");
    }
}

#[test]
fn a_day_is_one_of_the_calendar_in_utc() {
    let day = |text: &str| text.parse::<UtcDay>().map(|day| day.to_string());
    assert_eq!(day("2028-02-29").as_deref(), Ok("2028-02-29"), "a leap day");
    for bad in ["2026-02-29", "2026-1-1", "20260101", "2026-01-01T00:00", ""] {
        assert!(day(bad).is_err(), "{bad:?}");
    }
    for (moment, on) in [
        ("2026-01-31T23:59:59.999Z", "2026-01-31"),
        ("2026-02-01T00:30:00+01:00", "2026-01-31"),
        ("2026-02-01T00:00:00Z", "2026-02-01"),
    ] {
        let moment: Timestamp = moment.parse().expect("a time");
        assert_eq!(UtcDay::of(moment).to_string(), on, "{moment}");
    }
}

#[test]
fn rates_follow_the_price_of_input() {
    let doubled = card().base.with_input(usd("8"));
    assert_eq!(
        (
            doubled.cached_input,
            doubled.cache_write,
            doubled.cache_write_1h,
            doubled.output
        ),
        (usd("0.80"), usd("10"), usd("16"), usd("20")),
        "all but the output"
    );
    let free = Rates::new(MicroUsd::ZERO, usd("1")).with_input(usd("2"));
    assert_eq!(free.cache_write, usd("2.50"), "from nothing");
}

proptest! {
    #[test]
    fn no_call_costs_more_than_its_worst_case(
        rates in proptest::array::uniform10(0_u64..50_000_000),
        input in 0_u64..1_000_000, output in 0_u64..100_000,
        parts in proptest::array::uniform3(0_u64..1_000_000), above in 0_u64..1_000_000, hour in any::<bool>(),
    ) {
        let [a, b, c, d, e, f, g, h, i, j] = rates.map(MicroUsd);
        let base = Rates { input: a, cached_input: b, cache_write: c, cache_write_1h: d, output: e };
        let tier = Rates { input: f, cached_input: g, cache_write: h, cache_write_1h: i, output: j };
        let price = DatedPrice::always(RateCard { base, tiers: vec![SizeTier { above_input: above, rates: tier }] });
        let cached_input = parts[0].min(input);
        let cache_write = parts[1].min(input - cached_input);
        let cache_write_1h = if hour { parts[2].min(input - cached_input - cache_write) } else { 0 };
        let used = Tokens { input, cached_input, cache_write, cache_write_1h, output };
        let writes = if hour { CacheWrites::Hour } else { CacheWrites::Short };
        let most = Tokens { input: 1_000_000, output, ..Tokens::default() };
        let worst = price.worst(most.input, writes).cost(most);
        prop_assert!(price.cost(Served::Standard, used) <= worst, "{used:?}");
    }

    #[test]
    fn money_buys_as_much_output_as_it_pays_for(
        money in 0_u64..10_000_000, input in 0_u64..1_000_000, a in 0_u64..50_000_000, b in 1_u64..50_000_000,
    ) {
        let (rates, money) = (Rates::new(MicroUsd(a), MicroUsd(b)), MicroUsd(money));
        let cost = |output| rates.cost(Tokens { input, output, ..Tokens::default() });
        let bought = rates.output_within(money, input);
        prop_assert!(bought == 0 || cost(bought) <= money, "it pays for {bought}");
        prop_assert!(cost(bought + 1) > money, "and for no more");
    }
}
