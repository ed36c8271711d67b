//! Section `prices`: the prices of LLMs.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalogue::Catalogue;
use super::checks::Checks;
use super::position::At;
use super::{Pool, Price};
use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use pool_core::price::{DatedPrice, RateCard, Rates, ServiceTier, SizeTier, UtcDay};

/// Defines a part of a price: the five rates, and the keys of its own. (`serde(flatten)` would lose the places of mistakes.)
macro_rules! rated {
    ($(#[$meta:meta])* struct $name:ident [$($must:meta)?] { $($(#[$own_meta:meta])* $own:ident: $type:ty,)* }) => {
        #[derive(Default, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        $(#[$meta])*
        pub(super) struct $name {
            /// US dollars per million input tokens.
            $(#[$must])?
            input_usd_per_mtok: Option<MicroUsd>,
            /// US dollars per million input tokens that the provider read from its cache. Default: the input price.
            cached_input_usd_per_mtok: Option<MicroUsd>,
            /// US dollars per million input tokens that the provider wrote into its cache. Default: 1.25 times the input price.
            cache_write_usd_per_mtok: Option<MicroUsd>,
            /// The same for a cache that lives for an hour. Default: 2 times the input price.
            cache_write_1h_usd_per_mtok: Option<MicroUsd>,
            /// US dollars per million output tokens.
            $(#[$must])?
            output_usd_per_mtok: Option<MicroUsd>,
            $($(#[$own_meta])* $own: $type,)*
        }

        impl $name {
            fn rates(&self) -> WrittenRates {
                WrittenRates {
                    input: self.input_usd_per_mtok,
                    cached_input: self.cached_input_usd_per_mtok,
                    cache_write: self.cache_write_usd_per_mtok,
                    cache_write_1h: self.cache_write_1h_usd_per_mtok,
                    output: self.output_usd_per_mtok,
                }
            }
        }
    };
}

rated! {
    /// US dollars per million tokens.
    #[schemars(title = "price", inline)]
    struct RawPrice [schemars(required)] {
        /// The prices of calls with much input. They hold for all tokens of such a call.
        tiers: Vec<RawSizeTier>,
        /// The prices of calls that the provider serves in a tier such as `priority`, by the name of the tier. The pool asks
        /// for no tier; these prices count if the provider names one in its answer.
        service_tiers: BTreeMap<ServiceTier, RawServiceTier>,
        /// The first day on which this price holds, in UTC. Default: it always did.
        from: Option<UtcDay>,
        /// The last day on which this price holds, in UTC. Default: until further notice.
        until: Option<UtcDay>,
        /// The prices of other days. If several hold on a day, the last one counts; on a day without a price, the
        /// dearest one.
        other_dates: Vec<RawDatedPrice>,
    }
}

rated! {
    /// The prices of calls with much input.
    #[schemars(inline)]
    struct RawSizeTier [] {
        /// A call with more input tokens than this, cached ones included, has these prices.
        #[schemars(required, range(min = 1))]
        above_input_tokens: Option<u64>,
    }
}

rated! {
    /// The prices of a service tier: a factor, or prices of its own.
    #[schemars(inline)]
    struct RawServiceTier [] {
        /// All prices of the LLM, times this number.
        #[schemars(range(min = 0.001, max = 1000))]
        multiplier: Option<f64>,
    }
}

rated! {
    /// A price that holds on some days.
    #[schemars(inline)]
    struct RawDatedPrice [schemars(required)] {
        /// The tiers of this price; those of the price above do not count for it.
        tiers: Vec<RawSizeTier>,
        /// The service tiers of this price; those of the price above do not count for it.
        service_tiers: BTreeMap<ServiceTier, RawServiceTier>,
        /// The first day on which this price holds, in UTC.
        from: Option<UtcDay>,
        /// The last day on which this price holds, in UTC.
        until: Option<UtcDay>,
    }
}

/// Rates as the file has them.
#[derive(Clone, Copy)]
struct WrittenRates {
    input: Option<MicroUsd>,
    cached_input: Option<MicroUsd>,
    cache_write: Option<MicroUsd>,
    cache_write_1h: Option<MicroUsd>,
    output: Option<MicroUsd>,
}

impl WrittenRates {
    /// These rates, and those of `usual` for the rest.
    fn or(self, usual: Rates) -> Rates {
        Rates {
            input: self.input.unwrap_or(usual.input),
            cached_input: self.cached_input.unwrap_or(usual.cached_input),
            cache_write: self.cache_write.unwrap_or(usual.cache_write),
            cache_write_1h: self.cache_write_1h.unwrap_or(usual.cache_write_1h),
            output: self.output.unwrap_or(usual.output),
        }
    }

    /// The rates of a whole price.
    fn whole(self, at: &At, checks: &mut Checks) -> Rates {
        let input = required(&at.key("input_usd_per_mtok"), self.input, checks);
        let output = required(&at.key("output_usd_per_mtok"), self.output, checks);
        let usual = Rates::new(input, output);
        let short = self.cache_write.unwrap_or_default();
        self.or(Rates {
            cache_write_1h: usual.cache_write_1h.max(short),
            ..usual
        })
    }

    /// The rates of a part of a price. Rates that the part leaves out follow its input price.
    fn part_of(self, whole: Rates) -> Rates {
        self.or(self.input.map_or(whole, |input| whole.with_input(input)))
    }

    fn is_nothing(self) -> bool {
        let all = [
            self.input,
            self.cached_input,
            self.cache_write,
            self.cache_write_1h,
            self.output,
        ];
        all.iter().all(Option::is_none)
    }
}

pub(super) fn check(
    raw: BTreeMap<LlmName, RawPrice>,
    checks: &mut Checks,
) -> BTreeMap<LlmName, Price> {
    raw.into_iter()
        .map(|(llm, price)| {
            let at = At::top("prices").key(llm.as_str());
            (llm, price.check(&at, checks))
        })
        .collect()
}

/// Adds the prices of the catalogue for LLMs that cost money and have no price of their own.
pub(super) fn fill_in<'a>(
    named: Option<String>,
    base: &Path,
    llms: impl Iterator<Item = &'a LlmName>,
    pool: &mut Pool,
    checks: &mut Checks,
) {
    let read = match named.as_deref() {
        None => return,
        Some("built_in") => Catalogue::built_in(),
        Some(file) => {
            Catalogue::read(&base.join(file)).map_err(|problem| format!("{file:?}: {problem}"))
        }
    };
    let catalogue = match read {
        Ok(catalogue) => catalogue,
        Err(problem) => {
            let right = "write built_in, or the path of a file that `scripts/prices` has made";
            return checks.mistake(&At::top("price_catalogue"), format!("{problem}: {right}"));
        }
    };
    for llm in llms {
        if let Some(provider) = pool.providers.get(llm.provider())
            && !provider.free
            && !pool.prices.contains_key(llm)
            && let Some(price) = catalogue.price(llm, provider)
        {
            pool.prices.insert(llm.clone(), price);
            pool.catalogue_prices.insert(llm.clone());
        }
    }
}

impl RawPrice {
    fn check(self, at: &At, checks: &mut Checks) -> Price {
        let base = self.rates().whole(at, checks);
        let dates = Dates {
            from: self.from,
            until: self.until,
        };
        let first = dated(at, dates, base, self.tiers, self.service_tiers, checks);
        let others = self.other_dates.into_iter().enumerate();
        let others = others.map(|(index, other)| {
            let at = at.key("other_dates").index(index);
            let base = other.rates().whole(&at, checks);
            let dates = Dates {
                from: other.from,
                until: other.until,
            };
            if other.from.is_none() && other.until.is_none() {
                checks.mistake(
                    &at,
                    "has neither `from` nor `until`: write the days of this price",
                );
            }
            dated(&at, dates, base, other.tiers, other.service_tiers, checks)
        });
        let others: Vec<DatedPrice> = others.collect();
        Price::new(first, others)
    }
}

struct Dates {
    from: Option<UtcDay>,
    until: Option<UtcDay>,
}

fn dated(
    at: &At,
    Dates { from, until }: Dates,
    base: Rates,
    tiers: Vec<RawSizeTier>,
    service_tiers: BTreeMap<ServiceTier, RawServiceTier>,
    checks: &mut Checks,
) -> DatedPrice {
    if let (Some(from), Some(until)) = (from, until)
        && until < from
    {
        let problem = format!("{until} is before `from` ({from}): write a later day");
        checks.mistake(&at.key("until"), problem);
    }
    let standard = RateCard {
        base,
        tiers: size_tiers(at, base, tiers, checks),
    };
    let service_tiers = service_tiers
        .into_iter()
        .map(|(tier, raw)| {
            let at = at.key("service_tiers").key(tier.as_str());
            (tier, raw.check(&at, &standard, checks))
        })
        .collect();
    DatedPrice {
        from,
        until,
        standard,
        service_tiers,
    }
}

fn size_tiers(at: &At, base: Rates, tiers: Vec<RawSizeTier>, checks: &mut Checks) -> Vec<SizeTier> {
    let mut known: Vec<SizeTier> = Vec::new();
    for (index, raw) in tiers.into_iter().enumerate() {
        let at = at.key("tiers").index(index);
        let Some(above_input) = raw.above_input_tokens.filter(|tokens| *tokens > 0) else {
            let problem = "is missing: write the number of input tokens above which these prices hold, for example 200000";
            checks.mistake(&at.key("above_input_tokens"), problem);
            continue;
        };
        if known.iter().any(|tier| tier.above_input >= above_input) {
            let problem = format!(
                "{above_input} is not above the tier before: write the smallest tier first"
            );
            checks.mistake(&at.key("above_input_tokens"), problem);
        }
        if raw.rates().is_nothing() {
            checks.mistake(&at, "has no price: write at least one that differs");
        }
        known.push(SizeTier {
            above_input,
            rates: raw.rates().part_of(base),
        });
    }
    known
}

impl RawServiceTier {
    fn check(self, at: &At, standard: &RateCard, checks: &mut Checks) -> RateCard {
        let rates = self.rates();
        match (self.multiplier, rates.is_nothing()) {
            (Some(factor), true) => {
                standard.times(thousandths(&at.key("multiplier"), factor, checks))
            }
            (None, false) => {
                let tier = |tier: &SizeTier| SizeTier {
                    rates: rates.part_of(tier.rates).dearest(tier.rates),
                    ..*tier
                };
                RateCard {
                    base: rates.part_of(standard.base),
                    tiers: standard.tiers.iter().map(tier).collect(),
                }
            }
            (Some(_), false) => {
                checks.mistake(at, "has a multiplier and prices: keep one of the two");
                standard.clone()
            }
            (None, true) => {
                checks.mistake(at, "has no price: write for example {multiplier: 2}");
                standard.clone()
            }
        }
    }
}

/// A factor in thousandths, because no decision uses floats.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is 1 to 1,000,000"
)]
fn thousandths(at: &At, factor: f64, checks: &mut Checks) -> u32 {
    if !(0.001..=1000.0).contains(&factor) {
        checks.mistake(
            at,
            format!("{factor} is out of range: write 0.001 to 1000, for example 2"),
        );
        return 1000;
    }
    (factor * 1000.0).round() as u32
}

fn required(at: &At, amount: Option<MicroUsd>, checks: &mut Checks) -> MicroUsd {
    if amount.is_none() {
        checks.mistake(
            at,
            "is missing: write US dollars per million tokens, for example 2.50",
        );
    }
    amount.unwrap_or_default()
}

#[cfg(test)]
#[path = "prices_tests.rs"]
mod tests;
