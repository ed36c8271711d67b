//! Breakers: which LLMs are not called for now, and who finds out when they are back.
//!
//! A breaker is *closed* when calls pass, *open* when none does, *half-open* while one programmer probes. It belongs to
//! an LLM where it is served, and to a [`Scope`]: failures at several programmers open it for all, failures at one shut
//! only its own use. A failing host shuts only itself: what is shut already in a narrower scope counts once in a wider.

mod evidence;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evidence::{Failure, Llm, Spread, until};

use super::{Refusal, Verdict};
use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use crate::llm::{Fault, LlmKey, Scope};
use crate::rules::{BreakerRules, Rules};
use crate::time::Timestamp;

/// After a breaker has closed, programmers return in steps of so long, twice as many in each: 1, 2, 4, 8, …
const STEP: Duration = Duration::from_secs(2);
/// By then everybody has come back, however many there are.
const RETURNED_AFTER: Duration = Duration::from_secs(30);
/// Failures of one LLM that are remembered.
const MAX_FAILURES: usize = 500;

/// Who is asking: a programmer, where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub programmer: ProgrammerId,
    pub host: String,
}

impl Caller {
    /// Whether breakers of this scope hold its calls back.
    pub fn is_within(&self, scope: &Scope) -> bool {
        scopes(self).contains(scope)
    }
}

/// One breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Counts its openings and closings.
    pub epoch: u64,
    pub state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Calls pass. `by` has probed it last, and is the first to come back.
    Closed {
        since: Timestamp,
        by: ProgrammerId,
    },
    Open {
        outage: Outage,
        until: Timestamp,
    },
    HalfOpen {
        outage: Outage,
        lease: Lease,
    },
}

/// Why and since when an LLM is not called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    pub since: Timestamp,
    /// Of the last failure.
    pub fault: Fault,
    /// How many failures opened the breaker; failed probes are added.
    pub failures: u32,
}

/// The right to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub probe: AttemptId,
    pub programmer: ProgrammerId,
    pub until: Timestamp,
}

/// Why a programmer may not call an LLM now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    pub scope: Scope,
    /// None: the breaker has closed, and it is not this programmer's turn to come back yet.
    pub outage: Option<Outage>,
    /// When the next probe is due, or its turn comes.
    pub until: Timestamp,
}

/// A failed call as the log tells it.
#[derive(Debug, Clone)]
pub(super) struct Failed<'a> {
    pub(super) key: &'a LlmKey,
    pub(super) caller: Caller,
    pub(super) task: &'a TaskId,
    pub(super) fault: Fault,
    pub(super) epoch: u64,
    pub(super) retry_after_ms: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct Breakers {
    rules: Option<BreakerRules>,
    llms_of: BTreeMap<ProgrammerId, Vec<LlmName>>,
    /// Where each programmer was up last.
    hosts: BTreeMap<ProgrammerId, String>,
    llms: BTreeMap<LlmKey, Llm>,
}

impl Breakers {
    /// All breakers that have ever opened.
    pub fn all(&self) -> impl Iterator<Item = (&LlmKey, &Scope, &Breaker)> {
        self.llms.iter().flat_map(|(key, llm)| llm.breakers.iter().map(move |(scope, breaker)| (key, scope, breaker)))
    }

    /// Where a programmer was up last.
    pub fn host_of(&self, programmer: &ProgrammerId) -> Option<&str> {
        self.hosts.get(programmer).map(String::as_str)
    }

    /// Failures within the window that count against this programmer's use of the LLM.
    pub fn failures(&self, key: &LlmKey, programmer: &ProgrammerId) -> u32 {
        let Some(llm) = self.llms.get(key) else { return 0 };
        let own = llm.failures.iter().filter(|failure| failure.caller.programmer == *programmer).count();
        u32::try_from(own).unwrap_or(u32::MAX)
    }

    /// The epoch that a call carries: it changes with every opening and closing that concerns the caller.
    pub fn epoch(&self, key: &LlmKey, caller: &Caller) -> u64 {
        let Some(llm) = self.llms.get(key) else { return 0 };
        scopes(caller).iter().filter_map(|scope| llm.breakers.get(scope)).map(|breaker| breaker.epoch).sum()
    }

    /// Whether the caller may call this LLM at `now`.
    ///
    /// # Errors
    /// [`Shut`]: the widest breaker that forbids it.
    pub fn check(&self, key: &LlmKey, caller: &Caller, now: Timestamp) -> Result<(), Shut> {
        let Some(llm) = self.llms.get(key).filter(|_| self.rules.is_some()) else { return Ok(()) };
        for scope in scopes(caller) {
            let Some(breaker) = llm.breakers.get(&scope) else { continue };
            let shut = match &breaker.state {
                State::Open { outage, until } => Some((Some(outage), *until)),
                State::HalfOpen { outage, lease } => Some((Some(outage), lease.until)),
                State::Closed { since, .. } if now >= since.plus(RETURNED_AFTER) => None,
                State::Closed { since, by } => {
                    let turn = since.plus(self.turn(key, (&scope, by), caller));
                    (now < turn).then_some((None, turn))
                }
            };
            if let Some((outage, until)) = shut {
                return Err(Shut { scope, outage: outage.cloned(), until });
            }
        }
        Ok(())
    }

    /// How long after the closing the caller comes back: who has probed first, then twice as many with each step.
    fn turn(&self, key: &LlmKey, (scope, by): (&Scope, &ProgrammerId), caller: &Caller) -> Duration {
        let users: Vec<ProgrammerId> = self.users(key).into_iter().filter(|user| self.is_in(scope, user)).collect();
        let place = |id: &ProgrammerId| users.iter().position(|user| user == id).unwrap_or(0);
        let rank = (users.len() + place(&caller.programmer) - place(by)) % users.len().max(1);
        (STEP * (rank + 1).ilog2()).min(RETURNED_AFTER)
    }

    /// The programmers that have this LLM among theirs, where it is.
    fn users(&self, key: &LlmKey) -> BTreeSet<ProgrammerId> {
        let has_it = |(id, llms): &(&ProgrammerId, &Vec<LlmName>)| {
            llms.contains(&key.llm) && key.host.as_ref().is_none_or(|host| self.hosts.get(*id) == Some(host))
        };
        self.llms_of.iter().filter(has_it).map(|(id, _)| id.clone()).collect()
    }

    fn is_in(&self, scope: &Scope, programmer: &ProgrammerId) -> bool {
        match scope {
            Scope::Pool => true,
            Scope::Host(host) => self.hosts.get(programmer) == Some(host),
            Scope::Programmer(id) => id == programmer,
        }
    }

    /// Breakers that want to be probed at `now`.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = (&LlmKey, &Scope)> {
        self.all().filter(move |(.., breaker)| is_due(breaker, now)).map(|(key, scope, _)| (key, scope))
    }

    /// The probe that holds the lease of this breaker.
    pub(super) fn probe_of(&self, key: &LlmKey, scope: &Scope) -> Option<AttemptId> {
        match &self.llms.get(key)?.breakers.get(scope)?.state {
            State::HalfOpen { lease, .. } => Some(lease.probe),
            State::Closed { .. } | State::Open { .. } => None,
        }
    }

    pub(super) fn configure(&mut self, rules: &Rules) {
        self.rules = rules.breaker.clone();
        self.llms_of = rules.programmers.iter().map(|(id, rules)| (id.clone(), rules.llms.clone())).collect();
        if self.rules.is_none() {
            self.llms.clear();
        }
    }

    pub(super) fn up(&mut self, programmer: &ProgrammerId, host: &str) {
        self.hosts.insert(programmer.clone(), host.to_owned());
    }

    pub(super) fn failed(&mut self, failed: &Failed<'_>, now: Timestamp) -> Verdict {
        let Some(rules) = self.rules.clone() else { return Verdict::Accepted };
        if self.epoch(failed.key, &failed.caller) != failed.epoch {
            return Verdict::Refused(Refusal::OldEpoch);
        }
        let users = self.users(failed.key);
        let hosts: BTreeSet<&String> = users.iter().filter_map(|user| self.hosts.get(user)).collect();
        let spread = Spread { users: users.len(), hosts: hosts.len(), for_itself: rules.for_itself };
        let llm = self.llms.entry(failed.key.clone()).or_default();
        let oldest = Timestamp(now.0.saturating_sub(rules.window_ms));
        llm.failures.retain(|failure| failure.at > oldest);
        // One poisonous task proves nothing by failing again and again.
        let counted =
            |failure: &Failure| failure.task == *failed.task && failure.caller.programmer == failed.caller.programmer;
        if llm.failures.iter().any(counted) {
            return Verdict::Accepted;
        }
        if llm.failures.len() == MAX_FAILURES {
            llm.failures.pop_front();
        }
        let (task, caller) = (failed.task.clone(), failed.caller.clone());
        llm.failures.push_back(Failure { at: now, task, caller, fault: failed.fault });
        llm.open_what_failed(failed, &rules, &spread, now);
        Verdict::Accepted
    }

    pub(super) fn probing(
        &mut self,
        (key, scope): (&LlmKey, &Scope),
        (programmer, probe): (&ProgrammerId, AttemptId),
        now: Timestamp,
    ) -> Verdict {
        let lease_ms = self.rules.as_ref().map_or(0, |rules| rules.lease_ms);
        let mine = self.is_in(scope, programmer);
        let Some(breaker) = self.breaker(key, scope).filter(|breaker| mine && is_due(breaker, now)) else {
            return Verdict::Refused(Refusal::NotDue);
        };
        if let State::Open { outage, .. } | State::HalfOpen { outage, .. } = &breaker.state {
            let until = now.plus(Duration::from_millis(lease_ms));
            let lease = Lease { probe, programmer: programmer.clone(), until };
            breaker.state = State::HalfOpen { outage: outage.clone(), lease };
        }
        Verdict::Accepted
    }

    pub(super) fn probed(
        &mut self,
        (key, scope): (&LlmKey, &Scope),
        probe: AttemptId,
        (fault, retry_after_ms): (Option<Fault>, Option<u64>),
        now: Timestamp,
    ) -> Verdict {
        let Some(rules) = self.rules.clone() else { return Verdict::Refused(Refusal::NotDue) };
        let held =
            |breaker: &&mut Breaker| matches!(&breaker.state, State::HalfOpen { lease, .. } if lease.probe == probe);
        let Some(breaker) = self.breaker(key, scope).filter(held) else { return Verdict::Refused(Refusal::NotDue) };
        let State::HalfOpen { outage, lease } = &breaker.state else { return Verdict::Refused(Refusal::NotDue) };
        breaker.state = match fault {
            Some(fault) => {
                let outage = Outage { fault, failures: outage.failures.saturating_add(1), ..outage.clone() };
                State::Open { outage, until: until(now, &rules, fault, retry_after_ms) }
            }
            None => State::Closed { since: now, by: lease.programmer.clone() },
        };
        if fault.is_none() {
            breaker.epoch += 1;
            self.forget_failures(key, scope);
        }
        Verdict::Accepted
    }

    /// What was before the outage does not count after it.
    fn forget_failures(&mut self, key: &LlmKey, scope: &Scope) {
        if let Some(llm) = self.llms.get_mut(key) {
            llm.failures.retain(|failure| match scope {
                Scope::Pool => false,
                Scope::Host(host) => failure.caller.host != *host,
                Scope::Programmer(id) => failure.caller.programmer != *id,
            });
        }
    }

    fn breaker(&mut self, key: &LlmKey, scope: &Scope) -> Option<&mut Breaker> {
        self.llms.get_mut(key)?.breakers.get_mut(scope)
    }
}

/// From the widest to the narrowest.
fn scopes(caller: &Caller) -> [Scope; 3] {
    [Scope::Pool, Scope::Host(caller.host.clone()), Scope::Programmer(caller.programmer.clone())]
}

fn is_due(breaker: &Breaker, now: Timestamp) -> bool {
    match &breaker.state {
        State::Closed { .. } => false,
        State::Open { until, .. } => now >= *until,
        State::HalfOpen { lease, .. } => now >= lease.until,
    }
}
