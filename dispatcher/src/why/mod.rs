//! Explains why a task waits, in one sentence with details, so that nobody has to guess.
//!
//! Pure: reads the fold and the programmers' last heartbeats. The gates are computed by the
//! workers' own code (`pool_core::eligibility`); nothing here decides anything. `programmers` finds
//! what keeps each able programmer from the task, `words` puts it into words.

mod model;
mod programmers;
#[cfg(test)]
mod tests;
mod words;

use pool_api::why::{Availability, Position, Reason, Why};
use pool_core::eligibility::Eligibility;
use pool_core::id::{ProgrammerId, TaskId};
use pool_core::pause::{Pause, Target};
use pool_core::routing::Route;
use pool_core::state::pauses::Paused;
use pool_core::state::{Owner, Phase, TaskState};
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;

use crate::views::Reader;
use model::Able;
pub use model::WhyContext;

/// Explains why a task waits, with what this dispatcher knows now.
pub(crate) fn explain(reader: &Reader, id: &TaskId) -> Option<Why> {
    let heard = reader.heard();
    let fresh = reader.process.log.is_fresh();
    let expected = reader.history.entry(id).and_then(|entry| entry.expected);
    reader.process.log.read(|fold| {
        let standing = Eligibility {
            pool: &reader.pool,
            fold,
            now: fold.now().max(wall_clock()),
        };
        why(
            &WhyContext {
                standing: &standing,
                routes: &reader.process.routes,
                heard: &heard,
                fresh,
                expected: expected.as_ref(),
            },
            id,
        )
    })
}

/// The answer; None if the log has no such task.
pub fn why(look: &WhyContext<'_>, id: &TaskId) -> Option<Why> {
    let Eligibility { pool, fold, now } = *look.standing;
    let state = fold.tasks.get(id)?;
    let mut why = look.answer(
        &state,
        Why {
            task: id.clone(),
            reason: Reason::Unavailable,
            sentence: String::new(),
            since: None,
            until: None,
            position: None,
            route: state.route.clone(),
            attempts: state.attempts,
            max_attempts: pool.dispatcher.max_attempts,
            releases: state.releases,
            hand_backs: state.hand_backs,
            deadline: state.deadline,
            programmers: Vec::new(),
            at: now,
        },
    );
    if !look.fresh && !state.is_finished() {
        why.sentence = words::stale(fold.now(), &why.sentence, now);
        why.reason = Reason::ViewStale;
    }
    Some(why)
}

/// Each function completes the answer that it is given.
impl WhyContext<'_> {
    fn answer(&self, state: &TaskState, why: Why) -> Why {
        let Eligibility { pool, fold, now } = *self.standing;
        let since = Some(state.issued_at);
        match &state.phase {
            Phase::Finished(outcome) => Why {
                reason: Reason::Finished,
                sentence: words::finished(outcome, now),
                since: Some(outcome.at),
                ..why
            },
            Phase::Running { owner, .. } if self.heard.has_lost(fold, owner) => {
                self.lost(state, owner, why)
            }
            Phase::Running { owner, .. } => self.running(owner, why),
            Phase::RetryAt(retry) => Why {
                reason: Reason::Retry,
                sentence: words::retry(retry, &why),
                since,
                until: Some(Timestamp(retry.at_ms)),
                ..why
            },
            // The log has no publish event of a task that came straight over AMQP.
            Phase::Pending if state.submitted_at.is_some() => {
                let due = state.issued_at.plus(pool.dispatcher.repair_after);
                Why {
                    reason: Reason::NotPublished,
                    sentence: words::not_published(state, due, now),
                    since,
                    until: Some(due),
                    ..why
                }
            }
            Phase::Pending | Phase::Queued => self.waiting(state, why),
        }
    }

    fn running(&self, owner: &Owner, why: Why) -> Why {
        let Eligibility { pool, fold, now } = *self.standing;
        let mut sentence = words::running(owner, &why);
        let until = fold
            .pauses
            .of_programmer(&owner.programmer)
            .filter(|(_, paused)| paused.pause == Pause::Drain)
            .map(|(_, paused)| paused.since.plus(pool.dispatcher.drain_timeout));
        if let Some(until) = until {
            sentence.push_str(&words::drained(until, now));
        }
        Why {
            reason: Reason::Running,
            sentence,
            since: Some(owner.since),
            until,
            ..why
        }
    }

    /// Its message is back in the queue, or is about to be.
    fn lost(&self, state: &TaskState, owner: &Owner, why: Why) -> Why {
        let mut why = self.waiting(state, why);
        why.sentence
            .push_str(&words::lost(owner, self.heard.of(&owner.programmer).err()));
        why
    }

    fn waiting(&self, state: &TaskState, why: Why) -> Why {
        let Eligibility { pool, now, .. } = *self.standing;
        let since = state
            .submitted_at
            .or(Some(state.issued_at).filter(|at| at.0 > 0));
        let route = self
            .routes
            .all()
            .iter()
            .find(|route| route.name == state.route);
        let Some(route) = route else {
            let (reason, sentence) = words::no_such_route(self.routes, &state.route);
            return Why {
                reason,
                sentence,
                since,
                ..why
            };
        };
        let position = self.position(&why.task, state);
        let mut why = self.at_route(
            route,
            Why {
                since,
                position,
                ..why
            },
        );
        let overdue = state.issued_at.plus(pool.dispatcher.repair_after) < now;
        if why.reason == Reason::Next && overdue {
            why.sentence.push_str(words::IF_LOST);
        }
        let others = position.is_some_and(|position| position.of > 1);
        if let Some(expected) = self.expected.filter(|_| others) {
            why.sentence.push_str(&words::expected(expected));
        }
        why.sentence.push_str(&words::also(state, pool, now));
        why
    }

    /// The reason that keeps tasks of this route waiting.
    fn at_route(&self, route: &Route, why: Why) -> Why {
        let able = self.programmers(route);
        let why = Why {
            programmers: able.iter().map(|one| one.view.clone()).collect(),
            ..why
        };
        if let Some((reason, sentence)) = self.paused(route, &able, why.position) {
            return Why {
                reason,
                sentence,
                ..why
            };
        }
        let idle: Vec<&ProgrammerId> = able
            .iter()
            .filter(|one| one.view.state == Availability::Idle)
            .map(|one| &one.view.id)
            .collect();
        let before = why.position.map_or(0, |position| position.place - 1);
        if before < idle.len() {
            return Why {
                reason: Reason::Next,
                sentence: words::next(route, &idle),
                ..why
            };
        }
        if !idle.is_empty() {
            return Why {
                reason: Reason::BehindOthers,
                sentence: words::behind(route, idle.len(), able.len(), before),
                ..why
            };
        }
        let any = |state| able.iter().any(|one| one.view.state == state);
        let reason = match (any(Availability::LeftToFree), any(Availability::Busy)) {
            (true, _) => Reason::LeftToFree,
            (false, true) => Reason::Busy,
            (false, false) => Reason::Unavailable,
        };
        Why {
            reason,
            sentence: words::nobody(
                route,
                &able,
                &self.served_before(route, &able),
                why.position,
            ),
            until: able.iter().filter_map(|one| one.view.until).min(),
            ..why
        }
    }

    /// The answer if ending the programmers' own pauses would not start the task.
    fn paused(
        &self,
        route: &Route,
        able: &[Able],
        position: Option<Position>,
    ) -> Option<(Reason, String)> {
        let pauses = || self.standing.fold.pauses.iter();
        let of_all = pauses().filter(|(target, _)| matches!(target, Target::All));
        let of_route = pauses()
            .filter(|(target, _)| matches!(target, Target::Route { name } if *name == route.name));
        let held: Vec<(&Target, &Paused)> = of_all.chain(of_route).collect();
        let reason = match held.first()? {
            (Target::All, _) => Reason::PoolPaused,
            (Target::Route { .. } | Target::Programmer { .. }, _) => Reason::RoutePaused,
        };
        let by_itself = |one: &&Able| {
            pauses().any(
                |(target, _)| matches!(target, Target::Programmer { id } if *id == one.view.id),
            )
        };
        // A programmer that is not paused would take the task when the other pauses end.
        let each_by_itself =
            Some(able.iter().filter(by_itself).count()).filter(|count| *count == able.len());
        let each_by_itself = each_by_itself.unwrap_or_default();
        let sentence = words::paused(&held, each_by_itself, position, self.standing.now);
        Some((reason, sentence))
    }

    /// Tasks count in the order in which their messages came into the queue, as far as the log
    /// shows. A message that is handed back keeps its place.
    fn position(&self, id: &TaskId, state: &TaskState) -> Option<Position> {
        let tasks = &self.standing.fold.tasks;
        let own = (state.issued_at, state.place, id);
        let (mut before, mut of, mut listed) = (0, 0, false);
        for other in tasks.waiting_in(&state.route) {
            let Some(published) = tasks.get(other).filter(|state| state.is_published()) else {
                continue;
            };
            of += 1;
            before += usize::from((published.issued_at, published.place, other) < own);
            listed |= other == id;
        }
        listed.then_some(Position {
            place: before + 1,
            of,
        })
    }
}
