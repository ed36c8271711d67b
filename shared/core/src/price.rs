//! The cost of an LLM's tokens: by kind, by the size of the input, by the service tier and by the day. Pure.
//!
//! Each product of tokens and price is exact. The cost of a call is their sum, rounded up once.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::money::MicroUsd;
use crate::time::Timestamp;

/// The tokens of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// All input, including the three kinds below.
    pub input: u64,
    /// Input that the provider read from its cache.
    pub cached_input: u64,
    /// Input that the provider wrote into its cache for some minutes.
    pub cache_write: u64,
    /// Input that the provider wrote into its cache for an hour.
    pub cache_write_1h: u64,
    /// All output, including hidden reasoning.
    pub output: u64,
}

impl Tokens {
    /// Input and output together.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// How long a call may ask a provider to keep its input in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheWrites {
    /// It writes nothing into a cache.
    None,
    /// For some minutes.
    Short,
    /// For an hour.
    Hour,
}

/// Dollars per million tokens of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Of input that no cache has to do with.
    pub input: MicroUsd,
    /// Of input that the provider read from its cache.
    pub cached_input: MicroUsd,
    /// Of input that the provider wrote into its cache for some minutes.
    pub cache_write: MicroUsd,
    /// Of input that the provider wrote into its cache for an hour.
    pub cache_write_1h: MicroUsd,
    /// Of output.
    pub output: MicroUsd,
}

impl Rates {
    /// The rates of a provider that names only these two. Cached input costs as much as other input. A cache write costs
    /// 1.25 times as much, and 2 times for an hour, as with Anthropic and OpenAI.
    pub fn new(input: MicroUsd, output: MicroUsd) -> Self {
        Self {
            input,
            cached_input: input,
            cache_write: scaled(input, 1_250, 1_000),
            cache_write_1h: scaled(input, 2_000, 1_000),
            output,
        }
    }

    /// Each rate, times a factor in thousandths.
    #[must_use]
    pub fn times(self, thousandths: u32) -> Self {
        self.each(|rate| scaled(rate, thousandths.into(), 1_000))
    }

    /// These rates for another price of input: what depends on the price of input changes by the same factor.
    #[must_use]
    pub fn with_input(self, input: MicroUsd) -> Self {
        if self.input == MicroUsd::ZERO {
            return Self::new(input, self.output);
        }
        let by_input = self.each(|rate| scaled(rate, input.0, self.input.0));
        Self {
            output: self.output,
            ..by_input
        }
    }

    fn each(self, change: impl Fn(MicroUsd) -> MicroUsd) -> Self {
        Self {
            input: change(self.input),
            cached_input: change(self.cached_input),
            cache_write: change(self.cache_write),
            cache_write_1h: change(self.cache_write_1h),
            output: change(self.output),
        }
    }

    /// The higher one of each pair of rates.
    #[must_use]
    pub fn dearest(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached_input: self.cached_input.max(other.cached_input),
            cache_write: self.cache_write.max(other.cache_write),
            cache_write_1h: self.cache_write_1h.max(other.cache_write_1h),
            output: self.output.max(other.output),
        }
    }

    /// These rates with the dearest rate that input may have, for a call whose input may be written into a cache.
    #[must_use]
    pub fn at_worst(self, writes: CacheWrites) -> Self {
        let input = self.input.max(self.cached_input);
        let input = match writes {
            CacheWrites::None => input,
            CacheWrites::Short => input.max(self.cache_write),
            CacheWrites::Hour => input.max(self.cache_write).max(self.cache_write_1h),
        };
        Self { input, ..self }
    }

    /// The cost of a call. A fraction of a micro-dollar is charged in full, so that many small calls cannot pass a limit.
    pub fn cost(self, tokens: Tokens) -> MicroUsd {
        let special = tokens
            .cached_input
            .saturating_add(tokens.cache_write)
            .saturating_add(tokens.cache_write_1h);
        let parts = [
            (self.input, tokens.input.saturating_sub(special)),
            (self.cached_input, tokens.cached_input),
            (self.cache_write, tokens.cache_write),
            (self.cache_write_1h, tokens.cache_write_1h),
            (self.output, tokens.output),
        ];
        let exact = parts.into_iter().fold(0, |sum: u128, (rate, tokens)| {
            sum.saturating_add(u128::from(rate.0) * u128::from(tokens))
        });
        MicroUsd(u64::try_from(exact.div_ceil(MTOK)).unwrap_or(u64::MAX))
    }

    /// The most output tokens whose cost, with that of `input` plain input tokens, is at most `money`.
    pub fn output_within(self, money: MicroUsd, input: u64) -> u64 {
        if self.output == MicroUsd::ZERO {
            return u64::MAX;
        }
        let input = u128::from(self.input.0) * u128::from(input);
        let left = (u128::from(money.0) * MTOK).saturating_sub(input);
        u64::try_from(left / u128::from(self.output.0)).unwrap_or(u64::MAX)
    }
}

const MTOK: u128 = 1_000_000;

/// `rate` times `numerator / denominator`, rounded up.
fn scaled(rate: MicroUsd, numerator: u64, denominator: u64) -> MicroUsd {
    let product = u128::from(rate.0) * u128::from(numerator);
    MicroUsd(u64::try_from(product.div_ceil(denominator.into())).unwrap_or(u64::MAX))
}

/// The rates of calls with much input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeTier {
    /// A call with more input than this has the rates of the tier for all of its tokens.
    pub above_input: u64,
    /// The rates.
    pub rates: Rates,
}

/// The rates of an LLM by the size of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateCard {
    /// The rates of calls below all tiers.
    pub base: Rates,
    /// By their size, smallest first.
    pub tiers: Vec<SizeTier>,
}

impl From<Rates> for RateCard {
    fn from(base: Rates) -> Self {
        Self {
            base,
            tiers: Vec::new(),
        }
    }
}

impl RateCard {
    /// The rates of a call with this much input.
    pub fn at(&self, input: u64) -> Rates {
        let reached = |tier: &&SizeTier| input > tier.above_input;
        let tier = self.tiers.iter().rfind(reached);
        tier.map_or(self.base, |tier| tier.rates)
    }

    /// The dearest rates of a call with at most this much input.
    pub fn up_to(&self, input: u64) -> Rates {
        let reached = self.tiers.iter().filter(|tier| input > tier.above_input);
        reached.fold(self.base, |rates, tier| rates.dearest(tier.rates))
    }

    /// The card, times a factor in thousandths.
    #[must_use]
    pub fn times(&self, thousandths: u32) -> Self {
        let tier = |tier: &SizeTier| SizeTier {
            rates: tier.rates.times(thousandths),
            ..*tier
        };
        Self {
            base: self.base.times(thousandths),
            tiers: self.tiers.iter().map(tier).collect(),
        }
    }

    fn dearest(&self, other: &Self) -> Self {
        let mut sizes: Vec<u64> = [self, other]
            .iter()
            .flat_map(|card| card.tiers.iter().map(|tier| tier.above_input))
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        let at = |input: u64| self.at(input).dearest(other.at(input));
        let tier = |above_input: u64| SizeTier {
            above_input,
            rates: at(above_input.saturating_add(1)),
        };
        Self {
            base: self.base.dearest(other.base),
            tiers: sizes.into_iter().map(tier).collect(),
        }
    }
}

crate::words!(
    /// A way of serving a call that has a price of its own. The words are those of providers' answers.
    #[schemars(inline)]
    pub enum ServiceTier {
        /// OpenAI, Anthropic, Google, Fireworks: served before other calls.
        Priority = "priority",
        /// OpenAI, Google, Groq: served when there is room.
        Flex = "flex",
        /// A batch of calls that is done within a day.
        Batch = "batch",
        /// OpenAI: capacity that was bought beforehand.
        Scale = "scale",
        /// OpenAI, Anthropic: a faster way of serving the same model.
        Fast = "fast",
        /// Anthropic: served in the United States only.
        Us = "us",
    }
);

/// How a provider says that it served a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Served {
    /// At its standard price, or it did not say.
    #[default]
    Standard,
    /// In this tier.
    Tier(ServiceTier),
    /// In a tier without a known name, or in several.
    Unknown,
}

/// The price of an LLM on some days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatedPrice {
    /// The first day; None: from the beginning.
    pub from: Option<UtcDay>,
    /// The last day; None: until further notice.
    pub until: Option<UtcDay>,
    /// The price of calls in no tier.
    pub standard: RateCard,
    /// The prices of service tiers, if they are known.
    pub service_tiers: BTreeMap<ServiceTier, RateCard>,
}

impl DatedPrice {
    /// A price that always holds, without service tiers.
    pub fn always(standard: RateCard) -> Self {
        Self {
            from: None,
            until: None,
            standard,
            service_tiers: BTreeMap::new(),
        }
    }

    fn holds_on(&self, day: UtcDay) -> bool {
        self.from.is_none_or(|from| from <= day) && self.until.is_none_or(|until| day <= until)
    }

    /// The rates of a call that was served in this way. A tier without a price costs the dearest rates that are known.
    pub fn rates(&self, served: Served, input: u64) -> Rates {
        let standard = self.standard.at(input);
        let named = match served {
            Served::Standard => return standard,
            Served::Tier(tier) => self.service_tiers.get(&tier),
            Served::Unknown => None,
        };
        match named {
            Some(card) => card.at(input),
            None => {
                let known = self.service_tiers.values();
                known.fold(standard, |rates, card| rates.dearest(card.at(input)))
            }
        }
    }

    /// The cost of a call that was served in this way.
    pub fn cost(&self, served: Served, tokens: Tokens) -> MicroUsd {
        self.rates(served, tokens.input).cost(tokens)
    }

    /// The dearest rates of a call at the standard price with at most this much input.
    pub fn worst(&self, input: u64, writes: CacheWrites) -> Rates {
        self.standard.up_to(input).at_worst(writes)
    }

    fn dearest(&self, other: &Self) -> Self {
        let mut service_tiers = self.service_tiers.clone();
        for (tier, card) in &other.service_tiers {
            let dearest = service_tiers
                .get(tier)
                .map_or_else(|| card.clone(), |own| own.dearest(card));
            service_tiers.insert(*tier, dearest);
        }
        Self {
            service_tiers,
            ..Self::always(self.standard.dearest(&other.standard))
        }
    }
}

/// The prices of an LLM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// At least one. If several hold on a day, the last one counts.
    entries: Vec<Arc<DatedPrice>>,
}

impl From<DatedPrice> for Price {
    fn from(only: DatedPrice) -> Self {
        Self {
            entries: vec![Arc::new(only)],
        }
    }
}

impl From<Rates> for Price {
    fn from(rates: Rates) -> Self {
        Self::from(DatedPrice::always(rates.into()))
    }
}

impl Price {
    /// A price with others that hold on other days.
    pub fn new(first: DatedPrice, others: impl IntoIterator<Item = DatedPrice>) -> Self {
        Self {
            entries: [first].into_iter().chain(others).map(Arc::new).collect(),
        }
    }

    /// All entries, in their order.
    pub fn entries(&self) -> impl Iterator<Item = &DatedPrice> {
        self.entries.iter().map(AsRef::as_ref)
    }

    /// The price of this day. On a day for which none is known, it is the dearest of all.
    pub fn on(&self, day: UtcDay) -> Arc<DatedPrice> {
        if let Some(entry) = self.entries.iter().rfind(|entry| entry.holds_on(day)) {
            return Arc::clone(entry);
        }
        let dearest = self
            .entries
            .iter()
            .cloned()
            .reduce(|a, b| Arc::new(a.dearest(&b)));
        dearest.unwrap_or_else(|| {
            let nothing = Rates::new(MicroUsd::ZERO, MicroUsd::ZERO);
            Arc::new(DatedPrice::always(nothing.into()))
        })
    }

    /// Whether an entry holds on this day.
    pub fn is_known_on(&self, day: UtcDay) -> bool {
        self.entries.iter().any(|entry| entry.holds_on(day))
    }
}

/// A day in UTC. As text: `2026-12-31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UtcDay(jiff::civil::Date);

/// A text that is not a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a day: write year, month and day, for example 2026-12-31")]
pub struct InvalidDay(pub String);

impl UtcDay {
    /// The day of this moment.
    pub fn of(now: Timestamp) -> Self {
        let time = i64::try_from(now.0)
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let time = time.unwrap_or(jiff::Timestamp::MAX);
        Self(time.to_zoned(jiff::tz::TimeZone::UTC).date())
    }
}

impl fmt::Display for UtcDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UtcDay {
    type Err = InvalidDay;
    fn from_str(text: &str) -> Result<Self, InvalidDay> {
        let invalid = || InvalidDay(text.to_owned());
        if text.len() != "2026-12-31".len() {
            return Err(invalid());
        }
        text.parse().map(Self).map_err(|_| invalid())
    }
}

impl Serialize for UtcDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UtcDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

crate::id::inline_schema!(UtcDay, "UtcDay", {
    "description": "A day in UTC: 2026-12-31",
    "type": "string",
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
});

#[cfg(test)]
#[path = "price_tests.rs"]
mod tests;
