//! Breakers: which LLMs are not called now, and which programmer probes them.
//!
//! A breaker is *closed* when calls pass, *open* when none does, *half-open* while one programmer probes. It belongs to an
//! LLM at its address and to a [`Scope`]. Failures at several programmers open the breaker for all; failures at one
//! programmer open only its own. A failing host shuts only itself, because all failures behind an open narrower breaker
//! together count once in a wider scope.

mod evidence;
mod share;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evidence::{Llm, PastFailure, Spread, Trigger, until};
pub use state::{Breaker, Lease, Outage, Shut, State};

use super::{Refusal, Verdict};
use crate::event::{BreakerOrder, BreakerOrdered, LlmFailed, ProbeEnded, ProbeStarted};
use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use crate::llm::{Dialect, Fault, LlmKey, Scope};
use crate::rules::{BreakerRules, Rules};
use crate::time::Timestamp;

/// After a breaker has closed, programmers return in steps of this length, twice as many in each: 1, 2, 4, 8, …
const STEP: Duration = Duration::from_secs(2);
/// After this time all programmers have returned, however many there are.
const RETURNED_AFTER: Duration = Duration::from_secs(30);
/// The number of failures that are remembered for one LLM.
const MAX_FAILURES: usize = 500;

/// A programmer that calls an LLM, and where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The programmer.
    pub programmer: ProgrammerId,
    /// The name of its host.
    pub host: String,
}

impl Caller {
    /// The caller whose call has failed.
    fn of(failed: &LlmFailed) -> Self {
        Self {
            programmer: failed.programmer.clone(),
            host: failed.host.clone(),
        }
    }

    /// Whether a breaker of this scope governs its calls.
    pub fn is_within(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Pool => true,
            Scope::Host(host) => self.host == *host,
            Scope::Programmer(id) => self.programmer == *id,
        }
    }
}

/// All breakers, and the evidence about each LLM.
#[derive(Debug, Clone, Default)]
pub struct Breakers {
    rules: Option<BreakerRules>,
    llms_of: BTreeMap<ProgrammerId, Vec<LlmName>>,
    /// The host on which each programmer was last up.
    hosts: BTreeMap<ProgrammerId, String>,
    llms: BTreeMap<LlmKey, Llm>,
}

impl Breakers {
    /// All breakers that have ever opened.
    pub fn all(&self) -> impl Iterator<Item = (&LlmKey, &Scope, &Breaker)> {
        self.llms.iter().flat_map(|(key, llm)| {
            llm.breakers
                .iter()
                .map(move |(scope, breaker)| (key, scope, breaker))
        })
    }

    /// The programmer on the host where it was last up; the host is empty while it was never up.
    pub fn caller(&self, programmer: &ProgrammerId) -> Caller {
        Caller {
            programmer: programmer.clone(),
            host: self.hosts.get(programmer).cloned().unwrap_or_default(),
        }
    }

    /// The number of this programmer's failures that count against the LLM.
    pub fn failures(&self, key: &LlmKey, programmer: &ProgrammerId) -> u32 {
        let Some(llm) = self.llms.get(key) else {
            return 0;
        };
        let own = llm
            .failures
            .iter()
            .filter(|failure| failure.caller.programmer == *programmer)
            .count();
        u32::try_from(own).unwrap_or(u32::MAX)
    }

    /// The epoch that a call carries. It changes whenever a breaker that governs the caller opens or closes.
    pub fn epoch(&self, key: &LlmKey, caller: &Caller) -> u64 {
        let Some(llm) = self.llms.get(key) else {
            return 0;
        };
        scopes(caller)
            .iter()
            .filter_map(|scope| llm.breakers.get(scope))
            .map(|breaker| breaker.epoch)
            .sum()
    }

    /// Whether the caller may call this LLM at `now`.
    ///
    /// # Errors
    /// [`Shut`]: the widest breaker that forbids it.
    pub fn check(&self, key: &LlmKey, caller: &Caller, now: Timestamp) -> Result<(), Shut> {
        let Some(llm) = self.llms.get(key).filter(|_| self.rules.is_some()) else {
            return Ok(());
        };
        for scope in scopes(caller) {
            let Some(breaker) = llm.breakers.get(&scope) else {
                continue;
            };
            let shut = match &breaker.state {
                State::Open { outage, until } => Some((Some(outage), *until)),
                State::HalfOpen { outage, lease } => Some((Some(outage), lease.until)),
                State::Closed { since, .. } if now >= since.plus(RETURNED_AFTER) => None,
                State::Closed { since, by } => {
                    let turn = since.plus(self.turn(key, &scope, by, caller));
                    (now < turn).then_some((None, turn))
                }
            };
            if let Some((outage, until)) = shut {
                return Err(Shut {
                    scope,
                    outage: outage.cloned(),
                    until,
                });
            }
        }
        Ok(())
    }

    /// How long after the closing the caller may call the LLM again: first the programmer that probed, then twice as many
    /// programmers with each step.
    fn turn(&self, key: &LlmKey, scope: &Scope, by: &ProgrammerId, caller: &Caller) -> Duration {
        let users: Vec<ProgrammerId> = self
            .users(key)
            .into_iter()
            .filter(|user| self.caller(user).is_within(scope))
            .collect();
        let place = |id: &ProgrammerId| users.iter().position(|user| user == id).unwrap_or(0);
        let rank = (users.len() + place(&caller.programmer) - place(by)) % users.len().max(1);
        (STEP * (rank + 1).ilog2()).min(RETURNED_AFTER)
    }

    /// The programmers that may use this LLM at its address.
    fn users(&self, key: &LlmKey) -> BTreeSet<ProgrammerId> {
        let has_it = |(id, llms): &(&ProgrammerId, &Vec<LlmName>)| {
            llms.contains(&key.llm)
                && key
                    .host
                    .as_ref()
                    .is_none_or(|host| self.hosts.get(*id) == Some(host))
        };
        self.llms_of
            .iter()
            .filter(has_it)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// The breakers that may be probed at `now`, each with the dialect for the probe, if that is known.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = (&LlmKey, &Scope, Option<Dialect>)> {
        self.all()
            .filter(move |(.., breaker)| breaker.is_due(now))
            .map(|(key, scope, breaker)| {
                let outage = match &breaker.state {
                    State::Open { outage, .. } | State::HalfOpen { outage, .. } => Some(outage),
                    State::Closed { .. } => None,
                };
                (
                    key,
                    scope,
                    outage.and_then(|outage| outage.dialects.first().copied()),
                )
            })
    }

    /// Whether this LLM refuses the task's requests: it refused one from this host, and afterwards it answered a probe with
    /// the same key.
    pub fn refuses(&self, key: &LlmKey, host: &str, task: &TaskId) -> bool {
        let refused = |llm: &Llm| {
            llm.refused
                .iter()
                .any(|refused| refused.host == host && refused.task == *task)
        };
        self.llms.get(key).is_some_and(refused)
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
        self.llms_of = rules
            .programmers
            .iter()
            .map(|(id, rules)| (id.clone(), rules.llms.clone()))
            .collect();
        if self.rules.is_none() {
            self.llms.clear();
        }
    }

    pub(super) fn up(&mut self, programmer: &ProgrammerId, host: &str) {
        self.hosts.insert(programmer.clone(), host.to_owned());
    }

    pub(super) fn failed(&mut self, failed: &LlmFailed, now: Timestamp) -> Verdict {
        let Some(rules) = self.rules.clone() else {
            return Verdict::Accepted;
        };
        let caller = Caller::of(failed);
        if self.epoch(&failed.key, &caller) != failed.epoch {
            return Verdict::Refused(Refusal::OldEpoch);
        }
        let spread = self.spread(&failed.key);
        let llm = self.llms.entry(failed.key.clone()).or_default();
        llm.forget_before(window_start(&rules, now));
        // A task that makes every call fail is one piece of evidence, however often it fails.
        let counted = |failure: &PastFailure| {
            failure.task == failed.task && failure.caller.programmer == failed.programmer
        };
        if llm.failures.iter().any(counted) {
            return Verdict::Accepted;
        }
        if llm.failures.len() == MAX_FAILURES {
            llm.failures.pop_front();
        }
        llm.failures.push_back(PastFailure::new(failed, now));
        llm.open_what_failed(&Trigger {
            caller: &caller,
            fault: failed.fault,
            retry_after_ms: failed.retry_after_ms,
            spread,
            rules: &rules,
            now,
        });
        Verdict::Accepted
    }

    fn spread(&self, key: &LlmKey) -> Spread {
        let users = self.users(key);
        let hosts = users.iter().filter_map(|user| self.hosts.get(user));
        Spread {
            hosts: hosts.collect::<BTreeSet<_>>().len(),
            users: users.len(),
        }
    }

    pub(super) fn probing(&mut self, started: &ProbeStarted, now: Timestamp) -> Verdict {
        let lease_ms = self.rules.as_ref().map_or(0, |rules| rules.lease_ms);
        let mine = self.caller(&started.programmer).is_within(&started.scope);
        let Some(breaker) = self
            .breaker(&started.key, &started.scope)
            .filter(|breaker| mine && breaker.is_due(now))
        else {
            return Verdict::Refused(Refusal::NotDue);
        };
        if let State::Open { outage, .. } | State::HalfOpen { outage, .. } = &breaker.state {
            let lease = Lease {
                probe: started.probe,
                programmer: started.programmer.clone(),
                until: now.plus(Duration::from_millis(lease_ms)),
            };
            breaker.state = State::HalfOpen {
                outage: outage.clone(),
                lease,
            };
        }
        Verdict::Accepted
    }

    pub(super) fn probed(&mut self, ended: &ProbeEnded, now: Timestamp) -> Verdict {
        let Some(rules) = self.rules.clone() else {
            return Verdict::Refused(Refusal::NotDue);
        };
        let Some(breaker) = self.breaker(&ended.key, &ended.scope) else {
            return Verdict::Refused(Refusal::NotDue);
        };
        let (outage, by) = match &breaker.state {
            State::HalfOpen { outage, lease } if lease.probe == ended.probe => {
                (outage, lease.programmer.clone())
            }
            State::HalfOpen { .. } | State::Open { .. } | State::Closed { .. } => {
                return Verdict::Refused(Refusal::NotDue);
            }
        };
        breaker.state = match ended.fault {
            Some(fault) => {
                let failures = outage.failures.saturating_add(1);
                let mut outage = Outage {
                    fault,
                    failures,
                    ..outage.clone()
                };
                // The provider may serve the LLM in another dialect only.
                if !outage.dialects.is_empty() {
                    outage.dialects.rotate_left(1);
                }
                let until = until(now, &rules, fault == Fault::Auth, ended.retry_after_ms);
                State::Open { outage, until }
            }
            None => State::Closed {
                since: now,
                by: by.clone(),
            },
        };
        breaker.epoch += u64::from(ended.fault.is_none());
        let prober = self.caller(&by);
        self.judge(ended, &prober, &rules, now);
        Verdict::Accepted
    }

    /// Carries out an operator's order. Refused when no breaker of this LLM is open.
    pub(super) fn ordered(&mut self, ordered: &BreakerOrdered, now: Timestamp) -> Verdict {
        let keys = self.llms.keys().filter(|key| key.llm == ordered.llm);
        let keys: Vec<LlmKey> = keys.cloned().collect();
        let mut verdict = Verdict::Refused(Refusal::NotDue);
        for key in keys {
            let users = self.users(&key);
            let callers: Vec<Caller> = users.iter().map(|user| self.caller(user)).collect();
            let (llm, mut obeyed) = (self.llms.entry(key).or_default(), false);
            for (scope, breaker) in &mut llm.breakers {
                let first = callers.iter().find(|caller| caller.is_within(scope));
                obeyed |= breaker.obey(ordered.order, first, now);
            }
            if obeyed {
                verdict = Verdict::Accepted;
            }
            if obeyed && ordered.order == BreakerOrder::Close {
                llm.failures.clear();
            }
        }
        verdict
    }

    /// After an answered probe earlier failures no longer count. The key is good, so the LLM has refused the requests
    /// themselves.
    ///
    /// After a refused probe the key is bad, so its refusals are evidence against it. When a single programmer's breaker was
    /// probed, they are evidence in wider scopes too.
    fn judge(&mut self, ended: &ProbeEnded, prober: &Caller, rules: &BreakerRules, now: Timestamp) {
        let (scope, spread) = (&ended.scope, self.spread(&ended.key));
        let Some(llm) = self.llms.get_mut(&ended.key) else {
            return;
        };
        match ended.fault {
            None => llm.acquit(scope, prober, now),
            Some(Fault::Auth) => {
                llm.convict(scope);
                if let Scope::Programmer(_) = scope {
                    llm.open_what_failed(&Trigger {
                        caller: prober,
                        fault: Fault::Auth,
                        retry_after_ms: None,
                        spread,
                        rules,
                        now,
                    });
                }
            }
            Some(
                Fault::RateLimited | Fault::Timeout | Fault::Unavailable | Fault::ModelUnavailable,
            ) => {}
        }
    }

    fn breaker(&mut self, key: &LlmKey, scope: &Scope) -> Option<&mut Breaker> {
        self.llms.get_mut(key)?.breakers.get_mut(scope)
    }
}

fn window_start(rules: &BreakerRules, now: Timestamp) -> Timestamp {
    Timestamp(now.0.saturating_sub(rules.window_ms))
}

/// From the widest to the narrowest.
fn scopes(caller: &Caller) -> [Scope; 3] {
    [
        Scope::Pool,
        Scope::Host(caller.host.clone()),
        Scope::Programmer(caller.programmer.clone()),
    ]
}
