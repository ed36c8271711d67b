//! Section `defaults`: what one task may use.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::JobLimits;
use pool_core::money::MicroUsd;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawDefaults {
    /// Seconds for one attempt at a task.
    #[schemars(range(min = 1, max = 86400))]
    pub(super) timeout_s: u64,
    /// Input and output tokens for one task.
    #[schemars(range(min = 1))]
    pub(super) max_tokens_per_job: u64,
    /// US dollars for one task.
    pub(super) max_cost_per_job_usd: MicroUsd,
    /// Seconds for one run of the agent.
    #[schemars(range(min = 1, max = 86400))]
    pub(super) max_duration_per_job_s: u64,
    /// Tokens that fit into the context of the LLMs.
    #[schemars(range(min = 1))]
    pub(super) context_limit: u64,
    /// Whether the change is committed. With `false` the result is a patch only.
    pub(super) auto_commit: bool,
    /// Runs of the agent for one attempt: the first one, repairs after a failed acceptance check, and runs with another
    /// LLM after a useless answer. 0 means 1.
    pub(super) max_fix_iterations: u32,
}

impl Default for RawDefaults {
    fn default() -> Self {
        Self {
            timeout_s: 900,
            max_tokens_per_job: 80_000,
            max_cost_per_job_usd: MicroUsd(2_500_000),
            max_duration_per_job_s: 600,
            context_limit: 131_072,
            auto_commit: true,
            max_fix_iterations: 3,
        }
    }
}

impl RawDefaults {
    pub(super) fn limits(&self) -> JobLimits {
        JobLimits {
            timeout: Duration::from_secs(self.timeout_s),
            agent_timeout: Duration::from_secs(self.max_duration_per_job_s),
            max_tokens: self.max_tokens_per_job,
            max_cost: self.max_cost_per_job_usd,
            context_limit: self.context_limit,
            auto_commit: self.auto_commit,
            max_fix_iterations: self.max_fix_iterations,
        }
    }
}
