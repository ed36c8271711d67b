//! Section `prices`: the prices of LLMs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Price;
use super::checks::Checks;
use super::position::At;
use pool_core::id::LlmName;
use pool_core::money::MicroUsd;

/// US dollars per million tokens.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "price", inline)]
pub(super) struct RawPrice {
    /// US dollars per million input tokens.
    #[schemars(required)]
    input_usd_per_mtok: Option<MicroUsd>,
    /// US dollars per million input tokens that the provider read from its cache. Default: the input price.
    cached_input_usd_per_mtok: Option<MicroUsd>,
    /// US dollars per million output tokens.
    #[schemars(required)]
    output_usd_per_mtok: Option<MicroUsd>,
}

pub(super) fn check(
    raw: BTreeMap<LlmName, RawPrice>,
    checks: &mut Checks,
) -> BTreeMap<LlmName, Price> {
    raw.into_iter()
        .map(|(llm, price)| {
            let at = At::top("prices").key(llm.as_str());
            let input = required(
                &at.key("input_usd_per_mtok"),
                price.input_usd_per_mtok,
                checks,
            );
            let output = required(
                &at.key("output_usd_per_mtok"),
                price.output_usd_per_mtok,
                checks,
            );
            (
                llm,
                Price {
                    input,
                    cached_input: price.cached_input_usd_per_mtok.unwrap_or(input),
                    output,
                },
            )
        })
        .collect()
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
