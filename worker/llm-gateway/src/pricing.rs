//! The most that a call may use, and its cost. Pure. These numbers decide whether a call is sent at
//! all, so every estimate here is an upper one.

use pool_core::money::MicroUsd;
use pool_core::pool::Price;

/// The assumed length of an answer if the agent sets no limit. A paid LLM gets it as its limit.
const ASSUMED_OUTPUT_TOKENS: u64 = 16_384;
/// An answer that has to be shorter than this is not worth its price.
pub(super) const MIN_OUTPUT_TOKENS: u64 = 256;

/// The tokens of one call. As with OpenAI, `input` includes `cached_input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tokens {
    pub(super) input: u64,
    pub(super) cached_input: u64,
    pub(super) output: u64,
    /// The extra cost of input that was written into a cache, in tokens of input. They are not
    /// tokens of their own.
    pub(super) surcharge: u64,
}

impl Tokens {
    pub(super) fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// The prices of an LLM's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tariff {
    Free,
    Paid(Price),
}

impl Tariff {
    pub(super) fn cost(self, tokens: Tokens) -> MicroUsd {
        match self {
            Self::Free => MicroUsd::ZERO,
            Self::Paid(price) => {
                price
                    .input
                    .per_mtok(tokens.input.saturating_sub(tokens.cached_input))
                    + price.input.per_mtok(tokens.surcharge)
                    + price.cached_input.per_mtok(tokens.cached_input)
                    + price.output.per_mtok(tokens.output)
            }
        }
    }

    /// The most output tokens that cost no more than `money`.
    fn output_for(self, money: MicroUsd) -> u64 {
        match self {
            Self::Free => u64::MAX,
            Self::Paid(price) if price.output == MicroUsd::ZERO => u64::MAX,
            Self::Paid(price) => {
                let tokens = u128::from(money.0) * 1_000_000 / u128::from(price.output.0);
                u64::try_from(tokens).unwrap_or(u64::MAX)
            }
        }
    }

    pub(super) fn is_paid(self) -> bool {
        match self {
            Self::Free => false,
            Self::Paid(_) => true,
        }
    }
}

/// The size of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    /// The bytes of the agent's request.
    pub(super) bytes: u64,
    /// The upper estimate of the prompt's tokens.
    pub(super) input: u64,
    /// The usual number of tokens for such a prompt. It decides whether the prompt fits into the
    /// context at all.
    pub(super) likely_input: u64,
    /// The request's `n`: each choice has its own output.
    pub(super) choices: u64,
    /// The agent's own limit for the output of each choice.
    pub(super) max_output: Option<u64>,
    /// The highest output limit that the LLM accepts, if it is known.
    pub(super) most_output: Option<u64>,
    /// By how many percent a token of input may cost more than its price, because of Anthropic's
    /// cache writes.
    pub(super) input_surcharge: u64,
}

/// The rest of a task's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallAllowance {
    pub(super) tokens: u64,
    pub(super) cost: MicroUsd,
    /// The limit of one call, not of the task.
    pub(super) context: u64,
}

/// The most tokens that a call can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenBounds {
    pub(super) input: u64,
    pub(super) output: u64,
}

impl TokenBounds {
    /// Room for instructions that a provider or a company's proxy adds to a prompt.
    const ADDED_INPUT: u64 = 4_096;

    /// A byte is never two tokens. `output` is the limit that was sent, or all that is possible.
    fn of(demand: Demand, output: u64) -> Self {
        let input = demand
            .bytes
            .saturating_add(Self::ADDED_INPUT)
            .max(demand.input);
        Self {
            input,
            output: output.saturating_mul(demand.choices),
        }
    }

    /// Whether a reported usage can be true.
    pub(super) fn allow(self, tokens: Tokens) -> bool {
        tokens.input <= self.input && tokens.output <= self.output
    }
}

/// A call that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admission {
    pub(super) worst: Tokens,
    pub(super) bounds: TokenBounds,
    /// The output limit of each choice to send to the provider. None: leave the request as it is.
    pub(super) output_limit: Option<u64>,
}

/// Why a call does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AdmissionError {
    #[error(
        "the call needs up to {needed} tokens, but the task has only {left} left; raise max_tokens_per_job or make the task smaller"
    )]
    Tokens { needed: u64, left: u64 },
    #[error(
        "the call may cost up to ${needed}, but the task has only ${left} left; raise max_cost_per_job_usd or make the task smaller"
    )]
    Cost { needed: MicroUsd, left: MicroUsd },
    #[error(
        "the request has about {estimate} tokens, but context_limit is {limit}; hand fewer files to the agent"
    )]
    Context { estimate: u64, limit: u64 },
}

/// Whether the worst case of a call fits into the rest of the limits. The output limit is lowered
/// if that makes it fit.
pub(super) fn admit(
    demand: Demand,
    tariff: Tariff,
    allowance: CallAllowance,
) -> Result<Admission, AdmissionError> {
    let Demand {
        bytes: _,
        input,
        likely_input,
        choices,
        max_output,
        most_output,
        input_surcharge,
    } = demand;
    if likely_input > allowance.context {
        return Err(AdmissionError::Context {
            estimate: likely_input,
            limit: allowance.context,
        });
    }
    let assumed =
        (allowance.context - likely_input).clamp(MIN_OUTPUT_TOKENS, ASSUMED_OUTPUT_TOKENS);
    let wanted = max_output
        .unwrap_or(assumed)
        .min(most_output.unwrap_or(u64::MAX));
    let least = wanted.min(MIN_OUTPUT_TOKENS);
    let surcharge = input.saturating_mul(input_surcharge).div_ceil(100);
    let worst = |output: u64| Tokens {
        input,
        cached_input: 0,
        output: output.saturating_mul(choices),
        surcharge,
    };

    let by_tokens = allowance.tokens.saturating_sub(input) / choices;
    if by_tokens < least {
        return Err(AdmissionError::Tokens {
            needed: worst(least).total(),
            left: allowance.tokens,
        });
    }
    let needed = tariff.cost(worst(least));
    if needed > allowance.cost {
        return Err(AdmissionError::Cost {
            needed,
            left: allowance.cost,
        });
    }
    let by_cost = tariff.output_for(allowance.cost.saturating_sub(tariff.cost(worst(0)))) / choices;
    let allowed = wanted.min(by_tokens).min(by_cost);
    let must_tell = match max_output {
        Some(own) => allowed < own,
        None => allowed < wanted || tariff.is_paid(),
    };
    let output_limit = must_tell.then_some(allowed);
    // Without a limit the model writes until its context is full.
    let most = output_limit
        .or(max_output)
        .unwrap_or(allowance.context.max(allowed));
    Ok(Admission {
        worst: worst(allowed),
        bounds: TokenBounds::of(demand, most),
        output_limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRICE: Price = Price {
        input: MicroUsd(2_500_000),
        cached_input: MicroUsd(1_250_000),
        output: MicroUsd(10_000_000),
    };
    const PAID: Tariff = Tariff::Paid(PRICE);
    const ROOM: CallAllowance = CallAllowance {
        tokens: 80_000,
        cost: MicroUsd(2_500_000),
        context: 131_072,
    };

    fn demand(bytes: u64, max_output: Option<u64>) -> Demand {
        let (input, likely_input) = (bytes.div_ceil(3), bytes / 4);
        Demand {
            bytes,
            input,
            likely_input,
            choices: 1,
            max_output,
            most_output: None,
            input_surcharge: 0,
        }
    }

    #[test]
    fn cached_input_has_its_own_price_and_free_llms_have_none() {
        let tokens = Tokens {
            input: 1_000_000,
            cached_input: 400_000,
            output: 100_000,
            surcharge: 0,
        };
        assert_eq!(
            PAID.cost(tokens),
            MicroUsd(1_500_000 + 500_000 + 1_000_000),
            "three prices"
        );
        let written = Tokens {
            surcharge: 200_000,
            ..tokens
        };
        assert_eq!(
            PAID.cost(written),
            MicroUsd(3_000_000 + 500_000),
            "writing a cache costs extra input"
        );
        assert_eq!(written.total(), tokens.total(), "but no tokens");
        assert_eq!(Tariff::Free.cost(tokens), MicroUsd::ZERO, "free");
    }

    #[test]
    fn calls_are_admitted_lowered_or_refused_by_what_is_left() {
        let small = |tokens, cost| CallAllowance {
            tokens,
            cost: MicroUsd(cost),
            ..ROOM
        };
        let fits = |input, output, output_limit| {
            Ok((
                Tokens {
                    input,
                    cached_input: 0,
                    output,
                    surcharge: 0,
                },
                output_limit,
            ))
        };
        for (case, demand, tariff, allowance, expected) in [
            (
                "free, no limit asked: untouched",
                demand(300, None),
                Tariff::Free,
                ROOM,
                fits(100, 16_384, None),
            ),
            (
                "paid, no limit asked: given one",
                demand(300, None),
                PAID,
                ROOM,
                fits(100, 16_384, Some(16_384)),
            ),
            (
                "a limit that fits stays",
                demand(300, Some(50_000)),
                PAID,
                ROOM,
                fits(100, 50_000, None),
            ),
            (
                "lowered to the tokens left",
                demand(300, Some(9_000)),
                PAID,
                small(1_100, 2_500_000),
                fits(100, 1_000, Some(1_000)),
            ),
            // 100 input tokens cost 250. The remaining 10,000 micro-dollars buy 1,000 output
            // tokens.
            (
                "lowered to the money left",
                demand(300, None),
                PAID,
                small(80_000, 10_250),
                fits(100, 1_000, Some(1_000)),
            ),
            (
                "free needs no money",
                demand(300, None),
                Tariff::Free,
                small(80_000, 0),
                fits(100, 16_384, None),
            ),
            (
                "a tiny limit is the agent's wish",
                demand(300, Some(1)),
                PAID,
                small(101, 260),
                fits(100, 1, None),
            ),
            (
                "no sensible answer in the tokens left",
                demand(300, None),
                Tariff::Free,
                small(355, 0),
                Err(AdmissionError::Tokens {
                    needed: 356,
                    left: 355,
                }),
            ),
            (
                "no sensible answer for the money left",
                demand(300, None),
                PAID,
                small(80_000, 2_809),
                Err(AdmissionError::Cost {
                    needed: MicroUsd(2_810),
                    left: MicroUsd(2_809),
                }),
            ),
            (
                "longer than the context",
                demand(600_000, None),
                Tariff::Free,
                CallAllowance {
                    tokens: u64::MAX,
                    ..ROOM
                },
                Err(AdmissionError::Context {
                    estimate: 150_000,
                    limit: 131_072,
                }),
            ),
        ] {
            let admitted = admit(demand, tariff, allowance)
                .map(|admission| (admission.worst, admission.output_limit));
            assert_eq!(admitted, expected, "{case}");
        }
    }

    #[test]
    fn what_a_call_cannot_have_used_is_not_believed() {
        let used = |input, output| Tokens {
            input,
            cached_input: 0,
            output,
            surcharge: 0,
        };
        let bounds = |demand| admit(demand, PAID, ROOM).expect("it fits").bounds;
        for (case, demand, tokens, believed) in [
            (
                "the most that is possible",
                demand(300, Some(100)),
                used(300 + 4_096, 100),
                true,
            ),
            (
                "more input than bytes",
                demand(300, Some(100)),
                used(300 + 4_097, 100),
                false,
            ),
            (
                "more output than the limit",
                demand(300, Some(100)),
                used(300, 101),
                false,
            ),
            (
                "the limit that was added",
                demand(300, None),
                used(300, 16_385),
                false,
            ),
            (
                "of each choice",
                Demand {
                    choices: 3,
                    ..demand(300, Some(100))
                },
                used(300, 300),
                true,
            ),
            (
                "nonsense",
                demand(60, None),
                used(1_000_000_000_000_000_000, 5),
                false,
            ),
        ] {
            assert_eq!(bounds(demand).allow(tokens), believed, "{case}");
        }
        let untold = admit(demand(300, None), Tariff::Free, ROOM)
            .expect("it fits")
            .bounds;
        assert!(
            untold.allow(used(300, 131_072)),
            "no limit at all: all that the context holds"
        );
        assert!(!untold.allow(used(300, 131_073)), "but not more");
    }

    proptest! {
        #[test]
        fn the_worst_case_of_an_admitted_call_always_fits(
            bytes in 1u64..600_000, choices in 1u64..6, max_output in proptest::option::of(1u64..200_000),
            tokens in 0u64..200_000, cost in 0u64..5_000_000, context in 0u64..200_000, free in any::<bool>(),
            input_surcharge in proptest::sample::select(vec![0u64, 25, 100]),
        ) {
            let tariff = if free { Tariff::Free } else { PAID };
            let allowance = CallAllowance { tokens, cost: MicroUsd(cost), context };
            let demand = Demand { choices, input_surcharge, ..demand(bytes, max_output) };
            if let Ok(admission) = admit(demand, tariff, allowance) {
                prop_assert!(admission.worst.total() <= allowance.tokens, "tokens");
                prop_assert!(tariff.cost(admission.worst) <= allowance.cost, "cost");
                let dearest = admission.worst.input * input_surcharge / 100;
                prop_assert!(admission.worst.surcharge >= dearest, "the cost of writing a cache");
                prop_assert!(admission.worst.output >= choices, "each choice may have its own output");
                prop_assert!(admission.bounds.allow(admission.worst), "the worst case can be true");
            }
        }
    }
}
