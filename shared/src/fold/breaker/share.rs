//! Which share of an LLM's calls fails. A few slow calls among many good ones are no outage.
//!
//! The log tells of failures at once, and of calls that were answered when something is wrong (`llm_answered`). What counts
//! is what ended since the failures that are looked at began: an LLM that answered for an hour and then died has no good
//! calls in that time, so its past does not speak for it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Caller;
use super::evidence::{Failure, Llm};
use crate::id::ProgrammerId;
use crate::llm::Scope;
use crate::rules::BreakerRules;
use crate::time::Timestamp;

/// Answered calls of one LLM that are remembered.
const MAX_ANSWERS: usize = 2000;
/// So long others tell of their calls when a call is in trouble; then it has failed, or not.
const ASKED_FOR: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answers {
    /// When they ended, and whose they were.
    ended: VecDeque<(Timestamp, Caller)>,
    asked: Option<Timestamp>,
}

impl Answers {
    pub(super) fn add(&mut self, host: &str, ended: &BTreeMap<ProgrammerId, Vec<u64>>, asks: bool, now: Timestamp) {
        for (programmer, ages) in ended {
            let caller = Caller { programmer: programmer.clone(), host: host.to_owned() };
            self.ended.extend(ages.iter().map(|age| (Timestamp(now.0.saturating_sub(*age)), caller.clone())));
        }
        let surplus = self.ended.len().saturating_sub(MAX_ANSWERS);
        self.ended.drain(..surplus);
        if asks {
            self.asked = Some(now);
        }
    }

    pub(super) fn forget_before(&mut self, oldest: Timestamp) {
        self.ended.retain(|(at, _)| *at > oldest);
    }

    /// When somebody has asked for them, if that was not long ago.
    pub(super) fn asked(&self, now: Timestamp) -> Option<Timestamp> {
        self.asked.filter(|asked| now.since(*asked) < ASKED_FOR)
    }

    fn since(&self, began: Timestamp, scope: &Scope) -> usize {
        self.ended.iter().filter(|(at, caller)| *at >= began && caller.is_within(scope)).count()
    }
}

impl Llm {
    /// Whether at least the share of the rules failed, of the calls within this scope that ended since the last
    /// `threshold` failures began.
    pub(super) fn most_have_failed(&self, scope: &Scope, rules: &BreakerRules, threshold: usize) -> bool {
        let inside: Vec<&Failure> = self.failures.iter().filter(|failure| failure.caller.is_within(scope)).collect();
        let last = &inside[inside.len().saturating_sub(threshold)..];
        let Some(began) = last.iter().map(|failure| failure.began).min() else { return false };
        let failed = inside.iter().filter(|failure| failure.at >= began).count();
        let all = failed + self.answers.since(began, scope);
        failed * 1000 >= all * usize::from(rules.failed_of_1000)
    }
}
