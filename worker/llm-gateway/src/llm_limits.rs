//! The limits that each LLM is known to take, from the pool file or from its refusals. Each worker
//! process has one copy and starts with the pool file's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pool_core::id::LlmName;
use pool_core::pool::{LlmSettings, OutputLimitField};

use super::lesson::Lesson;
use super::pricing::{Demand, MIN_OUTPUT_TOKENS};

/// The limits of one LLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LlmLimits {
    /// The most output tokens that it takes as a limit.
    max_output: Option<u64>,
    /// The tokens that prompt and limit may have together.
    context: Option<u64>,
    pub(super) field: Option<OutputLimitField>,
    /// The room for the output beside one call's prompt, according to a refusal of that call.
    room: Option<u64>,
}

impl LlmLimits {
    /// These limits with the lesson of a refusal. None if the lesson is not new, so that asking
    /// again is useless.
    pub(super) fn with_lesson(mut self, lesson: Lesson, demand: Demand) -> Option<Self> {
        let before = self;
        match lesson {
            Lesson::MaxOutput(most) => self.max_output = Some(most),
            Lesson::Field(field) => self.field = Some(field),
            Lesson::Context { length, prompt } => {
                let room = length.saturating_sub(prompt.unwrap_or(demand.input));
                self.room = Some(room).filter(|room| *room >= MIN_OUTPUT_TOKENS);
                self.room?;
                self.context = Some(length);
            }
        }
        (self != before).then_some(self)
    }

    /// The highest output limit that the LLM accepts for this call.
    pub(super) fn most_output(self, demand: Demand) -> Option<u64> {
        // Uses the likely size of the prompt: the upper estimate would cut answers that fit.
        let beside = self
            .context
            .map(|length| length.saturating_sub(demand.likely_input));
        let beside = beside.filter(|room| *room >= MIN_OUTPUT_TOKENS);
        [self.max_output, beside, self.room]
            .into_iter()
            .flatten()
            .min()
    }
}

#[derive(Default)]
pub(super) struct LearnedLimits {
    by_llm: Mutex<BTreeMap<LlmName, LlmLimits>>,
}

impl LearnedLimits {
    pub(super) fn from_file(llms: &BTreeMap<LlmName, LlmSettings>) -> Self {
        let limits = |settings: &LlmSettings| LlmLimits {
            max_output: settings.max_output,
            ..LlmLimits::default()
        };
        Self {
            by_llm: Mutex::new(
                llms.iter()
                    .map(|(llm, settings)| (llm.clone(), limits(settings)))
                    .collect(),
            ),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LlmName, LlmLimits>> {
        self.by_llm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn of(&self, llm: &LlmName) -> LlmLimits {
        self.lock().get(llm).copied().unwrap_or_default()
    }

    /// Keeps limits that led to an answer. The room beside the prompt holds for that call only.
    pub(super) fn keep(&self, llm: &LlmName, limits: LlmLimits) {
        let limits = LlmLimits {
            room: None,
            ..limits
        };
        self.lock().insert(llm.clone(), limits);
    }
}
