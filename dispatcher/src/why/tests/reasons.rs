//! Every reason, and its sentence.

use pool_core::event::{
    ReleaseCause, Retry, TaskCancelled, TaskFinished, TaskPublished, TaskReissued, TaskReleased,
    TaskSubmitted,
};
use pool_core::result::{ErrorKind, Status};

use super::*;

/// A way in which `t` waits, and the sentence about it.
type Case = (Reason, fn(&mut World), &'static str);

const CASES: [Case; 29] = [
    (
        Reason::Busy,
        as_in_the_promise,
        "4 programmers offer `premium`: 2 busy, 1 behind an open breaker until 12:05 UTC after 3 failures of anthropic/claude \
         (last: timeout), 1 over budget until 00:00 UTC; it is 1 of 1 in the queue",
    ),
    (
        Reason::Finished,
        |world| {
            world.wait("t", "fast");
            world.start("t", "001", 1);
            let (attempt, llm) = (
                Some(AttemptId::from_u128(1)),
                LlmName::new("ollama/qwen").ok(),
            );
            let (status, cost_usd) = (Status::Failed, "0".parse().expect("an amount"));
            let error = Some(ErrorKind::NoChange);
            world.append(Event::from(TaskFinished {
                task: task("t"),
                attempt,
                status,
                llm,
                cost_usd,
                error,
            }));
        },
        "it is not waiting: it failed (no_change) on programmer 001 with ollama/qwen at 12:00 UTC",
    ),
    (
        Reason::Finished,
        |world| {
            world.wait("t", "fast");
            world.append(Event::from(TaskCancelled { task: task("t") }));
            // True whatever is read later.
            world.fresh = false;
        },
        "it is not waiting: it was cancelled at 12:00 UTC",
    ),
    (
        Reason::Running,
        |world| {
            world.wait("t", "premium");
            world.later(7);
            world.start("t", "006", 1);
        },
        "it is not waiting: programmer 006 has been working on it since 12:00:07 UTC, attempt 1 of 3",
    ),
    (
        Reason::Unavailable,
        |world| {
            world.wait("t", "premium");
            world.start("t", "006", 1);
            world.heard.seen.clear();
        },
        "4 programmers offer `premium`: 4 down; it was with Prog-006, which sends no heartbeats any more",
    ),
    (
        Reason::ViewStale,
        |world| {
            world.wait("t", "fast");
            world.fresh = false;
            world.later(30);
        },
        "this dispatcher cannot read the event log; check that the broker is running. Last known state, at 12:00 UTC: 2 programmers that offer `fast` are idle; one of them takes it next",
    ),
    (
        Reason::Retry,
        broke,
        "attempt 1 of 3 failed (agent_crashed); the next one starts no earlier than 12:00:10 UTC",
    ),
    (
        Reason::Retry,
        |world| {
            broke(world);
            world.later(11);
        },
        "attempt 1 of 3 failed (agent_crashed); the next one is about to be queued",
    ),
    (
        Reason::NotPublished,
        |world| world.submit("t", "fast"),
        "it was accepted at 12:00 UTC, but its message is not known to be in a queue yet; a dispatcher publishes it again at \
         12:01 UTC, or at once if you submit it again with the same id",
    ),
    (
        Reason::NotPublished,
        |world| {
            world.wait("t", "fast");
            world.append(Event::reissued(&task("t"), 1));
            world.later(60);
        },
        "it has been due for republishing since 12:00 UTC (generation 1); if that does not happen, a dispatcher does it shortly",
    ),
    (
        Reason::Unroutable,
        |world| world.wait("t", "gpu"),
        "no programmer offers `gpu`; add it to a programmer in the pool file, or cancel the task",
    ),
    (
        Reason::RouteRetired,
        |world| {
            let offers = BTreeMap::from([(
                id("001"),
                ["fast", "local"].map(|c| c.parse().expect("a word")).into(),
            )]);
            world.routes = Routes::new(&offers);
            world.wait("t", "local");
        },
        "its queue tasks.local is no longer used since the pool file changed; the next dispatcher that starts moves the task to \
         tasks.any",
    ),
    (
        Reason::RoutePaused,
        |world| {
            world.wait("t", "fast");
            world.pause(
                Target::Route {
                    name: "fast".to_owned(),
                },
                Pause::Pause,
            );
        },
        "route fast is paused since 12:00 UTC until `pool resume --route fast`; it is 1 of 1 in the queue",
    ),
    (
        Reason::PoolPaused,
        |world| {
            world.wait("t", "fast");
            world.pause(Target::All, Pause::Pause);
        },
        "the pool is paused since 12:00 UTC until `pool resume --all`; it is 1 of 1 in the queue",
    ),
    (
        Reason::PoolPaused,
        |world| {
            world.wait("t", "fast");
            world.pause(
                Target::Route {
                    name: "fast".to_owned(),
                },
                Pause::Pause,
            );
            world.later(7);
            world.pause(Target::All, Pause::Drain);
            world.pause(Target::Programmer { id: id("001") }, Pause::Pause);
        },
        "the pool is drained since 12:00:07 UTC until `pool resume --all`, and route fast is paused since 12:00 UTC \
         until `pool resume --route fast`; it is 1 of 1 in the queue",
    ),
    (
        Reason::RoutePaused,
        |world| {
            world.wait("t", "fast");
            world.pause(
                Target::Route {
                    name: "fast".to_owned(),
                },
                Pause::Pause,
            );
            for programmer in ["001", "002", "003"] {
                world.pause(Target::Programmer { id: id(programmer) }, Pause::Pause);
            }
        },
        "route fast is paused since 12:00 UTC until `pool resume --route fast`, and each of its 3 programmers has a pause of its own (`pool pauses`); it is 1 of 1 in the queue",
    ),
    (
        Reason::Next,
        |world| {
            world.wait("t", "premium");
            for programmer in ["006", "007", "009"] {
                world.is_shut(programmer, ShutReason::Config);
            }
        },
        "programmer 008 is idle and takes it next",
    ),
    (
        Reason::Next,
        |world| world.wait("t", "any"),
        "2 programmers that can take it are idle; one of them takes it next",
    ),
    (
        Reason::Next,
        |world| {
            world.wait("t", "premium");
            for programmer in ["006", "007", "009"] {
                world.is_shut(programmer, ShutReason::Config);
            }
            world.later(61);
        },
        "programmer 008 is idle and takes it next; if its message is lost, a dispatcher notices and publishes it again",
    ),
    (
        Reason::BehindOthers,
        |world| {
            ["a", "b", "t"]
                .into_iter()
                .for_each(|name| world.wait(name, "fast"));
        },
        "2 of 3 programmers that offer `fast` are idle, but 2 tasks are ahead of it",
    ),
    (
        Reason::LeftToFree,
        |world| {
            world.start("a", "001", 1);
            world.start("b", "002", 2);
            world.wait("t", "fast");
        },
        "3 programmers offer `fast`: 2 busy, 1 leaving it to free programmers until 12:01 UTC; it is 1 of 1 in the queue",
    ),
    (
        Reason::Next,
        |world| {
            world.start("a", "001", 1);
            world.start("b", "002", 2);
            world.wait("t", "fast");
            world.later(60);
        },
        "programmer 003 is idle and takes it next",
    ),
    (
        Reason::Busy,
        |world| {
            world.pause(Target::Programmer { id: id("003") }, Pause::Pause);
            world.start("a", "001", 1);
            world.start("b", "002", 2);
            world.wait("first", "fast");
            world.later(1);
            world.wait("t", "fast");
        },
        "3 programmers offer `fast`: 2 busy, 1 paused; it is 2 of 2 in the queue",
    ),
    (
        Reason::Busy,
        |world| {
            for (number, programmer) in ["001", "002", "003"].iter().enumerate() {
                world.start(programmer, programmer, number as u128);
            }
            world.wait("zz", "fast");
            world.wait("t", "fast");
            let (duration, by) = (
                Duration::from_secs(70),
                "earlier runs of the same task".to_owned(),
            );
            world.expected = Some(ExpectedAtSubmission { duration, by });
        },
        "3 programmers offer `fast`: 3 busy; it is 2 of 2 in the queue; of one submission the tasks that probably take \
         longest go first, and this one probably takes 1 min 10 s (by earlier runs of the same task)",
    ),
    (
        Reason::Busy,
        |world| {
            for (number, programmer) in ["001", "002", "003", "006", "007", "008", "009"]
                .iter()
                .enumerate()
            {
                world.start(programmer, programmer, number as u128);
            }
            world.wait("f", "fast");
            world.wait("g", "fast");
            world.wait("t", "any");
        },
        "7 programmers can take it: 7 busy with other routes; tasks that fewer programmers can do go first: 2 of `fast` \
         on 3 of these programmers; it is 1 of 1 in the queue",
    ),
    (
        Reason::Unavailable,
        |world| {
            world.wait("t", "premium");
            world.heard.seen.remove(&id("006"));
            world.is_shut("007", ShutReason::Clock);
            world.is_shut("008", ShutReason::Draining);
            world.is_shut("009", ShutReason::Held);
        },
        "4 programmers offer `premium`: 1 draining, 1 with a wrong clock, 1 held by another process, 1 down; it is 1 \
         of 1 in the queue",
    ),
    (
        Reason::Unavailable,
        |world| {
            // $6.00 of $10.00 fit, and $5.00 do, but not both. The others would be idle.
            for programmer in ["007", "008"] {
                world.is_shut(programmer, ShutReason::Config);
            }
            let not_its_turn = |world: &World| world.state("006").state == Availability::Budget;
            world.wait("t", "premium");
            for _ in 0..2 {
                if !not_its_turn(world) {
                    world.later(2);
                }
            }
            world.is_shut("009", ShutReason::Budget);
            let offers = [("001", "fast"), ("006", "premium")];
            let offers = offers
                .map(|(who, what)| (id(who), BTreeSet::from([what.parse().expect("a word")])));
            world.routes = Routes::new(&BTreeMap::from(offers));
        },
        "1 programmer offers `premium`: 1 waiting for its turn at the rest of the budget; it is 1 of 1 in the \
         queue",
    ),
    (
        Reason::Unavailable,
        |world| {
            handed_back(world);
            world.heard.seen.clear();
            world.heard.unheard = NoHeartbeat::NotYet(Duration::ZERO);
        },
        "4 programmers offer `premium`: 4 without a heartbeat yet; it is 1 of 1 in the queue; it was handed back 2 times (1 of at most 10 because no LLM was available, 1 of at most 10 because the sandbox could not be set up); it expires at 12:30 UTC unless it starts before",
    ),
    (
        Reason::Unavailable,
        |world| {
            world.wait("t", "premium");
            for programmer in ["006", "007", "008", "009"] {
                world.outage("openai/gpt-4o", programmer);
                world.outage("anthropic/claude", programmer);
            }
        },
        "4 programmers offer `premium`: 2 behind an open breaker until 12:05 UTC after 4 failures of anthropic/claude (last: timeout), \
         2 behind an open breaker until 12:05 UTC after 5 failures of openai/gpt-4o (last: timeout); it is 1 of 1 in the queue",
    ),
];

fn broke(world: &mut World) {
    world.wait("t", "fast");
    world.start("t", "001", 1);
    let (attempt, at_ms) = (AttemptId::from_u128(1), world.at.0 + 10_000);
    let retry = Some(Retry {
        attempt,
        error: ErrorKind::AgentCrashed,
        at_ms,
        spent: Default::default(),
    });
    world.append(Event::from(TaskReissued {
        task: task("t"),
        generation: 1,
        retry,
    }));
}

fn handed_back(world: &mut World) {
    let (route, body_hash, deadline_ms) = (
        "premium".to_owned(),
        "h".to_owned(),
        Some(world.at.0 + 30 * 60_000),
    );
    world.append(Event::from(TaskSubmitted {
        task: task("t"),
        body_hash,
        route,
        deadline_ms,
    }));
    world.append(Event::from(TaskPublished {
        task: task("t"),
        generation: 0,
    }));
    for (attempt, cause) in [(1, ReleaseCause::NoLlm), (2, ReleaseCause::NoSandbox)] {
        world.start("t", "006", attempt);
        world.append(Event::from(TaskReleased {
            task: task("t"),
            attempt: AttemptId::from_u128(attempt),
            cause,
        }));
    }
}

#[test]
fn every_reason_has_its_sentence() {
    let mut seen = BTreeSet::new();
    for (number, (reason, arrange, sentence)) in CASES.into_iter().enumerate() {
        let mut world = World::new();
        arrange(&mut world);
        let why = world.why("t");
        assert_eq!(
            (why.reason, why.sentence.as_str()),
            (reason, sentence),
            "case {number}"
        );
        seen.insert(reason);
    }
    let all = BTreeSet::from([
        Reason::Finished,
        Reason::Running,
        Reason::ViewStale,
        Reason::Retry,
        Reason::NotPublished,
        Reason::Unroutable,
        Reason::RouteRetired,
        Reason::PoolPaused,
        Reason::RoutePaused,
        Reason::Next,
        Reason::BehindOthers,
        Reason::LeftToFree,
        Reason::Busy,
        Reason::Unavailable,
    ]);
    assert_eq!(seen, all, "no reason is left out of the table");
}
