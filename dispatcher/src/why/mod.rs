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
use pool_core::state::{Owner, TaskState};
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;

use crate::views::Reader;
pub use model::WhyContext;
use model::{Able, Explanation};

/// Explains why a task waits, with what this dispatcher knows now.
pub(crate) fn explain(reader: &Reader, id: &TaskId) -> Option<Why> {
    let heard = reader.heard();
    let fresh = reader.process.log.is_fresh();
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
            },
            id,
        )
    })
}

/// The answer; None if the log has no such task.
pub fn why(look: &WhyContext<'_>, id: &TaskId) -> Option<Why> {
    let state = look.standing.fold.tasks.get(id)?;
    let mut answer = look.answer(id, state);
    if !look.fresh && state.outcome.is_none() {
        let known = look.standing.fold.now();
        answer.sentence = words::stale(known, &answer.sentence, look.standing.now);
        answer.reason = Reason::ViewStale;
    }
    Some(Why {
        task: id.clone(),
        reason: answer.reason,
        sentence: answer.sentence,
        since: answer.since,
        until: answer.until,
        position: answer.position,
        route: state.route.clone(),
        attempts: state.attempts,
        max_attempts: look.standing.pool.dispatcher.max_attempts,
        releases: state.releases,
        hand_backs: state.hand_backs,
        deadline: state.deadline,
        programmers: answer.programmers,
        at: look.standing.now,
    })
}

impl WhyContext<'_> {
    fn answer(&self, id: &TaskId, state: &TaskState) -> Explanation {
        if let Some(outcome) = &state.outcome {
            return Explanation::new(
                Reason::Finished,
                words::finished(outcome, self.standing.now),
                Some(outcome.at),
            );
        }
        if let Some(owner) = &state.owner {
            return match self.heard.has_lost(self.standing.fold, owner) {
                true => self.lost(id, state, owner),
                false => self.running(state, owner),
            };
        }
        let max = self.standing.pool.dispatcher.max_attempts;
        if let Some(retry) = &state.retry {
            let due = Timestamp(retry.at_ms);
            let sentence = words::retry(retry, (state.attempts, max), self.standing.now);
            return Explanation::new(Reason::Retry, sentence, Some(state.issued_at))
                .until(Some(due));
        }
        // The log has no publish event of a task that came straight over AMQP.
        if !state.published && state.submitted_at.is_some() {
            let due = state
                .issued_at
                .plus(self.standing.pool.dispatcher.repair_after);
            let sentence = words::not_published(state, due, self.standing.now);
            return Explanation::new(Reason::NotPublished, sentence, Some(state.issued_at))
                .until(Some(due));
        }
        self.waiting(id, state)
    }

    fn running(&self, state: &TaskState, owner: &Owner) -> Explanation {
        let max = self.standing.pool.dispatcher.max_attempts;
        let mut sentence = words::running(owner, (state.attempts, max), self.standing.now);
        let ordered = self
            .standing
            .fold
            .pauses
            .of_programmer(&owner.programmer)
            .map(|(_, paused)| paused);
        let drained = ordered.filter(|paused| paused.pause == Pause::Drain);
        let until = drained.map(|paused| {
            paused
                .since
                .plus(self.standing.pool.dispatcher.drain_timeout)
        });
        if let Some(until) = until {
            sentence.push_str(&words::drained(until, self.standing.now));
        }
        Explanation::new(Reason::Running, sentence, Some(owner.since)).until(until)
    }

    /// Its message is back in the queue, or is about to be.
    fn lost(&self, id: &TaskId, state: &TaskState, owner: &Owner) -> Explanation {
        let mut answer = self.waiting(id, state);
        answer
            .sentence
            .push_str(&words::lost(owner, self.heard.of(&owner.programmer).err()));
        answer
    }

    fn waiting(&self, id: &TaskId, state: &TaskState) -> Explanation {
        let since = state
            .submitted_at
            .or(Some(state.issued_at).filter(|at| at.0 > 0));
        let Some(route) = self
            .routes
            .all()
            .iter()
            .find(|route| route.name == state.route)
        else {
            let (reason, sentence) = words::no_such_route(self.routes, &state.route);
            return Explanation::new(reason, sentence, since);
        };
        let position = self.position(id, state);
        let mut answer = self.at_route(route, position);
        let overdue = state
            .issued_at
            .plus(self.standing.pool.dispatcher.repair_after)
            < self.standing.now;
        if answer.reason == Reason::Next && overdue {
            answer.sentence.push_str(words::IF_LOST);
        }
        answer
            .sentence
            .push_str(&words::also(state, self.standing.pool, self.standing.now));
        Explanation {
            since,
            position,
            ..answer
        }
    }

    /// The reason that keeps tasks of this route waiting; `position` is the place of one of them.
    fn at_route(&self, route: &Route, position: Option<Position>) -> Explanation {
        let able = self.programmers(route);
        let views = able.iter().map(|one| one.view.clone()).collect();
        let with = |reason, sentence| Explanation {
            programmers: views,
            ..Explanation::new(reason, sentence, None)
        };
        if let Some((reason, sentence)) = self.paused(route, &able, position) {
            return with(reason, sentence);
        }
        let idle: Vec<&ProgrammerId> = able
            .iter()
            .filter(|one| one.view.state == Availability::Idle)
            .map(|one| &one.view.id)
            .collect();
        let before = position.map_or(0, |position| position.place - 1);
        if !idle.is_empty() && before < idle.len() {
            return with(Reason::Next, words::next(route, &idle));
        }
        if !idle.is_empty() {
            return with(
                Reason::BehindOthers,
                words::behind(route, (idle.len(), able.len()), before),
            );
        }
        let any = |state| able.iter().any(|one| one.view.state == state);
        let reason = match (any(Availability::LeftToFree), any(Availability::Busy)) {
            (true, _) => Reason::LeftToFree,
            (false, true) => Reason::Busy,
            (false, false) => Reason::Unavailable,
        };
        let until = able.iter().filter_map(|one| one.view.until).min();
        with(reason, words::nobody(route, &able, position)).until(until)
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
        let held: Vec<(Target, Paused)> = of_all
            .chain(of_route)
            .map(|(target, paused)| (target.clone(), *paused))
            .collect();
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
        Some((
            reason,
            words::paused(
                &held,
                each_by_itself.unwrap_or_default(),
                position,
                self.standing.now,
            ),
        ))
    }

    /// Tasks count in the order in which their messages came into the queue, as far as the log
    /// shows. A message that is handed back keeps its place.
    fn position(&self, id: &TaskId, state: &TaskState) -> Option<Position> {
        let tasks = &self.standing.fold.tasks;
        let own = (state.issued_at, id);
        let (mut before, mut of, mut listed) = (0, 0, false);
        for other in tasks.waiting_in(&state.route) {
            let Some(published) = tasks.get(other).filter(|state| state.published) else {
                continue;
            };
            of += 1;
            before += usize::from((published.issued_at, other) < own);
            listed |= other == id;
        }
        listed.then_some(Position {
            place: before + 1,
            of,
        })
    }
}
