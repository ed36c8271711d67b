//! The charge of a call, from its provider's report. Warns of a bill that may differ.

use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use pool_core::price::{CacheWrites, Served};

use super::classify::{Billing, CallOutcome};
use super::pricing::{Admission, Demand, Tariff, Tokens};
use super::protocol::Reported;
use super::telemetry::{BillMayDiffer, BillingDoubt, UsageNotBelieved};

/// The tokens and the money that a call is charged with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Charge {
    pub(super) tokens: Tokens,
    pub(super) cost: MicroUsd,
    /// The numbers are upper estimates.
    pub(super) estimated: bool,
    /// The provider has answered only a part of the prompt.
    pub(super) prompt_cut: bool,
}

impl Charge {
    pub(super) fn at_worst(admission: Admission) -> Self {
        Self {
            tokens: admission.worst,
            cost: admission.cost,
            estimated: true,
            prompt_cut: false,
        }
    }

    /// The charge of a call. If the reported usage cannot be true, the worst case is charged. `counted` is the most input that
    /// the LLM has counted for an earlier call of this run.
    pub(super) fn of(
        llm: &LlmName,
        outcome: &CallOutcome,
        tariff: &Tariff,
        admission: Admission,
        counted: u64,
    ) -> Self {
        let reported = match outcome {
            CallOutcome::Answer(answer) | CallOutcome::Cut(_, answer) => answer.content.usage,
            CallOutcome::Failure(failure) => match &failure.billing {
                Billing::Nothing => return Self::default(),
                Billing::WorstCase => None,
                Billing::Reported(reported) => Some(**reported),
            },
        };
        let Some(reported) = reported else {
            return Self::at_worst(admission);
        };
        let bounds = admission.bounds;
        if !bounds.allow(reported.tokens) {
            UsageNotBelieved {
                llm,
                reported: reported.tokens,
                bounds,
            }
            .emit();
            return Self::at_worst(admission);
        }
        let charge = Self::believed(reported, tariff, admission.demand, counted);
        for doubt in doubts(reported, charge, tariff, admission.demand) {
            BillMayDiffer { llm, doubt }.emit();
        }
        charge
    }

    fn believed(reported: Reported, tariff: &Tariff, demand: Demand, counted: u64) -> Self {
        let tokens = marked(reported, demand.writes);
        Self {
            tokens,
            cost: tariff.cost(reported.served, tokens),
            estimated: !tariff.knows(reported.served),
            prompt_cut: is_cut(tokens.input, demand.least_input, counted),
        }
    }
}

/// Whether a prompt with at least `least` tokens was cut to `input` tokens.
///
/// Some versions of Ollama count only the tokens that were not in the cache. Such a count is smaller than one before, or
/// smaller than any context.
fn is_cut(input: u64, least: u64, counted: u64) -> bool {
    const SMALLEST_CONTEXT: u64 = 1_024;
    input < least && input >= SMALLEST_CONTEXT && input >= counted
}

/// The reported tokens. Cache writes of an unknown time count for an hour if the request asked for an hour.
pub(super) fn marked(reported: Reported, writes: CacheWrites) -> Tokens {
    let tokens = reported.tokens;
    match writes {
        CacheWrites::Hour if reported.unmarked_writes => Tokens {
            cache_write: 0,
            cache_write_1h: tokens.cache_write.saturating_add(tokens.cache_write_1h),
            ..tokens
        },
        CacheWrites::None | CacheWrites::Short | CacheWrites::Hour => tokens,
    }
}

/// Why the provider's bill may differ from the charge.
fn doubts(
    reported: Reported,
    charge: Charge,
    tariff: &Tariff,
    demand: Demand,
) -> impl Iterator<Item = BillingDoubt> {
    let paid = tariff.is_paid();
    let tier = (paid && reported.served != Served::Standard)
        .then_some(BillingDoubt::Tier(reported.served));
    // The provider may round in another way.
    let most = MicroUsd(charge.cost.0.saturating_add(charge.cost.0 / 1_000 + 1));
    let cost = reported
        .cost
        .filter(|cost| *cost > most)
        .map(|theirs| BillingDoubt::Cost {
            ours: charge.cost,
            theirs,
        });
    let tools = (reported.paid_tools > 0).then_some(BillingDoubt::Tools(reported.paid_tools));
    let cut = charge.prompt_cut.then_some(BillingDoubt::PromptCut {
        counted: charge.tokens.input,
        expected: demand.likely_input,
    });
    [tier, cost, tools, cut].into_iter().flatten()
}

#[cfg(test)]
#[path = "charge_tests.rs"]
mod tests;
