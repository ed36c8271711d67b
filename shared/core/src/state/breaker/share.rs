//! The share of an LLM's calls that fail. Three slow calls among fifty good ones are not an outage.
//!
//! The log has every failure. It has answered calls only while something is wrong (`llm_answered`). A breaker looks at the
//! calls that ended since its last `threshold` failures began. An LLM that answered for an hour and then died has no good
//! calls in that time, so its breaker opens without delay.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Breakers, Caller, window_start};
use crate::event::LlmAnswered;
use crate::llm::{LlmKey, Scope};
use crate::state::Verdict;
use crate::time::Timestamp;

/// The number of answered calls that are remembered for one LLM.
const MAX_ANSWERS: usize = 2000;
/// How long processes report their answered calls after one of them has asked. By then the call in trouble has ended.
const ASKED_FOR: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct AnsweredCalls {
    /// When each call ended, and its caller.
    ended: VecDeque<(Timestamp, Caller)>,
    asked: Option<Timestamp>,
}

impl AnsweredCalls {
    fn add(&mut self, answered: &LlmAnswered, now: Timestamp) {
        for (programmer, ages) in &answered.ended {
            let caller = Caller {
                programmer: programmer.clone(),
                host: answered.host.clone(),
            };
            self.ended.extend(
                ages.iter()
                    .map(|age| (Timestamp(now.0.saturating_sub(*age)), caller.clone())),
            );
        }
        let surplus = self.ended.len().saturating_sub(MAX_ANSWERS);
        self.ended.drain(..surplus);
        if answered.asks {
            self.asked = Some(now);
        }
    }

    pub(super) fn forget_before(&mut self, oldest: Timestamp) {
        self.ended.retain(|(at, _)| *at > oldest);
    }

    /// When a process asked for reports, if that was within [`ASKED_FOR`].
    pub(super) fn asked(&self, now: Timestamp) -> Option<Timestamp> {
        self.asked.filter(|asked| now.since(*asked) < ASKED_FOR)
    }

    pub(super) fn since(&self, began: Timestamp, scope: &Scope) -> usize {
        self.ended
            .iter()
            .filter(|(at, caller)| *at >= began && caller.is_within(scope))
            .count()
    }
}

impl Breakers {
    /// When the newest sign of trouble with this LLM appeared: a failure within the window, or a request for reports. None:
    /// processes need not report answered calls.
    pub fn in_doubt(&self, key: &LlmKey, now: Timestamp) -> Option<Timestamp> {
        let rules = self
            .rules
            .as_ref()
            .filter(|rules| rules.failed_of_1000 > 0)?;
        let llm = self.llms.get(key)?;
        let failed = llm
            .failures
            .back()
            .map(|failure| failure.at)
            .filter(|at| *at > window_start(rules, now));
        failed.max(llm.answers.asked(now))
    }

    /// Records answered calls; `asks`: the process asks the others for reports of theirs.
    pub(in crate::state) fn answered(&mut self, answered: &LlmAnswered, now: Timestamp) -> Verdict {
        if let Some(rules) = &self.rules {
            let llm = self.llms.entry(answered.key.clone()).or_default();
            llm.forget_before(window_start(rules, now));
            llm.answers.add(answered, now);
        }
        Verdict::Accepted
    }
}
