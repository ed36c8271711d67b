//! The most that a call may use, and its cost. Pure. These numbers decide whether a call is sent at
//! all, so every estimate here is an upper one.

use std::sync::Arc;

use pool_core::money::MicroUsd;
use pool_core::price::{CacheWrites, DatedPrice, Rates, Served};

pub(super) use pool_core::price::Tokens;

/// The assumed length of an answer if the agent sets no limit. A paid LLM gets it as its limit.
const ASSUMED_OUTPUT_TOKENS: u64 = 16_384;
/// An answer that has to be shorter than this is not worth its price.
pub(super) const MIN_OUTPUT_TOKENS: u64 = 256;

/// The prices of an LLM's tokens on the day of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tariff {
    Free,
    Paid(Arc<DatedPrice>),
}

impl Tariff {
    pub(super) fn cost(&self, served: Served, tokens: Tokens) -> MicroUsd {
        match self {
            Self::Free => MicroUsd::ZERO,
            Self::Paid(price) => price.cost(served, tokens),
        }
    }

    /// The dearest rates of a call with at most this much input.
    fn worst(&self, demand: Demand) -> Rates {
        match self {
            Self::Free => Rates::new(MicroUsd::ZERO, MicroUsd::ZERO),
            Self::Paid(price) => price.worst(demand.input, demand.writes),
        }
    }

    /// Whether the price of a call that was served in this way is known.
    pub(super) fn knows(&self, served: Served) -> bool {
        match (self, served) {
            (Self::Free, _) | (_, Served::Standard) => true,
            (Self::Paid(price), Served::Tier(tier)) => price.service_tiers.contains_key(&tier),
            (Self::Paid(_), Served::Unknown) => false,
        }
    }

    pub(super) fn is_paid(&self) -> bool {
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
    /// A usage with fewer input tokens than this means that the provider has cut the prompt.
    pub(super) least_input: u64,
    /// How long the provider may keep the input in its cache. Writing there costs more than input.
    pub(super) writes: CacheWrites,
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
    pub(super) demand: Demand,
    pub(super) worst: Tokens,
    /// The most that the call can cost.
    pub(super) cost: MicroUsd,
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
    tariff: &Tariff,
    allowance: CallAllowance,
) -> Result<Admission, AdmissionError> {
    let Demand {
        bytes: _,
        input,
        likely_input,
        choices,
        max_output,
        most_output,
        least_input: _,
        writes: _,
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
    let worst = |output: u64| Tokens {
        input,
        output: output.saturating_mul(choices),
        ..Tokens::default()
    };

    let by_tokens = allowance.tokens.saturating_sub(input) / choices;
    if by_tokens < least {
        return Err(AdmissionError::Tokens {
            needed: worst(least).total(),
            left: allowance.tokens,
        });
    }
    let rates = tariff.worst(demand);
    let needed = rates.cost(worst(least));
    if needed > allowance.cost {
        return Err(AdmissionError::Cost {
            needed,
            left: allowance.cost,
        });
    }
    let by_cost = rates.output_within(allowance.cost, input) / choices;
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
        demand,
        worst: worst(allowed),
        cost: rates.cost(worst(allowed)),
        bounds: TokenBounds::of(demand, most),
        output_limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paid() -> Tariff {
        let rates = Rates {
            cached_input: MicroUsd(1_250_000),
            ..Rates::new(MicroUsd(2_500_000), MicroUsd(10_000_000))
        };
        Tariff::Paid(Arc::new(DatedPrice::always(rates.into())))
    }
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
            least_input: 0,
            writes: CacheWrites::None,
        }
    }

    #[test]
    fn cached_input_has_its_own_price_and_free_llms_have_none() {
        let tokens = Tokens {
            input: 1_000_000,
            cached_input: 400_000,
            output: 100_000,
            ..Tokens::default()
        };
        let cost = |tariff: Tariff, tokens| tariff.cost(Served::Standard, tokens);
        assert_eq!(
            cost(paid(), tokens),
            MicroUsd(1_500_000 + 500_000 + 1_000_000),
            "three prices"
        );
        let written = Tokens {
            cache_write_1h: 200_000,
            ..tokens
        };
        assert_eq!(
            cost(paid(), written),
            MicroUsd(3_000_000 + 500_000),
            "writing a cache costs extra input"
        );
        assert_eq!(written.total(), tokens.total(), "but no tokens");
        assert_eq!(cost(Tariff::Free, tokens), MicroUsd::ZERO, "free");
    }

    #[test]
    fn the_dearest_part_that_input_may_become_is_set_aside() {
        for (writes, cost) in [
            (CacheWrites::None, 250 + 10_000),
            (CacheWrites::Short, 313 + 10_000),
            (CacheWrites::Hour, 500 + 10_000),
        ] {
            let demand = Demand {
                writes,
                ..demand(300, Some(1_000))
            };
            let set_aside = |cost| {
                let cost = MicroUsd(cost);
                admit(demand, &paid(), CallAllowance { cost, ..ROOM })
            };
            let admission = set_aside(cost).expect("just enough");
            assert_eq!(
                (admission.cost, admission.output_limit),
                (MicroUsd(cost), None),
                "{writes:?}"
            );
            let lowered = set_aside(cost - 1).expect("fewer tokens");
            assert_eq!(lowered.output_limit, Some(999), "{writes:?}");
        }
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
                    output,
                    ..Tokens::default()
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
                paid(),
                ROOM,
                fits(100, 16_384, Some(16_384)),
            ),
            (
                "a limit that fits stays",
                demand(300, Some(50_000)),
                paid(),
                ROOM,
                fits(100, 50_000, None),
            ),
            (
                "lowered to the tokens left",
                demand(300, Some(9_000)),
                paid(),
                small(1_100, 2_500_000),
                fits(100, 1_000, Some(1_000)),
            ),
            // 100 input tokens cost 250. The remaining 10,000 micro-dollars buy 1,000 output
            // tokens.
            (
                "lowered to the money left",
                demand(300, None),
                paid(),
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
                paid(),
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
                paid(),
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
            let admitted = admit(demand, &tariff, allowance)
                .map(|admission| (admission.worst, admission.output_limit));
            assert_eq!(admitted, expected, "{case}");
        }
    }

    #[test]
    fn what_a_call_cannot_have_used_is_not_believed() {
        let used = |input, output| Tokens {
            input,
            output,
            ..Tokens::default()
        };
        let bounds = |demand| admit(demand, &paid(), ROOM).expect("it fits").bounds;
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
        let untold = admit(demand(300, None), &Tariff::Free, ROOM)
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
            writes in proptest::sample::select(vec![CacheWrites::None, CacheWrites::Short, CacheWrites::Hour]),
        ) {
            let tariff = if free { Tariff::Free } else { paid() };
            let allowance = CallAllowance { tokens, cost: MicroUsd(cost), context };
            let demand = Demand { choices, writes, ..demand(bytes, max_output) };
            if let Ok(admission) = admit(demand, &tariff, allowance) {
                prop_assert!(admission.worst.total() <= allowance.tokens, "tokens");
                prop_assert!(admission.cost <= allowance.cost, "cost");
                let all = admission.worst.input;
                let written = match writes {
                    CacheWrites::None => admission.worst,
                    CacheWrites::Short => Tokens { cache_write: all, ..admission.worst },
                    CacheWrites::Hour => Tokens { cache_write_1h: all, ..admission.worst },
                };
                prop_assert!(tariff.cost(Served::Standard, written) <= admission.cost, "the cost of writing a cache");
                prop_assert!(admission.worst.output >= choices, "each choice may have its own output");
                prop_assert!(admission.bounds.allow(admission.worst), "the worst case can be true");
            }
        }
    }
}
