//! When a breaker opens: what the failures of one LLM prove, and in which scope.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::share::AnsweredCalls;
use super::{Breaker, Caller, Outage, State};
use crate::event::LlmFailed;
use crate::id::{ProgrammerId, TaskId};
use crate::llm::{Dialect, Fault, Scope};
use crate::rules::BreakerRules;
use crate::time::Timestamp;

/// The longest `Retry-After` that is obeyed: one hour.
const MAX_RETRY_AFTER_MS: u64 = 60 * 60 * 1000;
/// A bad key is probed after this many cooldowns, because waiting does not mend it.
const AUTH_COOLDOWNS: u64 = 6;
/// The number of tasks that are remembered for one LLM because it refuses their requests.
const MAX_REFUSED: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PastFailure {
    pub(super) began: Timestamp,
    pub(super) at: Timestamp,
    pub(super) task: TaskId,
    pub(super) caller: Caller,
    pub(super) fault: Fault,
    pub(super) dialect: Option<Dialect>,
    /// The provider refused the key or only this request; a probe decides.
    pub(super) unproven: bool,
}

impl PastFailure {
    pub(super) fn new(failed: &LlmFailed, now: Timestamp) -> Self {
        Self {
            began: Timestamp(now.0.saturating_sub(failed.call.took_ms)),
            at: now,
            task: failed.task.clone(),
            caller: Caller::of(failed),
            fault: failed.fault,
            dialect: failed.call.dialect,
            unproven: failed.call.unproven && failed.fault == Fault::Auth,
        }
    }
}

/// A task whose requests an LLM refuses although the key of this host is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefusedTask {
    pub(super) task: TaskId,
    pub(super) host: String,
    at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Llm {
    /// Oldest first, within the window.
    pub(super) failures: VecDeque<PastFailure>,
    pub(super) answers: AnsweredCalls,
    pub(super) refused: VecDeque<RefusedTask>,
    pub(super) breakers: BTreeMap<Scope, Breaker>,
}

/// The failure, or the refused probe, after which breakers may open.
pub(super) struct Trigger<'a> {
    pub(super) caller: &'a Caller,
    pub(super) fault: Fault,
    pub(super) retry_after_ms: Option<u64>,
    pub(super) spread: Spread,
    pub(super) rules: &'a BreakerRules,
    pub(super) now: Timestamp,
}

/// How widely an LLM is used. The more programmers and hosts use it, the more of them must fail to open a wider breaker.
pub(super) struct Spread {
    pub(super) users: usize,
    pub(super) hosts: usize,
}

impl Llm {
    /// Whether the share of failures reaches the one of the rules, among the calls within this scope that ended since the
    /// last `threshold` failures began.
    fn most_have_failed(&self, scope: &Scope, rules: &BreakerRules, threshold: usize) -> bool {
        let inside: Vec<&PastFailure> = self.inside(scope).collect();
        let last = &inside[inside.len().saturating_sub(threshold)..];
        let Some(began) = last.iter().map(|failure| failure.began).min() else {
            return false;
        };
        let failed = inside.iter().filter(|failure| failure.at >= began).count();
        let all = failed + self.answers.since(began, scope);
        failed * 1000 >= all * usize::from(rules.failed_of_1000)
    }

    /// The failures within a scope, oldest first.
    fn inside(&self, scope: &Scope) -> impl Iterator<Item = &PastFailure> {
        let inside = |failure: &&PastFailure| failure.caller.is_within(scope);
        self.failures.iter().filter(inside)
    }

    /// Drops everything that is older than the window.
    pub(super) fn forget_before(&mut self, oldest: Timestamp) {
        self.failures.retain(|failure| failure.at > oldest);
        self.refused.retain(|refused| refused.at > oldest);
        self.answers.forget_before(oldest);
    }

    pub(super) fn acquit(&mut self, scope: &Scope, prober: &Caller, now: Timestamp) {
        let unproven =
            |failure: &&PastFailure| failure.unproven && failure.caller.host == prober.host;
        let refused = self.inside(scope).filter(unproven);
        let refused: Vec<RefusedTask> = refused
            .map(|failure| RefusedTask {
                task: failure.task.clone(),
                host: prober.host.clone(),
                at: now,
            })
            .collect();
        self.refused.extend(refused);
        let surplus = self.refused.len().saturating_sub(MAX_REFUSED);
        self.refused.drain(..surplus);
        self.failures
            .retain(|failure| !failure.caller.is_within(scope));
    }

    pub(super) fn convict(&mut self, scope: &Scope) {
        let inside = self
            .failures
            .iter_mut()
            .filter(|failure| failure.caller.is_within(scope));
        inside.for_each(|failure| failure.unproven = false);
    }

    /// Opens the breakers of the scopes in which the failures are enough.
    pub(super) fn open_what_failed(&mut self, trigger: &Trigger<'_>) {
        let Caller { programmer, host } = trigger.caller;
        let Spread { users, hosts } = trigger.spread;
        self.open_if(Scope::Programmer(programmer.clone()), trigger);
        if trigger.rules.for_itself || users < 2 {
            return;
        }
        if hosts >= 2 {
            self.open_if(Scope::Host(host.clone()), trigger);
        }
        let of_host = self.failures.iter().map(|failure| &failure.caller.host);
        if of_host.collect::<BTreeSet<_>>().len() >= hosts.min(2) {
            self.open_if(Scope::Pool, trigger);
        }
    }

    /// Opens the breaker of this scope when the failures within it are enough.
    fn open_if(&mut self, scope: Scope, trigger: &Trigger<'_>) {
        let (rules, now) = (trigger.rules, trigger.now);
        let threshold = usize::try_from(rules.threshold).unwrap_or(usize::MAX);
        if self.is_open(&scope) {
            return;
        }
        let evidence = self.evidence(&scope);
        let (wanted_sources, wanted_voices) = match scope {
            Scope::Programmer(_) => (1, threshold),
            // With fewer programmers than the threshold, the voices of all of them are enough.
            Scope::Host(_) | Scope::Pool => (2, threshold.min(trigger.spread.users)),
        };
        let enough = evidence.failures >= threshold
            && evidence.voices.len() >= wanted_voices
            && evidence.tasks.len() >= wanted_sources
            && evidence.sources.len() >= wanted_sources
            && self.most_have_failed(&scope, rules, threshold);
        let until = match evidence.key(wanted_sources) {
            // A refused key will be refused again: no more evidence is needed.
            KeyState::Refused => until(now, rules, true, trigger.retry_after_ms),
            // It is probed immediately, before the next call.
            KeyState::Doubtful => now,
            KeyState::Good if enough => until(now, rules, false, trigger.retry_after_ms),
            KeyState::Good => return,
        };
        let outage = Outage {
            since: now,
            fault: trigger.fault,
            dialects: self.dialects(&scope),
            failures: u32::try_from(evidence.failures).unwrap_or(u32::MAX),
        };
        let state = State::Open { outage, until };
        self.close_narrower(&scope, &trigger.caller.programmer, now);
        let epoch = self.breakers.get(&scope).map_or(0, |breaker| breaker.epoch) + 1;
        self.breakers.insert(scope, Breaker { epoch, state });
    }

    /// The dialects of the failed calls within this scope: the most frequent first; of equally frequent ones the one that
    /// failed last.
    fn dialects(&self, scope: &Scope) -> Vec<Dialect> {
        let mut counts: BTreeMap<Dialect, (usize, Timestamp)> = BTreeMap::new();
        for failure in self.inside(scope) {
            if let Some(dialect) = failure.dialect {
                let (count, newest) = counts.entry(dialect).or_default();
                (*count, *newest) = (*count + 1, failure.at);
            }
        }
        let mut dialects: Vec<Dialect> = counts.keys().copied().collect();
        dialects.sort_by_key(|dialect| std::cmp::Reverse(counts.get(dialect).copied()));
        dialects
    }

    /// Closes the breakers of narrower scopes, because the wider breaker replaces them: one probe instead of one for each.
    fn close_narrower(&mut self, wider: &Scope, by: &ProgrammerId, now: Timestamp) {
        let on_host: BTreeSet<&ProgrammerId> = match wider {
            Scope::Host(host) => {
                let there = self
                    .failures
                    .iter()
                    .filter(|failure| failure.caller.host == *host);
                there.map(|failure| &failure.caller.programmer).collect()
            }
            Scope::Pool | Scope::Programmer(_) => BTreeSet::new(),
        };
        for (scope, breaker) in &mut self.breakers {
            let narrower = match (wider, scope) {
                (Scope::Pool, Scope::Host(_) | Scope::Programmer(_)) => true,
                (Scope::Host(_), Scope::Programmer(id)) => on_host.contains(id),
                (Scope::Pool | Scope::Host(_) | Scope::Programmer(_), _) => false,
            };
            let open = !matches!(breaker.state, State::Closed { .. });
            if narrower && open {
                *breaker = Breaker {
                    epoch: breaker.epoch + 1,
                    state: State::Closed {
                        since: now,
                        by: by.clone(),
                    },
                };
            }
        }
    }

    fn is_open(&self, scope: &Scope) -> bool {
        self.breakers
            .get(scope)
            .is_some_and(|breaker| match breaker.state {
                State::Open { .. } | State::HalfOpen { .. } => true,
                State::Closed { .. } => false,
            })
    }

    /// Weighs the failures within a scope. All failures behind an open narrower breaker have one voice together, because a
    /// programmer or a host that fails at everything proves nothing about the others.
    fn evidence(&self, scope: &Scope) -> Evidence<'_> {
        let mut evidence = Evidence::default();
        for (index, failure) in self.inside(scope).enumerate() {
            let Caller { programmer, host } = &failure.caller;
            let by_host = Scope::Host(host.clone());
            let by_programmer = Scope::Programmer(programmer.clone());
            let voice = if *scope == Scope::Pool && self.is_open(&by_host) {
                (format!("host {host}"), None)
            } else if *scope != by_programmer && self.is_open(&by_programmer) {
                (programmer.to_string(), None)
            } else {
                (programmer.to_string(), Some(index))
            };
            evidence.failures += 1;
            evidence.voices.insert(voice);
            evidence.sources.insert(programmer);
            evidence.tasks.insert(&failure.task);
            if failure.fault == Fault::Auth {
                evidence.auth_sources.insert(programmer);
                evidence.auth_tasks.insert(&failure.task);
                evidence.auth_proven |= !failure.unproven;
            }
        }
        evidence
    }
}

#[derive(Default)]
struct Evidence<'a> {
    failures: usize,
    /// See [`Llm::evidence`].
    voices: BTreeSet<(String, Option<usize>)>,
    /// Programmers with a failure.
    sources: BTreeSet<&'a ProgrammerId>,
    /// Tasks with a failure.
    tasks: BTreeSet<&'a TaskId>,
    /// Programmers whose key was refused.
    auth_sources: BTreeSet<&'a ProgrammerId>,
    /// Tasks with a refused call.
    auth_tasks: BTreeSet<&'a TaskId>,
    /// A probe has confirmed that the key is bad, or a refusal leaves no doubt.
    auth_proven: bool,
}

/// The state of the key, by the evidence.
enum KeyState {
    Good,
    /// The provider refused either the key or the prompts of these tasks.
    Doubtful,
    Refused,
}

impl Evidence<'_> {
    fn key(&self, wanted_sources: usize) -> KeyState {
        if self.auth_sources.len() < wanted_sources {
            KeyState::Good
        } else if self.auth_proven {
            KeyState::Refused
        } else if self.auth_tasks.len() >= wanted_sources {
            KeyState::Doubtful
        } else {
            KeyState::Good
        }
    }
}

/// When an LLM that has failed now is probed. `auth`: its key is bad.
pub(super) fn until(
    now: Timestamp,
    rules: &BreakerRules,
    auth: bool,
    retry_after_ms: Option<u64>,
) -> Timestamp {
    let cooldown = if auth {
        rules.cooldown_ms.saturating_mul(AUTH_COOLDOWNS)
    } else {
        rules.cooldown_ms
    };
    let wait = retry_after_ms.map_or(cooldown, |wait| wait.clamp(1000, MAX_RETRY_AFTER_MS));
    now.plus(Duration::from_millis(wait))
}
