//! Section `llms`: facts about single LLMs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LlmSettings;
use super::checks::Checks;
use super::position::At;
use pool_core::id::LlmName;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "LLM", inline)]
pub(super) struct RawLlm {
    /// The highest output limit that the provider accepts for this model, in tokens. The gateway sends no higher limit.
    /// Without it, the gateway learns the number when the provider refuses a higher one.
    #[schemars(range(min = 1))]
    max_output_tokens: Option<u64>,
}

pub(super) fn check(
    raw: BTreeMap<LlmName, RawLlm>,
    checks: &mut Checks,
) -> BTreeMap<LlmName, LlmSettings> {
    raw.into_iter()
        .map(|(llm, RawLlm { max_output_tokens })| {
            if let Some(most) = max_output_tokens {
                let at = At::top("llms").key(llm.as_str()).key("max_output_tokens");
                checks.within(&at, most, 1..=u64::MAX, "tokens");
            }
            (
                llm,
                LlmSettings {
                    max_output: max_output_tokens,
                },
            )
        })
        .collect()
}
