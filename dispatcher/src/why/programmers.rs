//! Finds what keeps an able programmer from taking a task.
//!
//! The log is asked first, with the code that the workers compute their gates with. Heartbeats only
//! add what the log cannot know: which programmer is down, or has a wrong clock or pool file.

use std::collections::HashMap;

use pool_api::format::{clock, with_clocks};
use pool_api::status::NoHeartbeat;
use pool_api::why::{Availability, ProgrammerWhy};
use pool_core::eligibility::{Blocker, BudgetFit, Closed, LlmAccess};
use pool_core::heartbeat::{Gate, ShutReason};
use pool_core::id::{ProgrammerId, TaskId};
use pool_core::pause::Target;
use pool_core::pool::Programmer;
use pool_core::routing::Route;
use pool_core::state::Owner;
use pool_core::time::Timestamp;

use super::model::{Able, ServedBefore, WhyContext};
use super::words;

impl WhyContext<'_> {
    /// All programmers that are eligible for the route.
    pub(super) fn programmers(&self, route: &Route) -> Vec<Able> {
        let busy: HashMap<&ProgrammerId, (&TaskId, &Owner)> = self
            .standing
            .fold
            .tasks
            .running()
            .filter(|(_, owner)| !self.standing.fold.is_gone(owner))
            .map(|(task, owner)| (&owner.programmer, (task, owner)))
            .collect();
        let able = route
            .eligible
            .iter()
            .filter_map(|id| self.standing.pool.programmer(id));
        able.map(|programmer| self.able(programmer, route, busy.get(&programmer.id).copied()))
            .collect()
    }

    fn able(
        &self,
        programmer: &Programmer,
        route: &Route,
        busy: Option<(&TaskId, &Owner)>,
    ) -> Able {
        let found = self.unheard(programmer);
        let found = found.or_else(|| self.shut_by_itself(programmer));
        let busy_with = busy.map(|(task, owner)| self.busy(task, owner, route));
        let found = found.or_else(|| self.ordered(programmer, busy_with.as_ref()));
        let found = found.or(busy_with);
        let found = found.or_else(|| self.without_means(programmer));
        let found = found.or_else(|| self.closed(programmer, route));
        let found = found
            .unwrap_or_else(|| ProgrammerFinding::new(Availability::Idle, "idle", String::new()));
        Able {
            view: ProgrammerWhy {
                id: programmer.id.clone(),
                state: found.state,
                detail: found.detail,
                task: busy.map(|(task, _)| task.clone()),
                since: busy.map(|(_, owner)| owner.since),
                until: found.until,
            },
            words: found.words,
        }
    }

    fn unheard(&self, programmer: &Programmer) -> Option<ProgrammerFinding> {
        let unseen = self.heard.of(&programmer.id).err()?;
        let (state, words) = match unseen {
            NoHeartbeat::Silent { .. }
            | NoHeartbeat::Never { .. }
            | NoHeartbeat::Gone { .. }
            | NoHeartbeat::Left { .. } => (Availability::Down, "down"),
            NoHeartbeat::NotYet(_) => (Availability::Unheard, "without a heartbeat yet"),
            NoHeartbeat::Deaf(_) => (Availability::Unheard, "unknown"),
        };
        Some(ProgrammerFinding::new(
            state,
            words,
            with_clocks(&unseen.to_string(), self.standing.now),
        ))
    }

    /// Problems that only the programmer's process can know.
    fn shut_by_itself(&self, programmer: &Programmer) -> Option<ProgrammerFinding> {
        let Gate::Shut { reason, detail } = &self.heard.seen.get(&programmer.id)?.gate else {
            return None;
        };
        let words = match reason {
            ShutReason::Config => "with another pool file",
            ShutReason::Clock => "with a wrong clock",
            ShutReason::Log => "without the event log",
            ShutReason::Held => "held by another process",
            ShutReason::Broker => "without the broker",
            ShutReason::Sandbox => "without a sandbox",
            // Its process is ending; an operator's drain would be in the log.
            ShutReason::Draining
                if self
                    .standing
                    .fold
                    .pauses
                    .of_programmer(&programmer.id)
                    .is_none() =>
            {
                "draining"
            }
            // The heartbeat may be a moment old; the log knows better.
            ShutReason::Draining
            | ShutReason::Paused
            | ShutReason::Breaker
            | ShutReason::Budget => return None,
        };
        Some(ProgrammerFinding::new(
            Availability::from(*reason),
            words,
            detail.clone(),
        ))
    }

    /// An operator's pause or drain counts whether the programmer is busy or not.
    fn ordered(
        &self,
        programmer: &Programmer,
        busy: Option<&ProgrammerFinding>,
    ) -> Option<ProgrammerFinding> {
        let Blocker {
            reason,
            detail,
            until,
        } = self.blocker(programmer)?;
        match reason {
            ShutReason::Paused | ShutReason::Draining => {
                let ordered = ProgrammerFinding {
                    until,
                    ..ProgrammerFinding::new(Availability::from(reason), reason.as_str(), detail)
                };
                Some(match busy {
                    Some(busy) => ordered.and(busy),
                    None => ordered,
                })
            }
            ShutReason::Config
            | ShutReason::Clock
            | ShutReason::Log
            | ShutReason::Held
            | ShutReason::Broker
            | ShutReason::Sandbox
            | ShutReason::Breaker
            | ShutReason::Budget => None,
        }
    }

    fn busy(&self, task: &TaskId, owner: &Owner, route: &Route) -> ProgrammerFinding {
        let since = clock(owner.since, self.standing.now);
        let working = format!("working on {task} since {since}");
        let state = self.standing.fold.tasks.get(task);
        match state.as_deref().map(|state| &state.route) {
            Some(other) if *other != route.name => {
                let words = "busy with other routes";
                let detail = format!("{working} (route {other})");
                ProgrammerFinding::new(Availability::Busy, words, detail)
            }
            Some(_) | None => ProgrammerFinding::new(Availability::Busy, "busy", working),
        }
    }

    /// The routes with waiting tasks that some of these programmers serve before this one, most specific first.
    pub(super) fn served_before(&self, route: &Route, able: &[Able]) -> Vec<ServedBefore> {
        let serves = |other: &Route| {
            let able = able.iter().map(|one| &one.view.id);
            able.filter(|id| other.eligible.contains(*id)).count()
        };
        let before = |other: &&Route| other.specificity() < route.specificity();
        let mut routes: Vec<&Route> = self.routes.all().iter().filter(before).collect();
        routes.sort_by_key(|other| other.specificity());
        let each = routes.into_iter().map(|other| ServedBefore {
            route: other.name.clone(),
            waiting: self.standing.fold.tasks.waiting(&other.name),
            programmers: serves(other),
        });
        each.filter(|other| other.waiting > 0 && other.programmers > 0)
            .collect()
    }

    /// Breakers and budget.
    fn without_means(&self, programmer: &Programmer) -> Option<ProgrammerFinding> {
        let Blocker {
            reason,
            detail,
            until,
        } = self.blocker(programmer)?;
        let (state, now) = (Availability::from(reason), self.standing.now);
        let its_turn_comes = || {
            self.standing
                .budget_fit(programmer, |id| self.could_take(id))
                == BudgetFit::ForOthersFirst
        };
        Some(match self.standing.llm_access(programmer) {
            LlmAccess::Nothing(shut) => {
                let shut = ProgrammerFinding {
                    state,
                    words: words::breakers(&shut, now),
                    detail,
                    until,
                };
                match self.standing.over_budget(programmer) {
                    Some(also) => shut.and(&self.over_budget(also)),
                    None => shut,
                }
            }
            LlmAccess::Free | LlmAccess::Paid if its_turn_comes() => {
                ProgrammerFinding::new(state, words::ITS_TURN, detail)
            }
            LlmAccess::Free | LlmAccess::Paid => self.over_budget(Blocker {
                reason,
                detail,
                until,
            }),
        })
    }

    fn over_budget(
        &self,
        Blocker {
            reason,
            detail,
            until,
        }: Blocker,
    ) -> ProgrammerFinding {
        let (words, detail) = (
            words::over_budget(until, self.standing.now),
            with_clocks(&detail, self.standing.now),
        );
        ProgrammerFinding {
            state: Availability::from(reason),
            words,
            detail,
            until,
        }
    }

    fn closed(&self, programmer: &Programmer, route: &Route) -> Option<ProgrammerFinding> {
        match self
            .standing
            .closed(programmer, route, |id| self.could_take(id))?
        {
            Closed::LeftToFree { until } => {
                let words = words::left_to_free(until, self.standing.now);
                let after = self
                    .standing
                    .pool
                    .load_balancing
                    .spill_to_paid_after
                    .as_secs();
                let detail = format!(
                    "leaves the task to programmers with free LLMs for {after} s (spill_to_paid_after)"
                );
                Some(ProgrammerFinding {
                    state: Availability::LeftToFree,
                    words,
                    detail,
                    until,
                })
            }
            Closed::Paused(paused) => {
                let detail = words::pause(
                    &Target::Route {
                        name: route.name.clone(),
                    },
                    paused,
                    self.standing.now,
                );
                Some(ProgrammerFinding::new(Availability::Idle, "idle", detail))
            }
        }
    }

    fn blocker(&self, programmer: &Programmer) -> Option<Blocker> {
        let blocker = self
            .standing
            .blocker(programmer, |id| self.could_take(id))?;
        Some(Blocker {
            detail: with_clocks(&blocker.detail, self.standing.now),
            ..blocker
        })
    }

    /// Judges as the workers do.
    fn could_take(&self, id: &ProgrammerId) -> bool {
        self.heard
            .of(id)
            .map_or_else(|unseen| !unseen.is_down(), |seen| seen.gate.could_take())
    }
}

struct ProgrammerFinding {
    state: Availability,
    words: String,
    detail: String,
    until: Option<Timestamp>,
}

impl ProgrammerFinding {
    fn new(state: Availability, words: &str, detail: String) -> Self {
        Self {
            state,
            words: words.to_owned(),
            detail,
            until: None,
        }
    }

    /// Two reasons at once: the programmer is free when the later one ends.
    fn and(self, other: &Self) -> Self {
        let words = format!("{} and {}", self.words, other.words);
        let detail = format!("{}; {}", self.detail, other.detail);
        Self {
            words,
            detail,
            until: self.until.max(other.until),
            ..self
        }
    }
}
