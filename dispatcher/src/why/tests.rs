use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pool_shared::config::{Pool, parse};
use pool_shared::event::{Batch, Decision, EmitterId, Retry};
use pool_shared::fold::Fold;
use pool_shared::fold::breaker::Caller;
use pool_shared::heartbeat::{Gate, ShutReason};
use pool_shared::id::{AttemptId, LlmName, Token};
use pool_shared::llm::Fault;
use pool_shared::pause::{Pause, Target};
use pool_shared::result::{ErrorKind, Status};
use pool_shared::rules::Rules;
use pool_shared::status::Seen;

use super::*;

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

/// A pool at noon, with everybody idle.
struct World {
    pool: Pool,
    routes: Routes,
    fold: Fold,
    heard: Snapshot,
    fresh: bool,
    seq: u64,
    at: Timestamp,
}

impl World {
    fn new() -> Self {
        let pool = parse(POOL, Path::new("pool.yaml")).expect("a good pool file");
        let offers: BTreeMap<_, _> =
            pool.programmers.iter().map(|one| (one.id.clone(), one.capabilities.clone())).collect();
        let at = "2026-01-31T12:00:00Z".parse().expect("a time");
        let (fold, heard, routes) = (Fold::new(), Snapshot::default(), Routes::new(&offers));
        let mut world = Self { pool, routes, fold, heard, fresh: true, seq: 0, at };
        world.heard.complete = true;
        for programmer in world.pool.programmers.clone() {
            world.says(programmer.id.as_str(), Gate::Consuming);
            world.append(Decision::Up { programmer: programmer.id, host: "h".to_owned() });
        }
        let rules = Rules::of(&world.pool);
        world.append(Decision::Configured { hash: "h".to_owned(), capabilities: offers, rules });
        world
    }

    fn append(&mut self, decision: Decision) {
        let (emitter, events) = (EmitterId::from_u128(1), vec![decision]);
        let batch = Batch { v: 1, emitter, first: self.seq, at_ms: self.at.0, events };
        self.seq += 1;
        self.fold.apply(&batch, |_, _, _| ());
    }

    fn later(&mut self, seconds: u64) {
        self.at.0 += seconds * 1000;
    }

    fn says(&mut self, programmer: &str, gate: Gate) {
        let seen = Seen { gate, port: 0, worker: "worker h/1".to_owned() };
        self.heard.seen.insert(id(programmer), seen);
    }

    fn is_shut(&mut self, programmer: &str, reason: ShutReason) {
        self.says(programmer, Gate::Shut { reason, detail: "as it says itself".to_owned() });
    }

    fn submit(&mut self, name: &str, route: &str) {
        let (task, route, body_hash) = (task(name), route.to_owned(), "h".to_owned());
        self.append(Decision::Submitted { task, body_hash, route, deadline_ms: None });
    }

    /// `t` is what is asked about.
    fn wait(&mut self, name: &str, route: &str) {
        self.submit(name, route);
        self.append(Decision::Published { task: task(name), generation: 0 });
    }

    fn start(&mut self, name: &str, programmer: &str, attempt: u128) {
        self.append(Decision::Started {
            task: task(name),
            attempt: AttemptId::from_u128(attempt),
            programmer: id(programmer),
            token: Token { generation: 0, count: u64::try_from(attempt).expect("a small number") },
            route: "premium".to_owned(),
            body_hash: "h".to_owned(),
        });
    }

    fn reserve(&mut self, name: &str, programmer: &str, attempt: u128, dollars: &str) {
        let (task, programmer, attempt) = (Some(task(name)), id(programmer), AttemptId::from_u128(attempt));
        let amount_usd = dollars.parse().expect("an amount");
        self.append(Decision::Reserved { attempt, task, programmer, amount_usd });
    }

    /// Three calls of three tasks.
    fn outage(&mut self, llm: &str, programmer: &str) {
        let (llm, programmer, host) = (LlmName::new(llm).expect("an LLM"), id(programmer), "h".to_owned());
        let key = self.pool.llm_key(&llm, &host);
        for n in 0..3 {
            let caller = Caller { programmer: programmer.clone(), host: host.clone() };
            let epoch = self.fold.breakers.epoch(&key, &caller);
            let (key, programmer, host, task) = (key.clone(), programmer.clone(), host.clone(), task(&format!("o{n}")));
            let fault = Fault::Timeout;
            self.append(Decision::LlmFailed { key, programmer, host, task, fault, epoch, retry_after_ms: None });
        }
    }

    fn pause(&mut self, target: Target, pause: Pause) {
        self.append(Decision::Paused { target, pause });
    }

    fn why(&self, name: &str) -> Why {
        let standing = Standing { pool: &self.pool, fold: &self.fold, now: self.at };
        let look = Look { standing: &standing, routes: &self.routes, heard: &self.heard, fresh: self.fresh };
        why(&look, &task(name)).unwrap_or_else(|| panic!("the log knows {name}"))
    }

    /// What keeps this programmer from `t`.
    fn state(&self, programmer: &str) -> ProgrammerWhy {
        let why = self.why("t");
        let found = why.programmers.into_iter().find(|one| one.id.as_str() == programmer);
        found.unwrap_or_else(|| panic!("{programmer} is able"))
    }
}

fn id(text: &str) -> ProgrammerId {
    ProgrammerId::new(text).expect("an id")
}

fn task(text: &str) -> TaskId {
    TaskId::new(text).expect("an id")
}

/// Everybody of the premium route is kept by something else.
fn as_in_the_promise(world: &mut World) {
    world.start("a", "006", 1);
    world.reserve("a", "006", 1, "6.00");
    world.start("b", "007", 2);
    world.outage("anthropic/claude", "008");
    world.wait("t", "premium");
}

/// A way in which `t` waits, and what is said about it.
type Case = (Reason, fn(&mut World), &'static str);

const CASES: [Case; 23] = [
    (
        Reason::Busy,
        as_in_the_promise,
        "4 programmers offer `premium`: 2 busy, 1 breaker open until 12:05 UTC after 3 failures of anthropic/claude \
         (last: timeout), 1 over budget until 00:00 UTC; it is number 1 of 1 in the queue",
    ),
    (
        Reason::Finished,
        |world| {
            world.wait("t", "fast");
            world.start("t", "001", 1);
            let (attempt, llm) = (Some(AttemptId::from_u128(1)), LlmName::new("ollama/qwen").ok());
            let (status, cost_usd) = (Status::Failed, "0".parse().expect("an amount"));
            let error = Some(ErrorKind::NoChange);
            world.append(Decision::Finished { task: task("t"), attempt, status, llm, cost_usd, error });
        },
        "it does not wait: it has failed (no_change) by programmer 001 with ollama/qwen at 12:00 UTC",
    ),
    (
        Reason::Finished,
        |world| {
            world.wait("t", "fast");
            world.append(Decision::Cancelled { task: task("t") });
            // It is true whatever is read later.
            world.fresh = false;
        },
        "it does not wait: it has been cancelled (cancelled) at 12:00 UTC",
    ),
    (
        Reason::Running,
        |world| {
            world.wait("t", "premium");
            world.later(7);
            world.start("t", "006", 1);
        },
        "it does not wait: programmer 006 works on it since 12:00:07 UTC, attempt 1 of 3",
    ),
    (
        Reason::Running,
        |world| {
            world.wait("t", "premium");
            world.start("t", "006", 1);
            world.heard.seen.remove(&id("006"));
        },
        "it does not wait: programmer 006 works on it since 12:00 UTC, attempt 1 of 3; it is not heard of any more, and \
         when its process is gone the broker hands the task to another one",
    ),
    (
        Reason::ViewStale,
        |world| {
            world.wait("t", "fast");
            world.fresh = false;
            world.later(30);
        },
        "this dispatcher cannot read the event log, is the broker there? As it was at 2026-01-31T12:00:00.000Z: 2 \
         programmers that offer `fast` are idle, and one takes it next",
    ),
    (Reason::Retry, broke, "its attempt 1 of 3 broke (agent_crashed), and the next one waits until 12:00:10 UTC"),
    (
        Reason::Retry,
        |world| {
            broke(world);
            world.later(11);
        },
        "its attempt 1 of 3 broke (agent_crashed), and the next one is about to be published",
    ),
    (
        Reason::NotPublished,
        |world| world.submit("t", "fast"),
        "it was accepted at 12:00 UTC, and its message is not known to be in a queue yet; submitting it again with the \
         same id publishes it at once",
    ),
    (
        Reason::NotPublished,
        |world| {
            world.wait("t", "fast");
            world.append(Decision::reissued(&task("t"), 1));
        },
        "it is being published again since 12:00 UTC (generation 1)",
    ),
    (
        Reason::Unroutable,
        |world| world.wait("t", "gpu"),
        "no programmer offers `gpu`; let a programmer of the pool file offer it, or cancel the task",
    ),
    (
        Reason::RouteRetired,
        |world| {
            let offers = BTreeMap::from([(id("001"), ["fast", "local"].map(|c| c.parse().expect("a word")).into())]);
            world.routes = Routes::new(&offers);
            world.wait("t", "local");
        },
        "its queue tasks.local is not in use any more since the pool file changed; a dispatcher that starts sends it on to \
         tasks.any",
    ),
    (
        Reason::RoutePaused,
        |world| {
            world.wait("t", "fast");
            world.pause(Target::Route { name: "fast".to_owned() }, Pause::Pause);
        },
        "route fast is paused since 2026-01-31T12:00:00.000Z until `dispatcher resume --route fast`; it is number 1 of 1 in \
         the queue",
    ),
    (
        Reason::Next,
        |world| {
            world.wait("t", "premium");
            for programmer in ["006", "007", "009"] {
                world.is_shut(programmer, ShutReason::Config);
            }
        },
        "programmer 008 is idle, and takes it next",
    ),
    (Reason::Next, |world| world.wait("t", "any"), "2 programmers that can take it are idle, and one takes it next"),
    (
        Reason::BehindOthers,
        |world| {
            ["a", "b", "t"].into_iter().for_each(|name| world.wait(name, "fast"));
        },
        "2 of 3 programmers that offer `fast` are idle, and 2 tasks are before it",
    ),
    (
        Reason::LeftToFree,
        |world| {
            world.start("a", "001", 1);
            world.start("b", "002", 2);
            world.wait("t", "fast");
        },
        "3 programmers offer `fast`: 2 busy, 1 leaving it to free ones until 12:01 UTC; it is number 1 of 1 in the queue",
    ),
    (
        Reason::Next,
        |world| {
            world.start("a", "001", 1);
            world.start("b", "002", 2);
            world.wait("t", "fast");
            world.later(60);
        },
        "programmer 003 is idle, and takes it next",
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
        "3 programmers offer `fast`: 2 busy, 1 paused; it is number 2 of 2 in the queue",
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
        "4 programmers offer `premium`: 1 draining, 1 with a wrong clock, 1 held by another process, 1 down; it is number 1 \
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
            let offers = offers.map(|(who, what)| (id(who), BTreeSet::from([what.parse().expect("a word")])));
            world.routes = Routes::new(&BTreeMap::from(offers));
        },
        "1 programmer offers `premium`: 1 waiting for its turn at what is left of the budget; it is number 1 of 1 in the \
         queue",
    ),
    (
        Reason::Unavailable,
        |world| {
            handed_back(world);
            world.heard.seen.clear();
            world.heard.complete = false;
        },
        "4 programmers offer `premium`: 4 not heard of yet; it is number 1 of 1 in the queue; it was given back 1 time (1 \
         of at most 10 without an LLM left); it expires at 12:30 UTC unless it is started",
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
        "4 programmers offer `premium`: 2 breaker open until 12:05 UTC after 4 failures of anthropic/claude (last: timeout), \
         2 breaker open until 12:05 UTC after 5 failures of openai/gpt-4o (last: timeout); it is number 1 of 1 in the queue",
    ),
];

fn broke(world: &mut World) {
    world.wait("t", "fast");
    world.start("t", "001", 1);
    let (attempt, at_ms) = (AttemptId::from_u128(1), world.at.0 + 10_000);
    let retry = Some(Retry { attempt, error: ErrorKind::AgentCrashed, at_ms });
    world.append(Decision::Reissued { task: task("t"), generation: 1, retry });
}

fn handed_back(world: &mut World) {
    let (route, body_hash, deadline_ms) = ("premium".to_owned(), "h".to_owned(), Some(world.at.0 + 30 * 60_000));
    world.append(Decision::Submitted { task: task("t"), body_hash, route, deadline_ms });
    world.append(Decision::Published { task: task("t"), generation: 0 });
    world.start("t", "006", 1);
    world.append(Decision::Released { task: task("t"), attempt: AttemptId::from_u128(1), no_llm: true });
}

#[test]
fn every_reason_has_its_sentence() {
    let mut seen = BTreeSet::new();
    for (number, (reason, arrange, sentence)) in CASES.into_iter().enumerate() {
        let mut world = World::new();
        arrange(&mut world);
        let why = world.why("t");
        assert_eq!((why.reason, why.sentence.as_str()), (reason, sentence), "case {number}");
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
        Reason::RoutePaused,
        Reason::Next,
        Reason::BehindOthers,
        Reason::LeftToFree,
        Reason::Busy,
        Reason::Unavailable,
    ]);
    assert_eq!(seen, all, "no reason is left out of the table");
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
        (ShutReason::Draining, Availability::Draining),
    ];
    for (reason, state) in shut {
        let mut world = World::new();
        world.wait("t", "premium");
        world.is_shut("006", reason);
        let said = world.state("006");
        assert_eq!((said.state, said.detail.as_str()), (state, "as it says itself"), "only it can know this");
        seen.insert(said.state);
    }
    let mut world = World::new();
    as_in_the_promise(&mut world);
    let busy = world.state("006");
    assert_eq!((busy.task, busy.since), (Some(task("a")), Some(world.at)), "with what, and since when");
    assert_eq!(world.state("008").until, Some(Timestamp(world.at.0 + 300_000)), "when it is probed");
    assert_eq!(
        world.state("009").until.map(|at| at.to_string()).as_deref(),
        Some("2026-02-01T00:00:00.000Z"),
        "the day"
    );
    assert!(world.state("009").detail.contains("may cost $5.00"), "which cap does not fit: {:?}", world.state("009"));
    seen.extend(["006", "008", "009"].map(|programmer| world.state(programmer).state));
    for (pause, state) in [(Pause::Pause, Availability::Paused), (Pause::Drain, Availability::Draining)] {
        world.pause(Target::Programmer { id: id("006") }, pause);
        assert_eq!(world.state("006").state, state, "it is busy, and takes nothing after that");
        assert_eq!(world.state("006").task, Some(task("a")), "what it works on is told all the same");
        seen.insert(state);
    }
    world.heard.seen.remove(&id("007"));
    seen.insert(world.state("007").state);
    world.heard.complete = false;
    seen.insert(world.state("007").state);
    let mut world = World::new();
    world.wait("t", "fast");
    seen.extend(["001", "003"].map(|programmer| world.state(programmer).state));
    let all: BTreeSet<_> = [
        [Availability::Idle, Availability::Busy, Availability::LeftToFree, Availability::Breaker, Availability::Budget],
        [Availability::Paused, Availability::Draining, Availability::Config, Availability::Clock, Availability::Log],
        [Availability::Held, Availability::Broker, Availability::Down, Availability::Unheard, Availability::Idle],
    ]
    .concat()
    .into_iter()
    .collect();
    assert_eq!(seen, all, "no state is left out");
}

#[test]
fn the_log_is_believed_before_an_older_heartbeat() {
    let mut world = World::new();
    // Room for everybody at once.
    world.append(Decision::BudgetSet { limit_usd: "100".parse().expect("an amount") });
    world.wait("t", "premium");
    for (programmer, reason) in [("006", ShutReason::Breaker), ("007", ShutReason::Budget), ("008", ShutReason::Paused)]
    {
        world.is_shut(programmer, reason);
        assert_eq!(world.state(programmer).state, Availability::Idle, "the log knows that this is over");
    }
    world.says("009", Gate::Busy { task: task("done"), since: world.at });
    assert_eq!(world.state("009").state, Availability::Idle, "the log knows that its task has ended");
    world.start("a", "006", 1);
    assert_eq!(world.state("006").state, Availability::Busy, "the log knows that it has one");
}

#[test]
fn an_owner_whose_programmer_is_held_by_another_process_does_not_make_it_busy() {
    let mut world = World::new();
    world.start("a", "006", 1);
    world.later(1);
    let up = vec![Decision::Up { programmer: id("006"), host: "h".to_owned() }];
    let batch = Batch { v: 1, emitter: EmitterId::from_u128(2), first: 0, at_ms: world.at.0, events: up };
    world.fold.apply(&batch, |_, _, _| ());
    world.wait("t", "premium");
    assert_eq!(world.state("006").state, Availability::Idle, "its process has been replaced");
    assert!(world.why("a").sentence.contains("not heard of any more"), "{}", world.why("a").sentence);
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
        world.append(Decision::Published { task: task(name), generation: 0 });
    }
    let place = |world: &World, name| world.why(name).position.map(|position| (position.place, position.of));
    assert_eq!(place(&world, "b"), Some((1, 3)), "it was published first");
    assert_eq!(place(&world, "t"), Some((2, 3)), "then this one");
    assert_eq!(place(&world, "a"), Some((3, 3)), "it was submitted first and published last");
    assert_eq!(place(&world, "c"), None, "it is in no queue");
    world.start("b", "006", 1);
    assert_eq!(place(&world, "t"), Some((1, 2)), "who is taken is out of it");
}
