//! The catalogue of prices: a snapshot of a public collection, for LLMs that the pool file does not price.
//!
//! `scripts/prices` makes the file. It is compiled into the programs, so that the same program has the same prices
//! everywhere; a pool file can name a newer file instead.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use url::Url;

use super::Price;
use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use pool_core::pool::Provider;
use pool_core::price::{DatedPrice, RateCard, Rates, ServiceTier, SizeTier, UtcDay};

const BUILT_IN: &str = include_str!("../prices/genai-prices.json");

/// A snapshot of prices.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// The collection and its version.
    pub source: String,
    /// The day of the snapshot.
    pub taken: UtcDay,
    providers: BTreeMap<String, CatalogueProvider>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueProvider {
    /// The host of its API, if it has only one.
    host: Option<String>,
    /// Providers whose models it serves for the same price.
    fallback: Vec<String>,
    models: Vec<CatalogueModel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueModel {
    #[serde(rename = "match")]
    rule: NameRule,
    prices: Vec<CataloguePrice>,
}

/// The names of a model, in lower case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NameRule {
    StartsWith(String),
    EndsWith(String),
    Contains(String),
    Equals(String),
    Without(String),
    /// The name itself, in which `#` stands for one digit.
    Digits(String),
    Or(Vec<NameRule>),
    And(Vec<NameRule>),
}

impl NameRule {
    fn fits(&self, name: &str) -> bool {
        match self {
            Self::StartsWith(text) => name.starts_with(text),
            Self::EndsWith(text) => name.ends_with(text),
            Self::Contains(text) => name.contains(text),
            Self::Equals(text) => name == text,
            Self::Without(text) => !name.contains(text),
            Self::Digits(pattern) => {
                let fits = |(of_pattern, byte): (u8, u8)| {
                    of_pattern == byte || (of_pattern == b'#' && byte.is_ascii_digit())
                };
                pattern.len() == name.len() && pattern.bytes().zip(name.bytes()).all(fits)
            }
            Self::Or(rules) => rules.iter().any(|rule| rule.fits(name)),
            Self::And(rules) => rules.iter().all(|rule| rule.fits(name)),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CataloguePrice {
    from: Option<UtcDay>,
    input: MicroUsd,
    cached: MicroUsd,
    write: MicroUsd,
    write_1h: MicroUsd,
    output: MicroUsd,
    #[serde(default)]
    tiers: Vec<CatalogueTier>,
    #[serde(default)]
    service_tiers: BTreeMap<ServiceTier, CatalogueCard>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueCard {
    input: MicroUsd,
    cached: MicroUsd,
    write: MicroUsd,
    write_1h: MicroUsd,
    output: MicroUsd,
    #[serde(default)]
    tiers: Vec<CatalogueTier>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueTier {
    above: u64,
    input: MicroUsd,
    cached: MicroUsd,
    write: MicroUsd,
    write_1h: MicroUsd,
    output: MicroUsd,
}

macro_rules! rates {
    ($from:expr) => {
        Rates {
            input: $from.input,
            cached_input: $from.cached,
            cache_write: $from.write,
            cache_write_1h: $from.write_1h,
            output: $from.output,
        }
    };
}

fn card(base: Rates, tiers: &[CatalogueTier]) -> RateCard {
    let tier = |tier: &CatalogueTier| SizeTier {
        above_input: tier.above,
        rates: rates!(tier),
    };
    RateCard {
        base,
        tiers: tiers.iter().map(tier).collect(),
    }
}

impl CataloguePrice {
    fn dated(&self) -> DatedPrice {
        let of_tier =
            |(tier, of): (&ServiceTier, &CatalogueCard)| (*tier, card(rates!(of), &of.tiers));
        DatedPrice {
            from: self.from,
            until: None,
            standard: card(rates!(self), &self.tiers),
            service_tiers: self.service_tiers.iter().map(of_tier).collect(),
        }
    }
}

impl Catalogue {
    /// The catalogue that is compiled into the program.
    ///
    /// # Errors
    /// Never: a test reads it.
    pub fn built_in() -> Result<Self, String> {
        Self::parse(BUILT_IN)
    }

    /// Reads a catalogue that `scripts/prices` has made.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("is not a price catalogue: {error}"))
    }

    /// The price of an LLM. None if the catalogue does not have it.
    pub fn price(&self, llm: &LlmName, provider: &Provider) -> Option<Price> {
        self.price_of(
            self.provider(llm.provider(), &provider.base_url)?,
            llm.model(),
        )
    }

    /// The provider at this address, or else the one with this name.
    fn provider(&self, name: &str, base_url: &str) -> Option<&CatalogueProvider> {
        let url = Url::parse(base_url).ok();
        let host = url.as_ref().and_then(Url::host_str);
        let is_there =
            |provider: &&CatalogueProvider| host.is_some() && provider.host.as_deref() == host;
        let by_name = || self.providers.get(own_name(name));
        self.providers.values().find(is_there).or_else(by_name)
    }

    fn price_of(&self, provider: &CatalogueProvider, model: &str) -> Option<Price> {
        let name = model.to_ascii_lowercase();
        let find = |provider: &CatalogueProvider| {
            let found = provider
                .models
                .iter()
                .find(|model| model.rule.fits(&name))?;
            let (first, later) = found.prices.split_first()?;
            Some(Price::new(
                first.dated(),
                later.iter().map(CataloguePrice::dated),
            ))
        };
        let others = provider
            .fallback
            .iter()
            .filter_map(|name| self.providers.get(name));
        [provider].into_iter().chain(others).find_map(find)
    }
}

/// The catalogue's name of a provider.
fn own_name(name: &str) -> &str {
    match name {
        "gemini" | "vertex" => "google",
        "xai" | "grok" => "x-ai",
        "bedrock" => "aws",
        "moonshot" | "kimi" => "moonshotai",
        "z-ai" | "zhipu" => "zai",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(provider: &str, base_url: &str, model: &str) -> Option<(String, usize)> {
        let catalogue = Catalogue::built_in().expect("it can be read");
        let found = catalogue.provider(provider, base_url)?;
        let price = catalogue.price_of(found, model)?.on(catalogue.taken);
        Some((
            price.standard.base.input.to_string(),
            price.standard.tiers.len(),
        ))
    }

    #[test]
    fn a_price_is_found_by_address_or_name_and_by_model() {
        for (provider, base_url, model, expected) in [
            (
                "openai",
                "https://api.openai.com/v1",
                "gpt-4o-mini",
                Some(("0.15", 0)),
            ),
            (
                "work",
                "https://api.openai.com/v1",
                "GPT-4o-mini-2024-07-18",
                Some(("0.15", 0)),
            ),
            (
                "openai",
                "http://10.0.0.1/v1",
                "gpt-4o-mini",
                Some(("0.15", 0)),
            ),
            (
                "anthropic",
                "https://api.anthropic.com/v1",
                "claude-sonnet-4-5-20250929",
                Some(("3.00", 1)),
            ),
            (
                "azure",
                "https://x.openai.azure.com/v1",
                "gpt-4o-mini",
                Some(("0.15", 0)),
            ),
            ("openai", "https://api.openai.com/v1", "no-such-model", None),
            ("vllm", "http://127.0.0.1:8000/v1", "gpt-4o-mini", None),
        ] {
            let expected = expected.map(|(input, tiers)| (input.to_owned(), tiers));
            assert_eq!(
                rate(provider, base_url, model),
                expected,
                "{provider} at {base_url}: {model}"
            );
        }
    }

    #[test]
    fn a_rule_fits_names() {
        let rule = |json: &str| serde_json::from_str::<NameRule>(json).expect("a rule");
        for (json, name, fits) in [
            (r###"{"digits": "x-####"}"###, "x-2026", true),
            (r###"{"digits": "x-####"}"###, "x-202a", false),
            (r###"{"digits": "x-####"}"###, "x-20261", false),
            (
                r#"{"and": [{"starts_with": "a"}, {"without": "-tts"}]}"#,
                "a-tts-1",
                false,
            ),
            (
                r#"{"and": [{"starts_with": "a"}, {"without": "-tts"}]}"#,
                "a-1",
                true,
            ),
            (
                r#"{"or": [{"equals": "a"}, {"ends_with": "b"}, {"contains": "c"}]}"#,
                "xcx",
                true,
            ),
        ] {
            assert_eq!(rule(json).fits(name), fits, "{json} and {name}");
        }
    }
}
