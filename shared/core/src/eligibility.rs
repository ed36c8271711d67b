//! Whether a programmer may take a task now, and if not, why: its pauses, its LLMs and the budget. Pure, from the fold, so
//! every process gets the same answer about every programmer.
//!
//! A programmer asks *before* it takes a task. The answer is advice: only the log admits spending (`fold::budget`).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::heartbeat::ShutReason;
use crate::id::{LlmName, ProgrammerId};
use crate::llm::{LlmKey, Scope};
use crate::money::MicroUsd;
use crate::pause::{Pause, Target};
use crate::pool::{Pool, Programmer, Strategy};
use crate::routing::Route;
use crate::state::PoolState;
use crate::state::breaker::{Breaker, Caller, Shut};
use crate::state::pauses::Paused;
use crate::task::MAX_CAPABILITIES;
use crate::time::Timestamp;

/// When the rest of the budget is enough for some waiting programmers but not for all, they take turns of this length. So a
/// programmer whose queues are empty keeps the money from the others for two seconds at most.
pub const TURN_MS: u64 = 2000;

/// The state of the pool at one moment, for questions about its programmers.
pub struct Eligibility<'a> {
    /// The pool file.
    pub pool: &'a Pool,
    /// The state of the log.
    pub fold: &'a PoolState,
    /// The moment of the questions.
    pub now: Timestamp,
}

/// The LLMs that a programmer could use now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LlmAccess {
    /// An LLM that costs nothing is available.
    Free,
    /// Only LLMs that cost money are available.
    Paid,
    /// The breakers of all its LLMs are open; with the breaker of each.
    Nothing(Vec<(LlmName, Shut)>),
}

/// Whether the cap of a programmer fits into what is left of the day's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetFit {
    /// It fits.
    Enough,
    /// It fits, but other programmers wait for the same money and have their turn first. The turn of this one comes within
    /// seconds.
    ForOthersFirst,
    /// It does not fit.
    TooLittle,
}

/// Why a programmer takes no task of one route although its gate is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// An operator has paused the route.
    Paused(Paused),
    /// Its tasks are left to programmers with free LLMs.
    LeftToFree {
        /// When the oldest task will have waited for `spill_to_paid_after`; None: no task is known to wait.
        until: Option<Timestamp>,
    },
}

/// Why a programmer takes no task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// For programs.
    pub reason: ShutReason,
    /// One sentence for people.
    pub detail: String,
    /// When it may end without an operator.
    pub until: Option<Timestamp>,
}

impl Eligibility<'_> {
    /// This programmer and its host, for questions to the breakers. The host is empty while the programmer was never up.
    pub fn caller(&self, programmer: &ProgrammerId) -> Caller {
        self.fold.breakers.caller(programmer)
    }

    /// The LLMs that this programmer may use, primary first, each with the key of its breakers.
    pub fn llms(&self, programmer: &Programmer, host: &str) -> Vec<(LlmName, LlmKey)> {
        let usable = if self.pool.failover.enabled {
            programmer.llms.len()
        } else {
            1
        };
        programmer
            .llms
            .iter()
            .take(usable)
            .map(|llm| (llm.clone(), self.pool.llm_key(llm, host)))
            .collect()
    }

    /// The breakers that can hold back a call of this pool. An LLM, an address or a programmer that is no longer in the
    /// pool file has no calls, and neither has a host without a programmer. No programmer probes their breakers, which
    /// would stay open for ever.
    pub fn breakers(&self) -> impl Iterator<Item = (&LlmKey, &Scope, &Breaker)> {
        let governs = |(key, scope, _): &(&LlmKey, &Scope, &Breaker)| {
            self.pool
                .programmers
                .iter()
                .any(|programmer| self.may_meet(programmer, key, scope))
        };
        self.fold.breakers.all().filter(governs)
    }

    fn may_meet(&self, programmer: &Programmer, key: &LlmKey, scope: &Scope) -> bool {
        let caller = self.caller(&programmer.id);
        let within = programmer.llms.contains(&key.llm) && caller.is_within(scope);
        within && self.pool.llm_key(&key.llm, &caller.host) == *key
    }

    /// Why the programmer may not call this LLM; None: it may.
    pub fn shut(&self, key: &LlmKey, caller: &Caller) -> Option<Shut> {
        self.fold.breakers.check(key, caller, self.now).err()
    }

    /// The LLM that the programmer's next call would go to.
    pub fn current_llm(&self, programmer: &Programmer) -> Option<LlmName> {
        let caller = self.caller(&programmer.id);
        self.llms(programmer, &caller.host)
            .into_iter()
            .find(|(_, key)| self.shut(key, &caller).is_none())
            .map(|(llm, _)| llm)
    }

    /// The LLMs that this programmer could use now.
    pub fn llm_access(&self, programmer: &Programmer) -> LlmAccess {
        let caller = self.caller(&programmer.id);
        let (mut paid, mut shut) = (false, Vec::new());
        for (llm, key) in self.llms(programmer, &caller.host) {
            match self.shut(&key, &caller) {
                None if self.pool.is_free(&llm) => return LlmAccess::Free,
                None => paid = true,
                Some(why) => shut.push((llm, why)),
            }
        }
        if paid {
            LlmAccess::Paid
        } else {
            LlmAccess::Nothing(shut)
        }
    }

    /// Why this programmer may not take a task now; None: it may. `alive` tells which other programmers could take one.
    pub fn blocker(
        &self,
        programmer: &Programmer,
        alive: impl Fn(&ProgrammerId) -> bool,
    ) -> Option<Blocker> {
        if let Some((target, paused)) = self.fold.pauses.of_programmer(&programmer.id) {
            return Some(pause_blocker(target, paused));
        }
        match self.llm_access(programmer) {
            LlmAccess::Free => None,
            LlmAccess::Nothing(shut) => Some(breaker_blocker(&shut)),
            LlmAccess::Paid => match self.budget_fit(programmer, alive) {
                BudgetFit::Enough => None,
                BudgetFit::ForOthersFirst | BudgetFit::TooLittle => {
                    Some(self.budget_blocker(programmer))
                }
            },
        }
    }

    /// The routes that are closed for this programmer now, as indices into `routes`.
    pub fn closed_routes(
        &self,
        programmer: &Programmer,
        routes: &[&Route],
        alive: impl Fn(&ProgrammerId) -> bool,
    ) -> BTreeSet<usize> {
        let closed = |route: &Route| self.closed(programmer, route, &alive).is_some();
        routes
            .iter()
            .enumerate()
            .filter(|(_, route)| closed(route))
            .map(|(index, _)| index)
            .collect()
    }

    /// Why this route is closed for a programmer whose gate is open; None: it is not.
    ///
    /// A route is closed while it is paused. For a programmer with only paid LLMs it is also closed while programmers with
    /// free LLMs serve it. An outage of those LLMs changes nothing for `spill_to_paid_after`. The route opens when one of
    /// its tasks has waited for `spill_to_paid_after`.
    pub fn closed(
        &self,
        programmer: &Programmer,
        route: &Route,
        alive: impl Fn(&ProgrammerId) -> bool,
    ) -> Option<Closed> {
        if let Some(paused) = self.fold.pauses.of_route(&route.name) {
            return Some(Closed::Paused(paused));
        }
        let patience = self.pool.load_balancing.spill_to_paid_after;
        if patience.is_zero() || self.llm_access(programmer) != LlmAccess::Paid {
            return None;
        }
        let spills = self
            .fold
            .tasks
            .oldest_waiting(&route.name)
            .map(|since| since.plus(patience));
        let serves_free = |id: &ProgrammerId| {
            let other = self
                .pool
                .programmer(id)
                .filter(|other| self.pool.is_free(other.primary()) && alive(&other.id));
            other.is_some_and(|other| self.is_free_or_was_within(other, patience))
        };
        let spilled = spills.is_some_and(|at| self.now >= at);
        (!spilled && route.eligible.iter().any(serves_free))
            .then_some(Closed::LeftToFree { until: spills })
    }

    /// Whether the programmer's primary LLM is available, or its outage began less than `patience` ago.
    fn is_free_or_was_within(&self, programmer: &Programmer, patience: Duration) -> bool {
        let caller = self.caller(&programmer.id);
        let shut = self.shut(
            &self.pool.llm_key(programmer.primary(), &caller.host),
            &caller,
        );
        shut.and_then(|shut| shut.outage)
            .is_none_or(|outage| self.now.since(outage.since) < patience)
    }

    /// Whether this programmer's cap fits into the budget beside the tasks that others have begun and not reserved yet. Of
    /// the programmers that wait for money, only as many get [`BudgetFit::Enough`] as fit.
    pub fn budget_fit(
        &self,
        programmer: &Programmer,
        alive: impl Fn(&ProgrammerId) -> bool,
    ) -> BudgetFit {
        let Some(room) = self.fold.budget.room() else {
            return BudgetFit::Enough;
        };
        let (begun, busy) = self.begun();
        let mut left = room.saturating_sub(begun);
        if programmer.limits.max_cost > left {
            return BudgetFit::TooLittle;
        }
        let waits = |other: &&Programmer| {
            let me = other.id == programmer.id;
            let idle = !busy.contains(&other.id) && alive(&other.id);
            me || (idle
                && other.limits.max_cost <= left
                && self.llm_access(other) == LlmAccess::Paid)
        };
        let waiting: Vec<&Programmer> = self.pool.programmers.iter().filter(waits).collect();
        let turn = usize::try_from(self.now.0 / TURN_MS).unwrap_or_default();
        for place in 0..waiting.len() {
            let other = waiting[(turn + place) % waiting.len()];
            let fits = other.limits.max_cost <= left;
            if other.id == programmer.id {
                return if fits {
                    BudgetFit::Enough
                } else {
                    BudgetFit::ForOthersFirst
                };
            }
            if fits {
                left = left.saturating_sub(other.limits.max_cost);
            }
        }
        BudgetFit::ForOthersFirst
    }

    /// The money that running tasks may still reserve, and the programmers that have a running task.
    fn begun(&self) -> (MicroUsd, BTreeSet<&ProgrammerId>) {
        let mut busy = BTreeSet::new();
        let mut sum = MicroUsd::ZERO;
        for (_, owner) in self
            .fold
            .tasks
            .running()
            .filter(|(_, owner)| !self.fold.is_gone(owner))
        {
            busy.insert(&owner.programmer);
            let reserved = self.fold.budget.has_reserved(owner.attempt);
            if let Some(programmer) = self.pool.programmer(&owner.programmer)
                && !reserved
                && self.llm_access(programmer) != LlmAccess::Free
            {
                sum += programmer.limits.max_cost;
            }
        }
        (sum, busy)
    }

    /// The budget as a second blocker beside open breakers: all LLMs of the programmer cost money, and its cap does not fit.
    /// While all its breakers are open, [`Self::blocker`] names only them.
    pub fn over_budget(&self, programmer: &Programmer) -> Option<Blocker> {
        let pays = self
            .llms(programmer, "")
            .iter()
            .all(|(llm, _)| !self.pool.is_free(llm));
        (pays && self.budget_fit(programmer, |_| true) == BudgetFit::TooLittle)
            .then(|| self.budget_blocker(programmer))
    }

    fn budget_blocker(&self, programmer: &Programmer) -> Blocker {
        let budget = &self.fold.budget;
        let limit = budget.limit().unwrap_or_default();
        let until = budget.day().map(|day| day.ends);
        let when = until.map_or(String::new(), |until| {
            format!(" or the day ends at {until}")
        });
        let left = budget.room().unwrap_or_default();
        let (cap, spent, reserved) = (
            programmer.limits.max_cost,
            budget.spent(),
            budget.reserved(),
        );
        let why = if cap > left {
            format!("but only ${left} of today's ${limit} is left")
        } else {
            format!("and the ${left} left of today's ${limit} goes to other programmers first")
        };
        let detail = format!(
            "a task may cost up to ${cap}, {why} (${spent} spent, ${reserved} reserved); it waits until money is free again{when}"
        );
        Blocker {
            reason: ShutReason::Budget,
            detail,
            until,
        }
    }
}

/// The priority of this programmer's consumers, 0 to 24. The broker gives a task to the waiting consumer with the highest
/// priority.
pub fn consumer_priority(pool: &Pool, programmer: &Programmer) -> u8 {
    /// More than any surplus of capabilities.
    const FREE: u8 = 16;
    let surplus = match pool.load_balancing.strategy {
        Strategy::LeastLoaded => 0,
        // All consumers of a queue offer what its tasks require: the one that offers least has the fewest to spare.
        Strategy::CapabilityMatch => {
            u8::try_from(MAX_CAPABILITIES.saturating_sub(programmer.capabilities.len()))
                .unwrap_or(0)
        }
    };
    let prefer_free = pool.load_balancing.prefer_free_models
        || (pool.cost.enabled && pool.cost.prefer_free_over_paid);
    if prefer_free && pool.is_free(programmer.primary()) {
        FREE + surplus
    } else {
        surplus
    }
}

fn pause_blocker(target: &Target, paused: Paused) -> Blocker {
    let reason = match paused.pause {
        Pause::Pause => ShutReason::Paused,
        Pause::Drain => ShutReason::Draining,
    };
    Blocker {
        reason,
        detail: explain_pause(target, paused),
        until: None,
    }
}

/// One sentence about a pause: since when it lasts, and how to end it.
pub fn explain_pause(target: &Target, paused: Paused) -> String {
    let word = match paused.pause {
        Pause::Pause => "paused",
        Pause::Drain => "drained",
    };
    let flag = match target {
        Target::All => "--all".to_owned(),
        Target::Programmer { id } => format!("--programmer {id}"),
        Target::Route { name } => format!("--route {name}"),
    };
    format!(
        "{target} is {word} since {} until `pool resume {flag}`",
        paused.since
    )
}

fn breaker_blocker(shut: &[(LlmName, Shut)]) -> Blocker {
    let until = shut.iter().map(|(_, shut)| shut.until).min();
    let each: Vec<String> = shut.iter().map(|(llm, shut)| explain(llm, shut)).collect();
    Blocker {
        reason: ShutReason::Breaker,
        detail: each.join("; "),
        until,
    }
}

/// One sentence about a breaker that keeps a programmer from an LLM.
pub fn explain(llm: &LlmName, shut: &Shut) -> String {
    match &shut.outage {
        Some(outage) => {
            let failures = if outage.failures == 1 {
                "failure"
            } else {
                "failures"
            };
            let (count, fault, since) = (outage.failures, outage.fault.as_str(), outage.since);
            let scope = &shut.scope;
            format!(
                "{llm}: breaker open for {scope} since {since} after {count} {failures} ({fault}), probed at {}",
                shut.until
            )
        }
        None => format!(
            "{llm}: available again; this programmer returns to it at {}",
            shut.until
        ),
    }
}
