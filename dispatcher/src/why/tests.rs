use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use pool_api::status::{LastBeat, NoHeartbeat};
use pool_api::why::ProgrammerWhy;
use pool_config::parse;
use pool_core::event::{
    BudgetReserved, BudgetSet, Configuration, EmitterId, Event, FailedCall, LlmFailed,
    ProgrammerUp, TargetPaused, TaskPublished, TaskStarted, TaskSubmitted,
};
use pool_core::heartbeat::{Gate, ShutReason};
use pool_core::id::{AttemptId, LlmName, Token};
use pool_core::llm::Fault;
use pool_core::pause::{Pause, Target};
use pool_core::pool::Pool;
use pool_core::routing::Routes;
use pool_core::rules::Rules;
use pool_core::state::PoolState;
use pool_core::state::breaker::Caller;

use super::*;
use crate::history::ExpectedAtSubmission;
use crate::views::presence::Snapshot;

mod reasons;

/// Four premium programmers with paid LLMs; two fast ones with a free LLM, and one with a paid one.
const POOL: &str = r#"
programmers:
  - {id: "001", primary_llm: ollama/qwen, capabilities: [fast]}
  - {id: "002", primary_llm: ollama/qwen, capabilities: [fast]}
  - {id: "003", primary_llm: openai/gpt-4o, capabilities: [fast], max_cost_per_job_usd: 0.10}
  - {id: "006", primary_llm: anthropic/claude, capabilities: [premium], max_cost_per_job_usd: 6.00}
  - {id: "007", primary_llm: openai/gpt-4o, capabilities: [premium], max_cost_per_job_usd: 0.10}
  - {id: "008", primary_llm: anthropic/claude, capabilities: [premium], max_cost_per_job_usd: 0.10}
  - {id: "009", primary_llm: openai/gpt-4o, capabilities: [premium], max_cost_per_job_usd: 5.00}
load_balancing: {spill_to_paid_after: 60s}
prices:
  openai/gpt-4o: {input_usd_per_mtok: 2.5, cached_input_usd_per_mtok: 1.25, output_usd_per_mtok: 10}
  anthropic/claude: {input_usd_per_mtok: 3, cached_input_usd_per_mtok: 1.5, output_usd_per_mtok: 15}
cost_optimization: {max_daily_spend_usd: 10.00, alert_threshold_usd: 9.00}
failover: {circuit_breaker: {failure_threshold: 3, window_minutes: 10, cooldown_minutes: 5}}
workspace: {dir: /tmp, roots: [/tmp]}
"#;

/// A pool at noon, with all programmers idle.
struct World {
    pool: Pool,
    routes: Routes,
    fold: PoolState,
    heard: Snapshot,
    fresh: bool,
    expected: Option<ExpectedAtSubmission>,
    at: Timestamp,
}

impl World {
    fn new() -> Self {
        let pool = parse(POOL, Path::new("pool.yaml")).expect("a good pool file");
        let offers: BTreeMap<_, _> = pool
            .programmers
            .iter()
            .map(|one| (one.id.clone(), one.capabilities.clone()))
            .collect();
        let at = "2026-01-31T12:00:00Z".parse().expect("a time");
        let (fold, routes) = (PoolState::new(), Routes::new(&offers));
        let heard = Snapshot::empty(NoHeartbeat::Silent { since: at });
        let mut world = Self {
            pool,
            routes,
            fold,
            heard,
            fresh: true,
            expected: None,
            at,
        };
        for programmer in world.pool.programmers.clone() {
            world.says(programmer.id.as_str(), Gate::Consuming);
            world.append(Event::from(ProgrammerUp {
                programmer: programmer.id,
                host: "h".to_owned(),
                again: false,
            }));
        }
        let rules = Rules::of(&world.pool);
        world.append(Event::from(Configuration {
            hash: "h".to_owned(),
            capabilities: offers,
            rules,
            again: false,
        }));
        world
    }

    fn append(&mut self, decision: Event) {
        self.fold.append(self.at, decision);
    }

    fn later(&mut self, seconds: u64) {
        self.at.0 += seconds * 1000;
    }

    fn says(&mut self, programmer: &str, gate: Gate) {
        let seen = LastBeat {
            gate,
            port: 0,
            worker: "worker h/1".to_owned(),
            sandbox: None,
        };
        self.heard.seen.insert(id(programmer), seen);
    }

    fn is_shut(&mut self, programmer: &str, reason: ShutReason) {
        self.says(
            programmer,
            Gate::Shut {
                reason,
                detail: "as it says itself".to_owned(),
            },
        );
    }

    fn submit(&mut self, name: &str, route: &str) {
        let (task, route, body_hash) = (task(name), route.to_owned(), "h".to_owned());
        self.append(Event::from(TaskSubmitted {
            task,
            body_hash,
            route,
            deadline_ms: None,
        }));
    }

    /// Submits `t`, the task that the tests ask about.
    fn wait(&mut self, name: &str, route: &str) {
        self.submit(name, route);
        self.append(Event::from(TaskPublished {
            task: task(name),
            generation: 0,
        }));
    }

    /// Starts a task of the programmer's most specific route, if the log does not know the task.
    fn start(&mut self, name: &str, programmer: &str, attempt: u128) {
        let route = self.routes.of(&id(programmer))[0].name.clone();
        self.append(Event::from(TaskStarted {
            task: task(name),
            attempt: AttemptId::from_u128(attempt),
            programmer: id(programmer),
            token: Token {
                generation: 0,
                count: u64::try_from(attempt).expect("a small number"),
            },
            route,
            body_hash: "h".to_owned(),
        }));
    }

    fn reserve(&mut self, name: &str, programmer: &str, attempt: u128, dollars: &str) {
        let (task, programmer, attempt) = (
            Some(task(name)),
            id(programmer),
            AttemptId::from_u128(attempt),
        );
        let amount_usd = dollars.parse().expect("an amount");
        self.append(Event::from(BudgetReserved {
            attempt,
            task,
            programmer,
            amount_usd,
        }));
    }

    /// Three failed calls of three tasks.
    fn outage(&mut self, llm: &str, programmer: &str) {
        let (llm, programmer, host) = (
            LlmName::new(llm).expect("an LLM"),
            id(programmer),
            "h".to_owned(),
        );
        let key = self.pool.llm_key(&llm, &host);
        for n in 0..3 {
            let caller = Caller {
                programmer: programmer.clone(),
                host: host.clone(),
            };
            let epoch = self.fold.breakers.epoch(&key, &caller);
            let (key, programmer, host, task) = (
                key.clone(),
                programmer.clone(),
                host.clone(),
                task(&format!("o{n}")),
            );
            let fault = Fault::Timeout;
            self.append(Event::from(LlmFailed {
                key,
                programmer,
                host,
                task,
                fault,
                epoch,
                retry_after_ms: None,
                call: FailedCall::default(),
            }));
        }
    }

    fn pause(&mut self, target: Target, pause: Pause) {
        self.append(Event::from(TargetPaused {
            target,
            pause,
            since_ms: None,
        }));
    }

    fn why(&self, name: &str) -> Why {
        let standing = Eligibility {
            pool: &self.pool,
            fold: &self.fold,
            now: self.at,
        };
        let look = WhyContext {
            standing: &standing,
            routes: &self.routes,
            heard: &self.heard,
            fresh: self.fresh,
            expected: self.expected.as_ref(),
        };
        why(&look, &task(name)).unwrap_or_else(|| panic!("the log knows {name}"))
    }

    /// The programmer's reason for not taking `t`.
    fn state(&self, programmer: &str) -> ProgrammerWhy {
        let why = self.why("t");
        let found = why
            .programmers
            .into_iter()
            .find(|one| one.id.as_str() == programmer);
        found.unwrap_or_else(|| panic!("{programmer} is able"))
    }
}

fn id(text: &str) -> ProgrammerId {
    ProgrammerId::new(text).expect("an id")
}

fn task(text: &str) -> TaskId {
    TaskId::new(text).expect("an id")
}

/// Each programmer of the premium route has another reason.
fn as_in_the_promise(world: &mut World) {
    world.start("a", "006", 1);
    world.reserve("a", "006", 1, "6.00");
    world.start("b", "007", 2);
    world.outage("anthropic/claude", "008");
    world.wait("t", "premium");
}

#[test]
fn everything_that_can_keep_a_programmer_is_told_with_its_detail() {
    let mut seen = BTreeSet::new();
    let shut = [
        (ShutReason::Config, Availability::Config),
        (ShutReason::Clock, Availability::Clock),
        (ShutReason::Log, Availability::Log),
        (ShutReason::Held, Availability::Held),
        (ShutReason::Broker, Availability::Broker),
        (ShutReason::Sandbox, Availability::Sandbox),
        (ShutReason::Draining, Availability::Draining),
    ];
    for (reason, state) in shut {
        let mut world = World::new();
        world.wait("t", "premium");
        world.is_shut("006", reason);
        let said = world.state("006");
        assert_eq!(
            (said.state, said.detail.as_str()),
            (state, "as it says itself"),
            "only it can know this"
        );
        seen.insert(said.state);
    }
    let mut world = World::new();
    as_in_the_promise(&mut world);
    let busy = world.state("006");
    assert_eq!(
        (busy.task, busy.since),
        (Some(task("a")), Some(world.at)),
        "the task, and since when"
    );
    assert_eq!(
        world.state("008").until,
        Some(Timestamp(world.at.0 + 300_000)),
        "when it is probed"
    );
    assert_eq!(
        world.state("009").until.map(|at| at.to_string()).as_deref(),
        Some("2026-02-01T00:00:00.000Z"),
        "the day"
    );
    assert!(
        world.state("009").detail.contains("may cost up to $5.00"),
        "which cap does not fit: {:?}",
        world.state("009")
    );
    seen.extend(["006", "008", "009"].map(|programmer| world.state(programmer).state));
    for (pause, state) in [
        (Pause::Pause, Availability::Paused),
        (Pause::Drain, Availability::Draining),
    ] {
        world.pause(Target::Programmer { id: id("006") }, pause);
        assert_eq!(
            world.state("006").state,
            state,
            "it is busy, and takes no task after that"
        );
        assert_eq!(
            world.state("006").task,
            Some(task("a")),
            "its task is named as well"
        );
        seen.insert(state);
    }
    world.heard.seen.remove(&id("007"));
    seen.insert(world.state("007").state);
    world.heard.unheard = NoHeartbeat::NotYet(Duration::from_secs(2));
    seen.insert(world.state("007").state);
    let mut world = World::new();
    world.wait("t", "fast");
    seen.extend(["001", "003"].map(|programmer| world.state(programmer).state));
    let all: BTreeSet<_> = [
        [
            Availability::Idle,
            Availability::Busy,
            Availability::LeftToFree,
            Availability::Breaker,
            Availability::Budget,
        ],
        [
            Availability::Paused,
            Availability::Draining,
            Availability::Config,
            Availability::Clock,
            Availability::Log,
        ],
        [
            Availability::Held,
            Availability::Broker,
            Availability::Down,
            Availability::Unheard,
            Availability::Sandbox,
        ],
    ]
    .concat()
    .into_iter()
    .collect();
    assert_eq!(seen, all, "no state is left out");
}

#[test]
fn a_programmer_that_two_things_keep_says_both() {
    let mut world = World::new();
    as_in_the_promise(&mut world);
    // 009 is over budget already.
    world.outage("openai/gpt-4o", "009");
    let said = world.state("009");
    assert_eq!(
        said.state,
        Availability::Breaker,
        "its calls meet the breaker first"
    );
    assert_eq!(
        said.until.map(|at| at.to_string()).as_deref(),
        Some("2026-02-01T00:00:00.000Z"),
        "the later of both"
    );
    assert!(
        said.detail.contains("breaker open") && said.detail.contains("may cost up to $5.00"),
        "{}",
        said.detail
    );
    let sentence = world.why("t").sentence;
    assert!(
        sentence.contains(
            "3 failures of openai/gpt-4o (last: timeout) and over budget until 00:00 UTC"
        ),
        "{sentence}"
    );

    world.pause(Target::Programmer { id: id("006") }, Pause::Pause);
    let said = world.state("006").detail;
    assert!(
        said.contains("is paused since") && said.ends_with("; working on a since 12:00 UTC"),
        "{said}"
    );
    let sentence = world.why("t").sentence;
    assert!(sentence.contains("1 paused and busy"), "{sentence}");
}

#[test]
fn an_idle_programmer_of_a_paused_route_says_what_keeps_it() {
    let mut world = World::new();
    world.wait("t", "fast");
    assert_eq!(world.state("001").detail, "", "it has no reason");
    world.pause(
        Target::Route {
            name: "fast".to_owned(),
        },
        Pause::Pause,
    );
    let said = world.state("001");
    assert_eq!(said.state, Availability::Idle, "it is not paused itself");
    assert_eq!(
        said.detail,
        "route fast is paused since 12:00 UTC until `pool resume --route fast`"
    );
}

#[test]
fn the_log_is_believed_before_an_older_heartbeat() {
    let mut world = World::new();
    // Enough budget for all at once.
    world.append(Event::from(BudgetSet {
        limit_usd: "100".parse().expect("an amount"),
    }));
    world.wait("t", "premium");
    for (programmer, reason) in [
        ("006", ShutReason::Breaker),
        ("007", ShutReason::Budget),
        ("008", ShutReason::Paused),
    ] {
        world.is_shut(programmer, reason);
        assert_eq!(
            world.state(programmer).state,
            Availability::Idle,
            "this is over by the log"
        );
    }
    world.says(
        "009",
        Gate::Busy {
            task: task("done"),
            since: world.at,
        },
    );
    assert_eq!(
        world.state("009").state,
        Availability::Idle,
        "its task has ended by the log"
    );
    world.start("a", "006", 1);
    assert_eq!(
        world.state("006").state,
        Availability::Busy,
        "it has a task by the log"
    );
}

#[test]
fn who_is_not_heard_of_says_since_when_and_that_its_worker_has_ended() {
    let mut world = World::new();
    world.wait("t", "premium");
    world.heard.seen.remove(&id("006"));
    assert_eq!(
        world.state("006").detail,
        "no heartbeat since 12:00 UTC; is a worker running with it?"
    );
    world
        .heard
        .missed
        .insert(id("006"), NoHeartbeat::Left { at: world.at });
    let said = world.state("006");
    assert_eq!(
        said.state,
        Availability::Down,
        "it does not count as idle meanwhile"
    );
    assert_eq!(
        said.detail,
        "its worker ended at 12:00 UTC; is another one running with it?"
    );
    world.start("a", "006", 1);
    let sentence = world.why("a").sentence;
    assert!(
        sentence.ends_with("; it was with Prog-006, whose worker has ended"),
        "it waits again: {sentence}"
    );
    world
        .heard
        .missed
        .insert(id("006"), NoHeartbeat::Deaf("is not reachable"));
    assert_eq!(
        world.state("006").detail,
        "unknown: the broker is not reachable"
    );
}

#[test]
fn the_task_of_a_programmer_that_is_drained_says_when_it_is_given_back() {
    let mut world = World::new();
    world.start("t", "006", 1);
    world.pause(Target::Programmer { id: id("006") }, Pause::Pause);
    assert!(
        !world.why("t").sentence.contains("drained"),
        "a programmer that is only paused finishes its task"
    );
    world.pause(Target::Programmer { id: id("006") }, Pause::Drain);
    let until = world.at.plus(world.pool.dispatcher.drain_timeout);
    let why = world.why("t");
    let said = format!(
        "; its programmer is being drained: the task ends or is handed back by {}",
        pool_api::format::clock(until, world.at)
    );
    assert!(why.sentence.ends_with(&said), "{}", why.sentence);
    assert_eq!(why.until, Some(until), "when");
    world.at = until;
    assert!(
        world
            .why("t")
            .sentence
            .ends_with("and hands the task back now"),
        "{}",
        world.why("t").sentence
    );
}

#[test]
fn an_owner_whose_programmer_is_held_by_another_process_does_not_make_it_busy() {
    let mut world = World::new();
    world.start("a", "006", 1);
    world.later(1);
    let up = Event::from(ProgrammerUp {
        programmer: id("006"),
        host: "h".to_owned(),
        again: false,
    });
    let other = EmitterId::from_u128(2);
    world.fold.append_as(other, world.at, up);
    world.wait("t", "premium");
    assert_eq!(
        world.state("006").state,
        Availability::Idle,
        "its process has been replaced"
    );
    let sentence = world.why("a").sentence;
    assert!(
        sentence.ends_with("; it was with Prog-006, whose process is gone"),
        "it waits again: {sentence}"
    );
}

#[test]
fn places_in_the_queue_go_by_when_messages_came_into_it() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.submit(name, "premium");
    }
    for name in ["b", "t", "a"] {
        world.later(1);
        if name == "t" {
            world.submit(name, "premium");
        }
        world.append(Event::from(TaskPublished {
            task: task(name),
            generation: 0,
        }));
    }
    let place = |world: &World, name| {
        world
            .why(name)
            .position
            .map(|position| (position.place, position.of))
    };
    assert_eq!(place(&world, "b"), Some((1, 3)), "it was published first");
    assert_eq!(place(&world, "t"), Some((2, 3)), "then this one");
    assert_eq!(
        place(&world, "a"),
        Some((3, 3)),
        "it was submitted first and published last"
    );
    assert_eq!(place(&world, "c"), None, "it is in no queue");
    world.start("b", "006", 1);
    assert_eq!(
        place(&world, "t"),
        Some((1, 2)),
        "a task that was taken has left the queue"
    );
}
