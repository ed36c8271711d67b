//! The usage that a provider reports, in all the shapes in which providers write it. Pure.
//!
//! Where a report can be read in two ways, the dearer one counts.

use pool_core::money::MicroUsd;
use pool_core::price::{Served, ServiceTier};
use serde_json::{Map, Value};

use super::fields::whole;
use crate::pricing::Tokens;

/// A provider's report about the price of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reported {
    pub(crate) tokens: Tokens,
    /// The provider does not say for how long it keeps what it wrote into its cache.
    pub(crate) unmarked_writes: bool,
    pub(crate) served: Served,
    /// The price that the provider computed itself.
    pub(crate) cost: Option<MicroUsd>,
    /// The uses of tools that the provider runs for a price of their own, such as its web search.
    pub(crate) paid_tools: u64,
}

impl From<Tokens> for Reported {
    fn from(tokens: Tokens) -> Self {
        Self {
            tokens,
            ..Self::default()
        }
    }
}

impl Reported {
    /// Reads the `usage` of a chat completion or a response, whose fields are `answer`; None if it is absent or makes no
    /// sense.
    pub(crate) fn of_openai(answer: &Map<String, Value>) -> Option<Self> {
        let usage = answer.get("usage")?;
        let count = |names: &[&str]| names.iter().find_map(|name| whole(&usage[*name]));
        let (input, output) = both_sides(
            count(&["prompt_tokens", "input_tokens"]),
            count(&["completion_tokens", "output_tokens"]),
            count(&["total_tokens"]),
        )?;
        let tokens = CacheUse::of_openai(usage).within(input, output, count(&["total_tokens"]));
        Some(Self {
            unmarked_writes: tokens.cache_write > 0 && usage["cache_creation"].is_null(),
            served: served([
                answer.get("service_tier").unwrap_or(&Value::Null),
                &usage["service_tier"],
                &usage["speed"],
            ]),
            cost: own_cost(usage),
            paid_tools: paid_tools(usage),
            tokens,
        })
    }

    /// Reads the `usage` of Anthropic's Messages. Its `input_tokens` excludes tokens that were read from a cache or written
    /// into it.
    pub(crate) fn of_messages(usage: &Value) -> Option<Self> {
        let own = counts_of_messages(usage)?;
        let each = usage["iterations"].as_array().into_iter().flatten();
        let iterations = each
            .filter_map(counts_of_messages)
            .fold(Tokens::default(), plus);
        Some(Self {
            tokens: larger(own, iterations),
            unmarked_writes: own.cache_write > 0 && usage["cache_creation"].is_null(),
            served: served([
                &usage["service_tier"],
                &usage["speed"],
                &usage["inference_geo"],
            ]),
            cost: own_cost(usage),
            paid_tools: paid_tools(usage),
        })
    }
}

/// Input and output. If one of them is missing, it is the rest of the total.
fn both_sides(input: Option<u64>, output: Option<u64>, total: Option<u64>) -> Option<(u64, u64)> {
    match (input, output, total) {
        (Some(input), Some(output), _) => Some((input, output)),
        (Some(input), None, Some(total)) if total > input => Some((input, total - input)),
        (None, Some(output), Some(total)) if total > output => Some((total - output, output)),
        (Some(_), None, _) | (None, _, _) => None,
    }
}

/// The part of the input that a cache has to do with.
struct CacheUse {
    read: u64,
    written: u64,
    written_1h: u64,
}

impl CacheUse {
    fn of_openai(usage: &Value) -> Self {
        let at = |path: &[&str]| {
            let value = path.iter().fold(usage, |value, name| &value[*name]);
            whole(value).unwrap_or(0)
        };
        let details =
            |name| at(&["prompt_tokens_details", name]).max(at(&["input_tokens_details", name]));
        let (read, created) = (
            at(&["cache_read_input_tokens"]),
            at(&["cache_creation_input_tokens"]),
        );
        let hour = "ephemeral_1h_input_tokens";
        let written = [
            created,
            details("cache_write_tokens"),
            details("cache_creation_tokens"),
            details("cache_creation_input_tokens"),
            details("caching_tokens"),
            at(&["cache_write_tokens"]),
            at(&["cache_creation", hour])
                .saturating_add(at(&["cache_creation", "ephemeral_5m_input_tokens"])),
        ];
        let written = written.into_iter().max().unwrap_or(0);
        Self {
            read: [
                read,
                details("cached_tokens"),
                at(&["prompt_cache_hit_tokens"]),
                at(&["cached_tokens"]),
            ]
            .into_iter()
            .max()
            .unwrap_or(0),
            written,
            written_1h: at(&["cache_creation", hour]).min(written),
        }
    }

    /// The tokens of a call with this input, in which the cached tokens are included, or else left out.
    fn within(self, input: u64, output: u64, total: Option<u64>) -> Tokens {
        let cached = self.read.saturating_add(self.written);
        let beyond = total.map(|total| total.saturating_sub(input.saturating_add(output)));
        let left_out = match beyond {
            Some(beyond) if cached > 0 && beyond == cached => cached,
            Some(beyond) if self.written > 0 && beyond == self.written => self.written,
            Some(_) | None if cached <= input => 0,
            // More than all input cannot be a part of it.
            Some(_) | None => cached,
        };
        let input = input.saturating_add(left_out);
        // Some providers leave the tokens of hidden reasoning out of the output but not out of the total. They bill the
        // larger number.
        let beyond_input = total.map_or(0, |total| total.saturating_sub(input));
        let cached_input = self.read.min(input);
        Tokens {
            input,
            cached_input,
            cache_write: (self.written - self.written_1h).min(input - cached_input),
            cache_write_1h: self.written_1h.min(input - cached_input),
            output: output.max(beyond_input),
        }
    }
}

fn counts_of_messages(usage: &Value) -> Option<Tokens> {
    let count = |value: &Value| whole(value).unwrap_or(0);
    let (new, output) = both_sides(
        whole(&usage["input_tokens"]),
        whole(&usage["output_tokens"]),
        whole(&usage["total_tokens"]),
    )?;
    let read = count(&usage["cache_read_input_tokens"]);
    let short = count(&usage["cache_creation"]["ephemeral_5m_input_tokens"]);
    let hour = count(&usage["cache_creation"]["ephemeral_1h_input_tokens"]);
    let written = count(&usage["cache_creation_input_tokens"]).max(short.saturating_add(hour));
    // Of writes with times, those that are not marked as five minutes long may have been written for an hour.
    let short = match usage["cache_creation"].is_null() {
        true => written,
        false => short,
    };
    Some(Tokens {
        input: new.saturating_add(read).saturating_add(written),
        cached_input: read,
        cache_write: short,
        cache_write_1h: written - short,
        output,
    })
}

fn plus(a: Tokens, b: Tokens) -> Tokens {
    each(a, b, u64::saturating_add)
}

/// Some providers count the parts of a call in its usage, some do not.
fn larger(a: Tokens, b: Tokens) -> Tokens {
    if a.total() >= b.total() {
        a
    } else {
        each(a, b, u64::max)
    }
}

fn each(a: Tokens, b: Tokens, of: fn(u64, u64) -> u64) -> Tokens {
    Tokens {
        input: of(a.input, b.input),
        cached_input: of(a.cached_input, b.cached_input),
        cache_write: of(a.cache_write, b.cache_write),
        cache_write_1h: of(a.cache_write_1h, b.cache_write_1h),
        output: of(a.output, b.output),
    }
}

/// The tier in which the call was served, from the words that the answer has for it.
fn served(words: [&Value; 3]) -> Served {
    let tier = |word: &str| match word.trim().to_ascii_lowercase().as_str() {
        // Groq's word is `on_demand`. Anthropic's region is `global`, or `not_available` for older models.
        "" | "auto" | "default" | "standard" | "standard_only" | "normal" | "on_demand"
        | "none" | "null" | "global" | "not_available" => Served::Standard,
        word => ServiceTier::ALL
            .into_iter()
            .find(|tier| tier.as_str() == word)
            .map_or(Served::Unknown, Served::Tier),
    };
    let mut other = words
        .into_iter()
        .filter_map(Value::as_str)
        .map(tier)
        .filter(|served| *served != Served::Standard);
    match (other.next(), other.next()) {
        (None, _) => Served::Standard,
        (Some(one), None) => one,
        (Some(one), Some(other)) if one == other => one,
        (Some(_), Some(_)) => Served::Unknown,
    }
}

/// The provider's own price: a number of dollars (OpenRouter), an object with their sum (Perplexity), or ticks (xAI).
fn own_cost(usage: &Value) -> Option<MicroUsd> {
    const TICKS_PER_USD: f64 = 1e10;
    let cost = &usage["cost"];
    let ticks = usage["cost_in_usd_ticks"].as_f64();
    let dollars = cost.as_f64().or_else(|| cost["total_cost"].as_f64());
    let dollars = dollars.or(ticks.map(|ticks| ticks / TICKS_PER_USD))?;
    // With a key of the account's own, OpenRouter's price leaves out that of the provider behind it.
    let upstream = usage["cost_details"]["upstream_inference_cost"].as_f64();
    let upstream = upstream.filter(|_| usage["is_byok"] == true);
    micro(dollars + upstream.unwrap_or(0.0))
}

/// Dollars in micro-dollars; None if the number is no price.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is 0 to 10^15"
)]
fn micro(dollars: f64) -> Option<MicroUsd> {
    (0.0..=1e9)
        .contains(&dollars)
        .then(|| MicroUsd((dollars * 1e6).round() as u64))
}

/// The uses of tools that cost more than their tokens.
fn paid_tools(usage: &Value) -> u64 {
    // Fetching a page and searching among tools cost tokens only.
    const FREE: [&str; 2] = ["web_fetch_requests", "tool_search_requests"];
    let counters = [
        "server_tool_use",
        "server_tool_use_details",
        "server_side_tool_usage_details",
    ];
    let counted = counters
        .iter()
        .filter_map(|name| usage[*name].as_object())
        .flatten();
    let counted = counted.filter(|(name, _)| !FREE.contains(&name.as_str()));
    let uses = ["num_search_queries", "num_sources_used"].map(|name| &usage[name]);
    // A part of the call that another model did, such as Anthropic's advisor, has the prices of that model.
    let parts = usage["iterations"].as_array().into_iter().flatten();
    let other_models = parts.filter(|part| part["model"].is_string()).count() as u64;
    counted
        .map(|(_, value)| value)
        .chain(uses)
        .filter_map(whole)
        .fold(other_models, u64::saturating_add)
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
