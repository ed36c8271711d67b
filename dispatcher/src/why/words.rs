//! All sentences are made here, so that they read alike.

use std::collections::BTreeMap;

use pool_api::format::{clock, counted, duration as in_words, with_clocks};
use pool_api::status::NoHeartbeat;
use pool_api::why::{Position, Reason, Why};
use pool_core::eligibility::explain_pause;
use pool_core::event::Retry;
use pool_core::id::{LlmName, ProgrammerId};
use pool_core::pause::Target;
use pool_core::pool::Pool;
use pool_core::routing::{Route, Routes, parse_routing_key};
use pool_core::state::breaker::Shut;
use pool_core::state::pauses::Paused;
use pool_core::state::{Outcome, Owner, TaskState};
use pool_core::time::Timestamp;

use super::model::{Able, ServedBefore};
use crate::history::ExpectedAtSubmission;

pub(super) fn finished(outcome: &Outcome, now: Timestamp) -> String {
    let error = outcome
        .error
        .map(|kind| kind.as_str())
        .filter(|kind| *kind != outcome.status.as_str());
    let error = error.map_or(String::new(), |kind| format!(" ({kind})"));
    let by = outcome
        .programmer
        .as_ref()
        .map_or(String::new(), |id| format!(" on programmer {id}"));
    let with = outcome
        .llm
        .as_ref()
        .map_or(String::new(), |llm| format!(" with {llm}"));
    format!(
        "it is not waiting: it {}{error}{by}{with} at {}",
        ended(outcome),
        clock(outcome.at, now)
    )
}

fn ended(outcome: &Outcome) -> String {
    use pool_core::result::Status;
    match outcome.status {
        Status::Succeeded | Status::Failed | Status::Expired => outcome.status.as_str().to_owned(),
        Status::Rejected | Status::Cancelled => format!("was {}", outcome.status.as_str()),
    }
}

pub(super) fn running(owner: &Owner, why: &Why) -> String {
    let (who, since) = (&owner.programmer, clock(owner.since, why.at));
    let (attempt, max) = (why.attempts, why.max_attempts);
    format!(
        "it is not waiting: programmer {who} has been working on it since {since}, attempt {attempt} of {max}"
    )
}

/// Added for a running task whose programmer is drained.
pub(super) fn drained(until: Timestamp, now: Timestamp) -> String {
    match until > now {
        true => format!(
            "; its programmer is being drained: the task ends or is handed back by {}",
            clock(until, now)
        ),
        false => "; its programmer is being drained and hands the task back now".to_owned(),
    }
}

/// Added for a task that waits again.
pub(super) fn lost(owner: &Owner, unseen: Option<NoHeartbeat>) -> String {
    let why = match unseen {
        Some(NoHeartbeat::Silent { .. }) => "which sends no heartbeats any more",
        Some(NoHeartbeat::Left { .. }) => "whose worker has ended",
        Some(NoHeartbeat::Gone { .. }) => "whose worker has lost its connection to the broker",
        Some(NoHeartbeat::Never { .. } | NoHeartbeat::NotYet(_) | NoHeartbeat::Deaf(_)) | None => {
            "whose process is gone"
        }
    };
    format!("; it was with {}, {why}", owner.programmer.display_name())
}

pub(super) fn stale(known: Timestamp, sentence: &str, now: Timestamp) -> String {
    let known = clock(known, now);
    format!(
        "this dispatcher cannot read the event log; check that the broker is running. Last known state, at {known}: {sentence}"
    )
}

pub(super) fn retry(retry: &Retry, why: &Why) -> String {
    let (due, error) = (Timestamp(retry.at_ms), retry.error.as_str());
    let (attempt, max) = (why.attempts, why.max_attempts);
    let when = match due > why.at {
        true => format!("starts no earlier than {}", clock(due, why.at)),
        false => "is about to be queued".to_owned(),
    };
    format!("attempt {attempt} of {max} failed ({error}); the next one {when}")
}

pub(super) fn not_published(state: &TaskState, due: Timestamp, now: Timestamp) -> String {
    let since = clock(state.issued_at, now);
    let again = match due > now {
        true => format!("at {}", clock(due, now)),
        false => "shortly".to_owned(),
    };
    if state.generation > 0 {
        let generation = state.generation;
        return format!(
            "it has been due for republishing since {since} (generation {generation}); if that does not happen, a dispatcher does it {again}"
        );
    }
    format!(
        "it was accepted at {since}, but its message is not known to be in a queue yet; a dispatcher publishes it again \
         {again}, or at once if you submit it again with the same id"
    )
}

/// No event shows whether the message is in its queue; a dispatcher repairs a lost one.
pub(super) const IF_LOST: &str =
    "; if its message is lost, a dispatcher notices and publishes it again";

/// The pool file has changed since the task was submitted.
pub(super) fn no_such_route(routes: &Routes, route: &str) -> (Reason, String) {
    match routes.route(&parse_routing_key(route).unwrap_or_default()) {
        Err(unroutable) => {
            let what = "add it to a programmer in the pool file, or cancel the task";
            (Reason::Unroutable, format!("{unroutable}; {what}"))
        }
        Ok(now) => {
            let now = now.queue();
            let sentence = format!(
                "its queue tasks.{route} is no longer used since the pool file changed; the next dispatcher that starts moves the task \
                 to {now}"
            );
            (Reason::RouteRetired, sentence)
        }
    }
}

/// All pauses that apply: an operator who ends one of two must know of the other.
pub(super) fn paused(
    pauses: &[(&Target, &Paused)],
    each_by_itself: usize,
    position: Option<Position>,
    now: Timestamp,
) -> String {
    let mut each: Vec<String> = pauses
        .iter()
        .map(|(target, paused)| pause(target, **paused, now))
        .collect();
    match each_by_itself {
        0 => {}
        1 => each.push("its only programmer has a pause of its own (`pool pauses`)".to_owned()),
        several => each.push(format!(
            "each of its {several} programmers has a pause of its own (`pool pauses`)"
        )),
    }
    format!("{}{}", each.join(", and "), place(position))
}

/// `route fast is paused since 12:00 UTC until `pool resume --route fast``.
pub(super) fn pause(target: &Target, paused: Paused, now: Timestamp) -> String {
    with_clocks(&explain_pause(target, paused), now)
}

pub(super) fn next(route: &Route, idle: &[&ProgrammerId]) -> String {
    match idle {
        [one] => format!("programmer {one} is idle and takes it next"),
        several => format!(
            "{} are idle; one of them takes it next",
            offering(several.len(), route, "that can take it")
        ),
    }
}

pub(super) fn behind(route: &Route, idle: usize, able: usize, before: usize) -> String {
    let tasks = counted(before, "task is", "tasks are");
    format!(
        "{idle} of {} are idle, but {tasks} ahead of it",
        offering(able, route, "that can take it")
    )
}

/// `4 programmers that offer `premium``.
fn offering(count: usize, route: &Route, any: &str) -> String {
    let programmers = counted(count, "programmer", "programmers");
    match capabilities(route) {
        Some(capabilities) => format!("{programmers} that offer {capabilities}"),
        None => format!("{programmers} {any}"),
    }
}

fn capabilities(route: &Route) -> Option<String> {
    let required = parse_routing_key(&route.name).filter(|required| !required.is_empty())?;
    Some(
        required
            .iter()
            .map(|capability| format!("`{capability}`"))
            .collect::<Vec<_>>()
            .join(", "),
    )
}

/// `4 programmers offer `premium`: 2 busy, 1 behind an open breaker until 12:05 UTC after …, 1 over budget until 00:00 UTC`.
pub(super) fn nobody(
    route: &Route,
    able: &[Able],
    before: &[ServedBefore],
    position: Option<Position>,
) -> String {
    let programmers = counted(able.len(), "programmer", "programmers");
    let verb = if able.len() == 1 { "offers" } else { "offer" };
    let who = match capabilities(route) {
        Some(capabilities) => format!("{programmers} {verb} {capabilities}"),
        None => format!("{programmers} can take it"),
    };
    let mut groups: BTreeMap<(_, &str), usize> = BTreeMap::new();
    for one in able {
        *groups
            .entry((one.view.state, one.words.as_str()))
            .or_default() += 1;
    }
    let each: Vec<String> = groups
        .iter()
        .map(|((_, words), count)| format!("{count} {words}"))
        .collect();
    let (each, before) = (each.join(", "), served_before(before));
    format!("{who}: {each}{before}{}", place(position))
}

/// `; tasks that fewer programmers can do go first: 12 of `fast` on 5 of these programmers`.
fn served_before(before: &[ServedBefore]) -> String {
    let each: Vec<String> = before
        .iter()
        .map(|one| {
            let (waiting, route, on) = (one.waiting, &one.route, one.programmers);
            format!("{waiting} of `{route}` on {on} of these programmers")
        })
        .collect();
    match each.as_slice() {
        [] => String::new(),
        each => format!(
            "; tasks that fewer programmers can do go first: {}",
            each.join(", ")
        ),
    }
}

fn place(position: Option<Position>) -> String {
    position.map_or(String::new(), |Position { place, of }| {
        format!("; it is {place} of {of} in the queue")
    })
}

/// Why a task comes before or after another one of its route.
pub(super) fn expected(expected: &ExpectedAtSubmission) -> String {
    let ExpectedAtSubmission { duration, by } = expected;
    let takes = in_words(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    format!(
        "; of one submission the tasks that probably take longest go first, and this one probably takes {takes} (by {by})"
    )
}

/// Facts that are added to every waiting task.
pub(super) fn also(state: &TaskState, pool: &Pool, now: Timestamp) -> String {
    let mut also = String::new();
    if state.releases > 0 {
        let times = counted(state.releases as usize, "time", "times");
        also.push_str(&format!("; it was handed back {times}"));
        let most = pool.dispatcher.max_hand_backs;
        let causes = [
            (state.hand_backs, "no LLM was available"),
            (state.sandbox_hand_backs, "the sandbox could not be set up"),
        ];
        let causes: Vec<String> = causes
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, cause)| format!("{count} of at most {most} because {cause}"))
            .collect();
        if !causes.is_empty() {
            also.push_str(&format!(" ({})", causes.join(", ")));
        }
    }
    if let Some(deadline) = state.deadline {
        also.push_str(&format!(
            "; it expires at {} unless it starts before",
            clock(deadline, now)
        ));
    }
    also
}

/// For a programmer whose LLMs are all unavailable.
pub(super) fn breakers(shut: &[(LlmName, Shut)], now: Timestamp) -> String {
    let out: Vec<String> = shut
        .iter()
        .filter_map(|(llm, shut)| {
            let outage = shut.outage.as_ref()?;
            let failures = counted(outage.failures as usize, "failure", "failures");
            Some(format!(
                "{failures} of {llm} (last: {})",
                outage.fault.as_str()
            ))
        })
        .collect();
    let until = shut
        .iter()
        .map(|(_, shut)| shut.until)
        .min()
        .map_or(String::new(), |until| clock(until, now));
    match out.as_slice() {
        [] => format!("waiting until {until} for its turn at an LLM that is available again"),
        [one] => format!("behind an open breaker until {until} after {one}"),
        several => format!(
            "behind open breakers until {until} after {}",
            several.join(" and ")
        ),
    }
}

/// For a programmer whose task would fit into the budget, while others that waited longer go first.
pub(super) const ITS_TURN: &str = "waiting for its turn at the rest of the budget";

pub(super) fn over_budget(until: Option<Timestamp>, now: Timestamp) -> String {
    until.map_or("over budget".to_owned(), |until| {
        format!("over budget until {}", clock(until, now))
    })
}

pub(super) fn left_to_free(until: Option<Timestamp>, now: Timestamp) -> String {
    let until = until.map_or(String::new(), |until| {
        format!(" until {}", clock(until, now))
    });
    format!("leaving it to free programmers{until}")
}
