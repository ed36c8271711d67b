//! The gateway's record of a run, its first evidence: one entry for each call to an LLM, retries
//! and backups included.

use std::time::Duration;

use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use pool_core::result::{LlmUsage, Usage};

use super::class::CallClass;
use super::permits::Unavailable;
use super::protocol::Ending;

/// Why an LLM did not answer a call of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAnswered {
    /// The LLM was not asked.
    Unavailable(Unavailable),
    /// The LLM was asked, and its last try failed with this class.
    Failed(CallClass),
}

impl NotAnswered {
    /// The word in messages, logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unavailable(unavailable) => unavailable.reason.as_str(),
            Self::Failed(class) => class.label(),
        }
    }

    fn is_outage(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Failed(class) => class.is_outage(),
        }
    }
}

/// A call of the agent for which every possible LLM was out: shut by the pool, or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoLlmLeft {
    /// The LLMs in the order in which they were tried; at least one.
    pub llms: Vec<(LlmName, NotAnswered)>,
}

impl NoLlmLeft {
    /// None if one of the LLMs was all right, and only the request or its answer failed.
    pub(super) fn of(llms: Vec<(LlmName, NotAnswered)>) -> Option<Self> {
        llms.iter()
            .all(|(_, out)| out.is_outage())
            .then_some(Self { llms })
    }
}

impl std::fmt::Display for NoLlmLeft {
    /// `ollama/a: timeout; openai/b: budget ($0.40 are missing)`: for people, not for the agent.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each = self.llms.iter().map(|(llm, out)| match out {
            NotAnswered::Unavailable(Unavailable { detail, .. }) if !detail.is_empty() => {
                format!("{llm}: {} ({detail})", out.word())
            }
            NotAnswered::Unavailable(_) | NotAnswered::Failed(_) => {
                format!("{llm}: {}", out.word())
            }
        });
        f.write_str(&each.collect::<Vec<_>>().join("; "))
    }
}

/// One call to an LLM. A call of the agent makes several if it is repeated or moves on to a backup.
#[derive(Debug, Clone)]
pub struct CallRecord {
    pub llm: LlmName,
    pub class: CallClass,
    /// The provider's HTTP status; None if no answer came.
    pub status: Option<u16>,
    /// For people: the provider's message, or the error.
    pub message: String,
    /// `stop`, `length`, `content_filter`, … as the provider sent it.
    pub finish_reason: Option<String>,
    /// True if the answer contained neither text nor tool calls.
    pub empty: bool,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    /// The provider gave no usage; the numbers are upper estimates.
    pub estimated: bool,
    pub cost: MicroUsd,
    /// The provider counted far fewer tokens than the prompt has: it has cut the prompt.
    pub prompt_cut: bool,
    /// The time from the decision for this LLM to the end of the answer. It includes the wait for a
    /// free place.
    pub duration: Duration,
}

impl CallRecord {
    /// Whether the answer asked for a tool, so that the agent was to go on.
    pub fn asks_for_a_tool(&self) -> bool {
        Ending::of(self.finish_reason.as_deref()) == Ending::ToolCall
    }
}

/// All calls of one run, in the order in which they ended.
#[derive(Debug, Clone, Default)]
pub struct RunRecord {
    pub calls: Vec<CallRecord>,
    /// The agent's calls that have not ended yet.
    pub open_calls: usize,
    /// Set if the agent's newest call found no LLM.
    pub no_llm_left: Option<NoLlmLeft>,
}

impl RunRecord {
    pub fn last(&self) -> Option<&CallRecord> {
        self.calls.last()
    }

    /// The last call of each LLM, if its answer was cut off.
    pub fn cut_answers(&self) -> impl Iterator<Item = &CallRecord> {
        let calls = self.calls.iter().enumerate();
        calls.filter_map(|(index, call)| {
            let later = &self.calls[index + 1..];
            let is_last = later.iter().all(|later| later.llm != call.llm);
            (is_last && matches!(call.class, CallClass::Cut(_))).then_some(call)
        })
    }

    /// The newest answer to a prompt that the provider has cut.
    pub fn cut_prompt(&self) -> Option<&CallRecord> {
        self.calls.iter().rfind(|call| call.prompt_cut)
    }

    /// The newest complete answer.
    pub fn last_answer(&self) -> Option<&CallRecord> {
        self.calls
            .iter()
            .rev()
            .find(|call| call.class == CallClass::Ok)
    }
}

/// The duration of the calls, of one run or of several.
pub fn llm_time(calls: &[CallRecord]) -> Duration {
    calls.iter().map(|call| call.duration).sum()
}

/// The usage of the calls, of one run or of several. The LLMs are in the order of their first call.
pub fn usage<'a>(calls: impl IntoIterator<Item = &'a CallRecord>) -> Usage {
    calls
        .into_iter()
        .fold(Usage::default(), |sum, call| sum.and(&of_one(call)))
}

fn of_one(call: &CallRecord) -> Usage {
    let of_llm = LlmUsage {
        llm: call.llm.clone(),
        calls: 1,
        failed_calls: u64::from(call.class != CallClass::Ok),
        input_tokens: call.input_tokens,
        cached_input_tokens: call.cached_input_tokens,
        output_tokens: call.output_tokens,
        cost_usd: call.cost,
    };
    Usage {
        calls: of_llm.calls,
        failed_calls: of_llm.failed_calls,
        input_tokens: of_llm.input_tokens,
        cached_input_tokens: of_llm.cached_input_tokens,
        output_tokens: of_llm.output_tokens,
        cost_usd: of_llm.cost_usd,
        estimated: call.estimated,
        by_llm: vec![of_llm],
    }
}
