//! The gateway's telemetry: one struct for each fact, which emits log line and metrics together.

use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use pool_core::price::Served;
use pool_telemetry::catalog::{
    LLM_BILLING_WARNINGS, LLM_CALL, LLM_CALLS, LLM_CALLS_WITHOUT_LLM, LLM_COST, LLM_FAILOVERS,
    LLM_SKIPS, LLM_TOKENS, LLM_USAGE_NOT_BELIEVED,
};

use super::class::CallClass;
use super::lesson::Lesson;
use super::permits::Unavailable;
use super::pricing::{TokenBounds, Tokens};
use super::record::{CallRecord, NoLlmLeft, NotAnswered};

/// A call to an LLM has ended.
pub(super) struct CallEnded<'a> {
    pub(super) call: &'a CallRecord,
}

impl CallEnded<'_> {
    pub(super) fn emit(&self) {
        let call = self.call;
        let (llm, class) = (call.llm.as_str(), call.class.label());
        let duration_ms = u64::try_from(call.duration.as_millis()).unwrap_or(u64::MAX);
        LLM_CALLS.add([llm, class], 1);
        LLM_CALL.record([llm], call.duration);
        for (kind, tokens) in [
            ("input", call.input_tokens),
            ("cached_input", call.cached_input_tokens),
            ("output", call.output_tokens),
        ] {
            LLM_TOKENS.add([llm, kind], tokens);
        }
        LLM_COST.add([llm], call.cost.0);
        if call.class == CallClass::Ok {
            tracing::debug!(
                llm = %call.llm,
                input_tokens = call.input_tokens,
                output_tokens = call.output_tokens,
                cost_usd = %call.cost,
                duration_ms,
                finish_reason = call.finish_reason.as_deref(),
                "LLM call answered"
            );
        } else {
            tracing::warn!(
                llm = %call.llm,
                class,
                status = call.status,
                cost_usd = %call.cost,
                duration_ms,
                reason = call.message,
                "LLM call failed"
            );
        }
    }
}

/// An LLM was skipped, because the pool has shut it or the budget is used up.
pub(super) struct Skipped<'a> {
    pub(super) llm: &'a LlmName,
    pub(super) unavailable: &'a Unavailable,
}

impl Skipped<'_> {
    pub(super) fn emit(&self) {
        let reason = self.unavailable.reason.as_str();
        LLM_SKIPS.add([self.llm.as_str(), reason], 1);
        tracing::debug!(llm = %self.llm, reason, detail = self.unavailable.detail, "LLM skipped");
    }
}

/// A provider has reported more tokens than the call can have used.
pub(super) struct UsageNotBelieved<'a> {
    pub(super) llm: &'a LlmName,
    pub(super) reported: Tokens,
    pub(super) bounds: TokenBounds,
}

impl UsageNotBelieved<'_> {
    pub(super) fn emit(&self) {
        LLM_USAGE_NOT_BELIEVED.add([self.llm.as_str()], 1);
        tracing::warn!(
            llm = %self.llm,
            input_tokens = self.reported.input,
            output_tokens = self.reported.output,
            input_tokens_at_most = self.bounds.input,
            output_tokens_at_most = self.bounds.output,
            "the provider reports more tokens than the call can have used; charging the worst case"
        );
    }
}

/// Why the bill of a provider may be higher than the charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BillingDoubt {
    /// The call was served in a tier that nobody asked for.
    Tier(Served),
    /// The provider names a higher price.
    Cost { ours: MicroUsd, theirs: MicroUsd },
    /// The provider has run tools that cost more than tokens.
    Tools(u64),
    /// The provider has counted far fewer tokens than the prompt has.
    PromptCut { counted: u64, expected: u64 },
}

impl BillingDoubt {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Tier(_) => "service_tier",
            Self::Cost { .. } => "provider_cost",
            Self::Tools(_) => "paid_tools",
            Self::PromptCut { .. } => "prompt_cut",
        }
    }
}

/// The bill of a provider may be higher than the charge, or its answer worth less.
pub(super) struct BillMayDiffer<'a> {
    pub(super) llm: &'a LlmName,
    pub(super) doubt: BillingDoubt,
}

impl BillMayDiffer<'_> {
    pub(super) fn emit(&self) {
        let Self { llm, doubt } = self;
        LLM_BILLING_WARNINGS.add([llm.as_str(), doubt.reason()], 1);
        match doubt {
            BillingDoubt::Tier(served) => {
                let tier = match served {
                    Served::Tier(tier) => tier.as_str(),
                    Served::Standard | Served::Unknown => "unknown",
                };
                tracing::warn!(
                    %llm, tier,
                    "the provider served a call in a tier that nobody asked for; charging the price of the tier in \
                     `prices`, or else the dearest one"
                );
            }
            BillingDoubt::Cost { ours, theirs } => tracing::warn!(
                %llm, charged_usd = %ours, provider_usd = %theirs,
                "the provider names a higher price for a call than `prices`; correct the price of this LLM"
            ),
            BillingDoubt::Tools(uses) => tracing::warn!(
                %llm, uses,
                "the provider has run tools of its own, which cost more than their tokens; they are not charged"
            ),
            BillingDoubt::PromptCut { counted, expected } => tracing::warn!(
                %llm, input_tokens = counted, expected_tokens = expected,
                "the provider has cut the prompt; give the LLM a larger context, or lower context_limit"
            ),
        }
    }
}

/// A provider has refused an output limit, and its message says which one it takes.
pub(super) struct LimitLearned<'a> {
    pub(super) llm: &'a LlmName,
    pub(super) lesson: Lesson,
}

impl LimitLearned<'_> {
    pub(super) fn emit(&self) {
        let takes = match self.lesson {
            Lesson::MaxOutput(most) => format!("at most {most} output tokens"),
            Lesson::Context { length, .. } => {
                format!("prompt and output of {length} tokens together")
            }
            Lesson::Field(field) => format!("the limit in `{}`", field.as_str()),
        };
        tracing::info!(llm = %self.llm, takes, "the provider refused the output limit; asking again");
    }
}

/// A call of an agent goes on to the next LLM.
pub(super) struct MovedOn<'a> {
    pub(super) from: &'a LlmName,
    pub(super) to: &'a LlmName,
    pub(super) out: &'a NotAnswered,
}

impl MovedOn<'_> {
    pub(super) fn emit(&self) {
        let reason = self.out.word();
        LLM_FAILOVERS.add([self.from.as_str(), reason], 1);
        tracing::info!(from = %self.from, to = %self.to, reason, "the call goes on to the next LLM");
    }
}

/// All LLMs for a call of an agent were out.
pub(super) struct Exhausted<'a> {
    pub(super) left: &'a NoLlmLeft,
}

impl Exhausted<'_> {
    pub(super) fn emit(&self) {
        LLM_CALLS_WITHOUT_LLM.add([], 1);
        tracing::warn!(reason = %self.left, "no LLM is left for a call");
    }
}

/// A provider's key is not in the worker's environment.
pub(super) struct KeyMissing<'a> {
    pub(super) provider: &'a str,
    pub(super) variable: &'a str,
}

impl KeyMissing<'_> {
    pub(super) fn emit(&self) {
        tracing::warn!(
            provider = self.provider,
            variable = self.variable,
            "no key for this provider: its calls fail until you set the variable and restart the worker"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metrics_exporter_prometheus::PrometheusBuilder;
    use pool_core::id::LlmName;

    use super::*;

    #[test]
    fn a_call_is_counted_by_llm_and_class() {
        let call = CallRecord {
            llm: LlmName::new("paid/gpt").expect("an LLM name"),
            class: CallClass::RateLimited { retry_after: None },
            status: Some(429),
            message: "slow down".to_owned(),
            finish_reason: None,
            empty: false,
            input_tokens: 7,
            cached_input_tokens: 2,
            output_tokens: 3,
            estimated: true,
            cost: MicroUsd(11),
            prompt_cut: false,
            duration: Duration::from_millis(1_500),
        };
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || CallEnded { call: &call }.emit());
        let text = recorder.handle().render();
        for line in [
            r#"pool_llm_calls_total{llm="paid/gpt",class="rate_limited"} 1"#,
            r#"pool_llm_call_seconds_sum{llm="paid/gpt"} 1.5"#,
            r#"pool_llm_tokens_total{llm="paid/gpt",kind="input"} 7"#,
            r#"pool_llm_tokens_total{llm="paid/gpt",kind="cached_input"} 2"#,
            r#"pool_llm_tokens_total{llm="paid/gpt",kind="output"} 3"#,
            r#"pool_llm_cost_micro_usd_total{llm="paid/gpt"} 11"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
