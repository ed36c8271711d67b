//! What the gateway tells the people who run it: one struct for each fact, log line and metrics together.

use super::record::{Call, CallClass};

/// A call of an agent has ended.
pub(super) struct CallEnded<'a> {
    pub(super) call: &'a Call,
}

impl CallEnded<'_> {
    pub(super) fn emit(&self) {
        let call = self.call;
        let (llm, class) = (call.llm.to_string(), call.class.label());
        metrics::counter!("pool_llm_calls_total", "llm" => llm.clone(), "class" => class).increment(1);
        metrics::histogram!("pool_llm_call_seconds", "llm" => llm.clone()).record(call.duration);
        for (kind, tokens) in
            [("input", call.input_tokens), ("cached_input", call.cached_input_tokens), ("output", call.output_tokens)]
        {
            metrics::counter!("pool_llm_tokens_total", "llm" => llm.clone(), "kind" => kind).increment(tokens);
        }
        metrics::counter!("pool_llm_cost_micro_usd_total", "llm" => llm).increment(call.cost.0);
        if call.class == CallClass::Ok {
            tracing::debug!(
                llm = %call.llm,
                input_tokens = call.input_tokens,
                output_tokens = call.output_tokens,
                cost_usd = %call.cost,
                duration_ms = milliseconds(call),
                finish_reason = call.finish_reason.as_deref(),
                "LLM call answered"
            );
        } else {
            tracing::warn!(
                llm = %call.llm,
                class,
                status = call.status,
                cost_usd = %call.cost,
                duration_ms = milliseconds(call),
                reason = call.message,
                "LLM call failed"
            );
        }
    }
}

fn milliseconds(call: &Call) -> u64 {
    u64::try_from(call.duration.as_millis()).unwrap_or(u64::MAX)
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
            "no key for this provider: its calls will fail until the variable is set and the worker started again"
        );
    }
}
