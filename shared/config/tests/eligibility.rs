//! Which programmers may take a task now: `pool_core::eligibility`, with pool files as people write them.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use pool_config::parse;
use pool_core::eligibility::*;
use pool_core::event::{
    BudgetReserved, Configuration, Event, FailedCall, LlmFailed, ProgrammerUp, TaskFinished,
    TaskStarted, TaskSubmitted,
};
use pool_core::heartbeat::ShutReason;
use pool_core::id::{AttemptId, LlmName, ProgrammerId, TaskId, Token};
use pool_core::llm::Fault;
use pool_core::money::MicroUsd;
use pool_core::pool::{Pool, Strategy};
use pool_core::rules::Rules;
use pool_core::state::PoolState;
use pool_core::state::breaker::Caller;
use pool_core::time::Timestamp;

/// 001 has a free LLM and a paid backup. 002 to 005 have one paid LLM each: 002 and 003 at $1.00, 004 and 005 at $0.30.
const POOL: &str = r#"
programmers:
  - {id: "001", primary_llm: ollama/qwen, backup_llm: openai/gpt-4o, max_cost_per_job_usd: 1.00}
  - {id: "002", primary_llm: openai/gpt-4o, max_cost_per_job_usd: 1.00}
  - {id: "003", primary_llm: openai/gpt-4o, max_cost_per_job_usd: 1.00}
  - {id: "004", primary_llm: openai/gpt-4o, max_cost_per_job_usd: 0.30}
  - {id: "005", primary_llm: openai/gpt-4o, max_cost_per_job_usd: 0.30}
prices: {openai/gpt-4o: {input_usd_per_mtok: 2.5, cached_input_usd_per_mtok: 1.25, output_usd_per_mtok: 10}}
cost_optimization: {max_daily_spend_usd: 2.00, alert_threshold_usd: 1.00}
workspace: {dir: /tmp, roots: [/tmp]}
"#;

struct Log {
    pool: Pool,
    fold: PoolState,
    at: u64,
}

impl Log {
    fn new() -> Self {
        let pool = parse(POOL, Path::new("pool.yaml")).expect("a good pool file");
        let mut log = Self {
            fold: PoolState::new(),
            at: 1_000_000,
            pool,
        };
        for programmer in log.pool.programmers.clone() {
            log.append(Event::from(ProgrammerUp {
                programmer: programmer.id,
                host: "h".to_owned(),
                again: false,
            }));
        }
        let rules = Rules::of(&log.pool);
        log.append(Event::from(Configuration {
            hash: "h".to_owned(),
            capabilities: BTreeMap::new(),
            rules,
            again: false,
        }));
        log
    }

    fn append(&mut self, decision: Event) {
        self.fold.append(Timestamp(self.at), decision);
    }

    fn fail(&mut self, llm: &str, task: u32, programmer: &str) {
        let (llm, programmer) = (LlmName::new(llm).expect("an LLM"), id(programmer));
        let key = self.pool.llm_key(&llm, "h");
        let host = "h".to_owned();
        let caller = Caller {
            programmer: programmer.clone(),
            host: host.clone(),
        };
        let (epoch, task) = (
            self.fold.breakers.epoch(&key, &caller),
            TaskId::new(format!("t{task}")).expect("an id"),
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

    fn start(&mut self, programmer: &str, attempt: u128) {
        self.append(Event::from(TaskStarted {
            task: TaskId::new(format!("s{attempt}")).expect("an id"),
            attempt: AttemptId::from_u128(attempt),
            programmer: id(programmer),
            token: Token::default(),
            route: "any".to_owned(),
            body_hash: "h".to_owned(),
        }));
    }

    fn reserve(&mut self, programmer: &str, attempt: u128, dollars: &str) {
        let task = Some(TaskId::new(format!("s{attempt}")).expect("an id"));
        let (attempt, programmer) = (AttemptId::from_u128(attempt), id(programmer));
        let amount_usd = dollars.parse().expect("an amount");
        self.append(Event::from(BudgetReserved {
            attempt,
            task,
            programmer,
            amount_usd,
        }));
    }

    fn standing(&self) -> Eligibility<'_> {
        Eligibility {
            pool: &self.pool,
            fold: &self.fold,
            now: Timestamp(self.at),
        }
    }

    fn blocker(&self, programmer: &str) -> Option<Blocker> {
        let programmer = self.pool.programmer(&id(programmer)).expect("in the pool");
        self.standing().blocker(programmer, |_| true)
    }

    /// The programmers that may take a task.
    fn open(&self) -> Vec<String> {
        let all = self
            .pool
            .programmers
            .iter()
            .map(|programmer| programmer.id.to_string());
        all.filter(|id| self.blocker(id).is_none()).collect()
    }
}

fn id(text: &str) -> ProgrammerId {
    ProgrammerId::new(text).expect("an id")
}

#[test]
fn everybody_may_work_while_llms_answer_and_there_is_money() {
    let log = Log::new();
    // $2.00 is enough for two caps of $1.00, or for one of them and the small ones, in turn.
    assert!(
        log.open().contains(&"001".to_owned()),
        "free LLMs need no money"
    );
    let counts: Vec<usize> = (0..5)
        .map(|turn| {
            Log {
                at: turn * TURN_MS,
                ..Log::new()
            }
            .open()
            .len()
        })
        .collect();
    assert!(
        counts.iter().all(|open| (3..=4).contains(open)),
        "as many as fit, whoever's turn it is: {counts:?}"
    );
}

#[test]
fn whoever_waits_for_room_gets_his_turn() {
    let mut turns = BTreeSet::new();
    for turn in 0..10 {
        let mut log = Log::new();
        log.at += turn * TURN_MS;
        turns.extend(log.open());
    }
    assert_eq!(turns.len(), 5, "nobody is left out: {turns:?}");
}

#[test]
fn what_others_have_begun_is_kept_for_them() {
    let mut log = Log::new();
    log.start("002", 1);
    log.start("003", 2);
    assert_eq!(
        log.open(),
        ["001"],
        "two tasks in hand may still reserve the whole room"
    );
    log.reserve("002", 1, "0.10");
    log.reserve("003", 2, "0.10");
    assert!(log.blocker("004").is_none(), "they have reserved less");
}

#[test]
fn a_programmer_whose_cap_does_not_fit_is_shut_and_says_why() {
    let mut log = Log::new();
    log.start("003", 1);
    log.reserve("003", 1, "1.60");
    let blocker = log
        .blocker("002")
        .expect("a dollar does not fit into 40 cents");
    assert_eq!(blocker.reason, ShutReason::Budget, "money");
    assert!(
        blocker.detail.contains(
            "a task may cost up to $1.00, but only $0.40 of today's $2.00 is left ($0.00 spent, $1.60 reserved)"
        ),
        "{}",
        blocker.detail
    );
    assert_eq!(
        log.open().len(),
        2,
        "the free one, and one of those with 30 cents: {:?}",
        log.open()
    );
}

#[test]
fn who_has_a_free_llm_left_needs_no_money_and_who_has_lost_it_does() {
    let mut log = Log::new();
    log.start("003", 9);
    log.reserve("003", 9, "2.00");
    assert_eq!(log.open(), ["001"], "only the free one");
    for task in 0..3 {
        log.fail("ollama/qwen", task, "001");
    }
    assert_eq!(
        log.blocker("001").map(|blocker| blocker.reason),
        Some(ShutReason::Budget),
        "its backup costs money"
    );
    let standing = log.standing();
    let current = standing.current_llm(log.pool.programmer(&id("001")).expect("in the pool"));
    assert_eq!(
        current.map(|llm| llm.to_string()).as_deref(),
        Some("openai/gpt-4o"),
        "its calls go to the backup"
    );
}

#[test]
fn a_route_of_free_programmers_opens_for_paid_ones_when_a_task_has_waited() {
    let mut log = Log::new();
    log.pool.load_balancing.spill_to_paid_after = Duration::from_secs(60);
    let closed = |log: &Log, programmer: &str| {
        let routes = pool_core::routing::Routes::new(&log.pool.capabilities());
        let programmer = log.pool.programmer(&id(programmer)).expect("in the pool");
        log.standing()
            .closed_routes(programmer, &routes.of(&programmer.id), |_| true)
            .len()
    };
    assert_eq!(
        (closed(&log, "001"), closed(&log, "002")),
        (0, 1),
        "the free one has it for itself"
    );
    let task = TaskId::new("t").expect("an id");
    log.append(Event::from(TaskSubmitted {
        task,
        body_hash: "h".to_owned(),
        route: "any".to_owned(),
        deadline_ms: None,
    }));
    log.at += 59_999;
    assert_eq!(closed(&log, "002"), 1, "it has not waited long enough");
    log.at += 1;
    assert_eq!(closed(&log, "002"), 0, "now it has");
    for task in 0..3 {
        log.fail("ollama/qwen", task, "001");
    }
    log.start("001", 7);
    log.append(Event::from(TaskFinished {
        task: TaskId::new("t").expect("an id"),
        attempt: None,
        status: pool_core::result::Status::Cancelled,
        llm: None,
        cost_usd: MicroUsd::ZERO,
        error: None,
    }));
    assert_eq!(
        closed(&log, "001"),
        1,
        "a free programmer that would have to pay waits too"
    );
}

#[test]
fn a_route_opens_for_paid_programmers_when_its_free_llms_have_been_out_for_so_long_whatever_the_log_knows_of_tasks()
 {
    let mut log = Log::new();
    log.pool.load_balancing.spill_to_paid_after = Duration::from_secs(30);
    let closed = |log: &Log, alive: bool| {
        let routes = pool_core::routing::Routes::new(&log.pool.capabilities());
        let programmer = log.pool.programmer(&id("002")).expect("in the pool");
        log.standing()
            .closed_routes(programmer, &routes.of(&programmer.id), |_| alive)
            .len()
    };
    assert_eq!(
        (closed(&log, true), closed(&log, false)),
        (1, 0),
        "a free programmer that is not there serves nothing"
    );
    for task in 0..3 {
        log.fail("ollama/qwen", task, "001");
    }
    log.at += 29_999;
    assert_eq!(
        closed(&log, true),
        1,
        "a short outage moves nothing to paid ones"
    );
    log.at += 1;
    assert_eq!(closed(&log, true), 0, "a longer one does");
}

#[test]
fn free_programmers_come_first_and_then_those_with_the_least_to_spare() {
    let pool = parse(POOL, Path::new("pool.yaml")).expect("a good pool file");
    let priority = |pool: &Pool, index: usize| consumer_priority(pool, &pool.programmers[index]);
    assert!(priority(&pool, 0) > priority(&pool, 1), "its LLM is free");
    assert_eq!(priority(&pool, 1), priority(&pool, 2), "equal");
    let mut matching = pool;
    matching.load_balancing.strategy = Strategy::CapabilityMatch;
    matching.programmers[2].capabilities =
        [pool_core::id::Capability::new("fast").expect("a capability")].into();
    assert!(
        priority(&matching, 1) > priority(&matching, 2),
        "a programmer that offers more is kept for tasks that need it"
    );
    assert!(
        priority(&matching, 0) > priority(&matching, 1),
        "free before paid all the same"
    );
    matching.load_balancing.prefer_free_models = false;
    matching.cost.prefer_free_over_paid = false;
    assert_eq!(
        priority(&matching, 0),
        priority(&matching, 1),
        "not preferred"
    );
}

#[test]
fn who_has_no_llm_left_is_shut_and_says_which_and_until_when() {
    let mut log = Log::new();
    for (task, programmer) in ["002", "003", "004"].into_iter().enumerate() {
        log.fail(
            "openai/gpt-4o",
            u32::try_from(task).expect("small"),
            programmer,
        );
    }
    let blocker = log.blocker("005").expect("its only LLM is out");
    assert_eq!(blocker.reason, ShutReason::Breaker, "the breaker");
    for words in ["openai/gpt-4o", "3 failures", "timeout", "probed at"] {
        assert!(
            blocker.detail.contains(words),
            "{words} is missing: {}",
            blocker.detail
        );
    }
    assert_eq!(log.open(), ["001"], "the free one goes on");
}

#[test]
fn a_breaker_is_told_as_long_as_it_can_hold_back_a_call() {
    let mut log = Log::new();
    log.fail("openai/gpt-4o", 0, "002");
    log.fail("openai/gpt-4o", 1, "003");
    log.fail("openai/gpt-4o", 2, "004");
    for task in 10..13 {
        log.fail("ollama/qwen", task, "001");
    }
    let told = |log: &Log| -> Vec<String> {
        log.standing()
            .breakers()
            .map(|(key, scope, _)| format!("{} for {scope}", key.llm))
            .collect()
    };
    let all = ["ollama/qwen for Prog-001", "openai/gpt-4o for all"];
    let mut now = told(&log);
    now.sort();
    assert_eq!(now, all, "both LLMs are in use where they failed");
    log.append(Event::from(ProgrammerUp {
        programmer: id("001"),
        host: "another".to_owned(),
        again: false,
    }));
    assert_eq!(
        told(&log),
        ["openai/gpt-4o for all"],
        "nobody uses the local one of that host any more"
    );
    let base_url = "https://elsewhere.example.org/v1";
    log.pool
        .providers
        .get_mut("openai")
        .expect("a provider")
        .base_url = base_url.to_owned();
    assert!(
        told(&log).is_empty(),
        "its address in the pool file is another one"
    );
}
