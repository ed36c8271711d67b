//! The limit that bounds the output of a call. It decides how to treat an answer that is cut there.
//! Pure.

use pool_core::money::MicroUsd;

use super::class::{Cap, Cut};
use super::pricing::{CallAllowance, Demand, Tariff, Tokens, admit};

/// The origin of the limit that the output of a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// The agent's own. The agent can handle an answer that is cut there.
    Agent,
    /// The rest of the task's limit, if it is lower than the limits of the agent and the LLM.
    Task(Cap),
    /// The LLM's own, or the gateway's for a paid LLM if the agent sets no limit.
    Llm,
}

impl Bound {
    pub(super) fn of(
        demand: Demand,
        tariff: &Tariff,
        allowance: CallAllowance,
        worst: Tokens,
    ) -> Self {
        let within = |allowance: CallAllowance| {
            admit(demand, tariff, allowance).map_or(0, |admission| admission.worst.output)
        };
        let any_cost = CallAllowance {
            cost: MicroUsd(u64::MAX),
            ..allowance
        };
        let only_context = CallAllowance {
            tokens: u64::MAX,
            ..any_cost
        };
        if worst.output < within(any_cost) {
            Self::Task(Cap::Cost)
        } else if worst.output < within(only_context) {
            Self::Task(Cap::Tokens)
        } else if demand
            .max_output
            .is_some_and(|own| demand.most_output.is_none_or(|most| own <= most))
        {
            Self::Agent
        } else {
            Self::Llm
        }
    }

    /// The reason of a cut, given this bound.
    pub(super) fn of_cut(self, cut: Cut) -> Cut {
        match (cut, self) {
            (Cut::OutputLimit, Self::Task(cap)) => Cut::TaskLimit(cap),
            (Cut::OutputLimit, Self::Agent | Self::Llm)
            | (Cut::TaskLimit(_) | Cut::Filtered | Cut::Unfinished, _) => cut,
        }
    }
}
