//! When a breaker opens: what the failures of one LLM prove, and about whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Breaker, Caller, Failed, Outage, State};
use crate::id::{ProgrammerId, TaskId};
use crate::llm::{Fault, Scope};
use crate::rules::BreakerRules;
use crate::time::Timestamp;

/// No provider may shut its LLM for longer by Retry-After.
const MAX_RETRY_AFTER_MS: u64 = 60 * 60 * 1000;
/// A wrong key is not mended by waiting: it is probed after so many cooldowns.
const AUTH_COOLDOWNS: u64 = 6;
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) at: Timestamp,
    pub(super) task: TaskId,
    pub(super) caller: Caller,
    pub(super) fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Llm {
    /// Oldest first, within the window.
    pub(super) failures: VecDeque<Failure>,
    pub(super) breakers: BTreeMap<Scope, Breaker>,
}

/// Where an LLM is used: how much of it must fail before it is the LLM's fault.
pub(super) struct Spread {
    pub(super) users: usize,
    pub(super) hosts: usize,
    pub(super) for_itself: bool,
}

impl Llm {
    pub(super) fn open_what_failed(
        &mut self,
        failed: &Failed<'_>,
        rules: &BreakerRules,
        spread: &Spread,
        now: Timestamp,
    ) {
        let Caller { programmer, host } = &failed.caller;
        self.open_if(Scope::Programmer(programmer.clone()), failed, (rules, spread), now);
        if spread.for_itself || spread.users < 2 {
            return;
        }
        if spread.hosts >= 2 {
            self.open_if(Scope::Host(host.clone()), failed, (rules, spread), now);
        }
        let hosts: BTreeSet<&String> = self.failures.iter().map(|failure| &failure.caller.host).collect();
        if hosts.len() >= spread.hosts.min(2) {
            self.open_if(Scope::Pool, failed, (rules, spread), now);
        }
    }

    /// Opens the breaker of this scope when what failed within it is enough.
    fn open_if(
        &mut self,
        scope: Scope,
        failed: &Failed<'_>,
        (rules, spread): (&BreakerRules, &Spread),
        now: Timestamp,
    ) {
        let threshold = usize::try_from(rules.threshold).unwrap_or(usize::MAX);
        if self.is_open(&scope) {
            return;
        }
        let Evidence { failures, weight, sources, tasks, auth_sources } = self.evidence(&scope);
        let (wanted_sources, wanted_weight) = match scope {
            Scope::Programmer(_) => (1, threshold),
            // Few programmers have few voices: then all of them are enough.
            Scope::Host(_) | Scope::Pool => (2, threshold.min(spread.users)),
        };
        let enough = failures >= threshold && weight >= wanted_weight && tasks >= wanted_sources;
        // A key that is refused is refused again: no more evidence is needed.
        let refused = auth_sources >= wanted_sources;
        if sources < wanted_sources || !(enough || refused) {
            return;
        }
        let outage = Outage { since: now, fault: failed.fault, failures: u32::try_from(failures).unwrap_or(u32::MAX) };
        let state = State::Open { outage, until: until(now, rules, failed.fault, failed.retry_after_ms) };
        self.close_narrower(&scope, &failed.caller.programmer, now);
        let epoch = self.breakers.get(&scope).map_or(0, |breaker| breaker.epoch) + 1;
        self.breakers.insert(scope, Breaker { epoch, state });
    }

    /// The wider breaker speaks for them: one probe, not one for each.
    fn close_narrower(&mut self, wider: &Scope, by: &ProgrammerId, now: Timestamp) {
        let on_host: BTreeSet<&ProgrammerId> = match wider {
            Scope::Host(host) => {
                let there = self.failures.iter().filter(|failure| failure.caller.host == *host);
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
                *breaker = Breaker { epoch: breaker.epoch + 1, state: State::Closed { since: now, by: by.clone() } };
            }
        }
    }

    fn is_open(&self, scope: &Scope) -> bool {
        self.breakers.get(scope).is_some_and(|breaker| match breaker.state {
            State::Open { .. } | State::HalfOpen { .. } => true,
            State::Closed { .. } => false,
        })
    }

    /// Weighs the failures within a scope. Those behind a narrower breaker that is open have one voice together: a
    /// programmer or a host that fails at everything says nothing more about the others.
    fn evidence(&self, scope: &Scope) -> Evidence {
        let inside = |failure: &&Failure| match scope {
            Scope::Pool => true,
            Scope::Host(host) => failure.caller.host == *host,
            Scope::Programmer(id) => failure.caller.programmer == *id,
        };
        let mut failures = 0;
        let mut weighed: BTreeSet<(String, Option<usize>)> = BTreeSet::new();
        let (mut sources, mut tasks, mut auth) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (index, failure) in self.failures.iter().enumerate().filter(|(_, failure)| inside(failure)) {
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
            failures += 1;
            weighed.insert(voice);
            sources.insert(programmer);
            tasks.insert(&failure.task);
            if failure.fault == Fault::Auth {
                auth.insert(programmer);
            }
        }
        Evidence {
            failures,
            weight: weighed.len(),
            sources: sources.len(),
            tasks: tasks.len(),
            auth_sources: auth.len(),
        }
    }
}

struct Evidence {
    failures: usize,
    /// Voices: see [`Llm::evidence`].
    weight: usize,
    /// Programmers, tasks, and programmers whose key was refused.
    sources: usize,
    tasks: usize,
    auth_sources: usize,
}

pub(super) fn until(now: Timestamp, rules: &BreakerRules, fault: Fault, retry_after_ms: Option<u64>) -> Timestamp {
    let cooldown = match fault {
        Fault::Auth => rules.cooldown_ms.saturating_mul(AUTH_COOLDOWNS),
        Fault::RateLimited | Fault::Timeout | Fault::Unavailable | Fault::ModelUnavailable => rules.cooldown_ms,
    };
    let wait = retry_after_ms.map_or(cooldown, |wait| wait.clamp(1000, MAX_RETRY_AFTER_MS));
    now.plus(Duration::from_millis(wait))
}
