//! For every waiting task the pool says why it waits, and the reason is true.

use pool_core::id::AttemptId;
use pool_core::time::Timestamp;
use pool_telemetry::clock::new_id;
use serde_json::{Value, json};

use crate::support::bench::Bench;
use crate::support::pool::task;
use crate::support::{EventLog, Llm, Pool, PoolFile, SOON, eventually};

/// Waits until the answer fits, because a programmer's heartbeat arrives a moment later.
async fn why_where(pool: &Pool, id: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let (api, path) = (pool.api(), format!("/tasks/{id}/why"));
    let last = std::cell::RefCell::new(Value::Null);
    let found = eventually(what, SOON, async || {
        let why = api.get(&path).await;
        *last.borrow_mut() = why.clone();
        fits(&why).then_some(why)
    });
    match tokio::time::timeout(SOON / 2, found).await {
        Ok(why) => why,
        Err(_) => panic!("{what}: {:#}", last.borrow()),
    }
}

fn text<'a>(why: &'a Value, field: &str) -> &'a str {
    why[field].as_str().unwrap_or_default()
}

/// The state of each programmer that could take the task.
fn states(why: &Value) -> Vec<(&str, &str)> {
    let each = why["programmers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    each.iter()
        .map(|one| (text(one, "id"), text(one, "state")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_behind_busy_and_paused_programmers_says_who_does_what() {
    let mut bench = Bench::with(&["001", "002"]).await;
    bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    bench.pool.api().submit(&task("long")).await;
    let first = bench.pool.event_log().await.started("long").await;
    let other = if first.as_str() == "001" {
        "002"
    } else {
        "001"
    };
    bench
        .pool
        .command_line(&["pause", "--programmer", other])
        .await;
    bench
        .pool
        .api()
        .submit(&json!([task("a"), task("b")]))
        .await;

    let why = why_where(
        &bench.pool,
        "b",
        "it waits for the busy programmer",
        |why| why["reason"] == "busy",
    )
    .await;
    let place = text(&why, "sentence")
        .split("; ")
        .last()
        .unwrap_or_default()
        .to_owned();
    assert!(
        text(&why, "sentence").starts_with("2 programmers can take it: 1 busy, 1 paused;"),
        "{why:#}"
    );
    assert!(
        ["it is 1 of 2 in the queue", "it is 2 of 2 in the queue"].contains(&&*place),
        "{why:#}"
    );
    let mut expected = [(first.as_str(), "busy"), (other, "paused")];
    expected.sort_unstable();
    assert_eq!(states(&why), expected, "each programmer has its reason");
    let programmers = why["programmers"].as_array().expect("programmers");
    let busy = programmers
        .iter()
        .find(|one| one["state"] == "busy")
        .expect("the busy one");
    assert_eq!(busy["task"], "long", "with what");
    let view = bench.pool.api().get("/tasks/long").await;
    assert_eq!(busy["since"], view["started_at"], "since when");
    let paused = programmers
        .iter()
        .find(|one| one["state"] == "paused")
        .expect("the paused one");
    let order = format!("pool resume --programmer {other}");
    assert!(
        text(paused, "detail").contains(&order),
        "the answer says how the pause ends: {paused}"
    );

    let said = bench.pool.command_line(&["why", "b"]).await;
    assert!(
        said.starts_with("b: 2 programmers can take it: 1 busy, 1 paused;"),
        "the command line says the same: {said}"
    );
    assert!(
        said.contains("working on long"),
        "the command line has the details: {said}"
    );
    let running = bench.pool.api().get("/tasks/long/why").await;
    let works = format!("it is not waiting: programmer {first} has been working on it since ");
    assert!(
        text(&running, "sentence").starts_with(&works),
        "the answer names the programmer that runs it: {running:#}"
    );
    bench.go();
    bench.pool.api().result("b", SOON).await;
    let done = bench.pool.api().get("/tasks/b/why").await;
    let works = format!("it is not waiting: it succeeded on programmer {first}");
    assert!(
        text(&done, "sentence").starts_with(&works),
        "the answer says how it ended: {done:#}"
    );
    assert_eq!(
        bench.pool.api().get("/tasks/nobody/why").await["status"],
        404,
        "an unknown task is 404"
    );
}

/// Programmers that share a paid LLM. Its breaker opens after one failure, for too long to close
/// within the test.
fn paid(llm: &Llm) -> PoolFile {
    let file = PoolFile::grown(2, "paid/primary", None).calling(&[]);
    let file = file.paid_llm("paid/primary", &llm.base_url(), ("1", "10"));
    let breaker =
        json!({"failure_threshold": 1, "window_s": 600, "cooldown_s": 600, "scope": "programmer"});
    file.set("defaults.max_cost_per_job_usd", json!("0.02"))
        .set("cost_optimization.max_daily_spend_usd", json!("1.00"))
        .set("cost_optimization.alert_threshold_usd", json!("1.00"))
        .set("failover.circuit_breaker", breaker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_behind_breakers_says_which_llm_is_out_and_until_when() {
    let llm = Llm::start_with_usage(100, 100).await;
    let pool = Pool::start(&paid(&llm)).await;
    llm.fail_with("primary", 503).await;
    let one = json!({"id": "t", "instruction": "t: change something", "repository": "app", "capabilities": ["work"]});
    pool.api().submit(&one).await;
    let why = why_where(&pool, "t", "both programmers have tried", |why| {
        states(why) == [("001", "breaker"), ("002", "breaker")]
    })
    .await;
    assert_eq!(why["reason"], "unavailable", "{why:#}");
    let sentence = text(&why, "sentence");
    assert!(
        sentence.starts_with("2 programmers can take it: "),
        "{sentence}"
    );
    assert!(
        sentence.contains("after 1 failure of paid/primary (last: unavailable)"),
        "the sentence names the LLM and the reason: {sentence}"
    );
    assert!(
        sentence
            .contains("it was handed back 2 times (2 of at most 10 because no LLM was available)"),
        "{sentence}"
    );
    let status = pool.status().await;
    let breakers = status.0["breakers"].as_array().expect("breakers");
    let until = |of: &Value| -> Timestamp {
        serde_json::from_value(of["until"].clone()).expect("until when")
    };
    assert_eq!(
        Some(until(&why)),
        breakers.iter().map(until).min(),
        "the time is that of the first probe"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_no_money_is_left_for_says_so_and_until_when() {
    let llm = Llm::start_with_usage(100, 100).await;
    let pool = Pool::start(&paid(&llm)).await;
    let mut log: EventLog = pool.event_log().await;
    let attempt = new_id::<AttemptId>();
    let reserved =
        json!({"kind": "reserved", "attempt": attempt, "programmer": "001", "amount_usd": "0.99"});
    log.append(&[reserved]).await;
    let status = pool
        .status_where("no programmer has budget", |status| {
            status.all_are_shut_for("budget")
        })
        .await;
    pool.api().submit(&task("t")).await;
    let why = why_where(&pool, "t", "the reason is the budget", |why| {
        why["reason"] == "unavailable"
    })
    .await;
    assert_eq!(
        states(&why),
        [("001", "budget"), ("002", "budget")],
        "{why:#}"
    );
    assert!(
        text(&why, "sentence").starts_with("2 programmers can take it: 2 over budget until "),
        "{why:#}"
    );
    assert_eq!(
        why["until"], status.0["budget"]["day_ends"],
        "the end of the day is the end of the wait"
    );

    let settled = json!({"kind": "settled", "attempt": attempt, "cost_usd": "0.10", "by_llm": {}});
    log.append(&[settled]).await;
    pool.api().result("t", SOON).await;
    assert_eq!(
        pool.api().get("/tasks/t/why").await["reason"],
        "finished",
        "after the day's end the task is started"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_worker_was_killed_waits_again_and_is_counted_so() {
    let mut bench = Bench::with(&["001"]).await;
    let worker = bench.begin("orphan").await;
    let sum = |status: &Value, field: &str| -> u64 {
        let routes = status["routes"].as_array().expect("routes");
        routes
            .iter()
            .filter_map(|route| route[field].as_u64())
            .sum()
    };
    let status = bench.pool.status().await.0;
    assert_eq!(
        (sum(&status, "running"), sum(&status, "waiting_tasks")),
        (1, 0),
        "one task runs: {status:#}"
    );

    bench.pool.kill_worker(worker);
    let who = "; it was with Prog-001, whose worker has lost its connection to the broker";
    let again =
        |why: &Value| why["reason"] == "unavailable" && text(why, "sentence").ends_with(who);
    let why = why_where(
        &bench.pool,
        "orphan",
        "its worker is gone, and the sentence says who had it",
        again,
    )
    .await;
    let sentence = text(&why, "sentence");
    assert!(
        sentence.contains("1 down"),
        "the sentence says who could take it: {sentence}"
    );
    let status = bench.pool.status().await.0;
    assert_eq!(
        (sum(&status, "running"), sum(&status, "waiting_tasks")),
        (0, 1),
        "one task waits: {status:#}"
    );
    let view = bench.pool.api().get("/tasks/orphan").await;
    assert_eq!(view["status"], "queued", "lists show it as queued, too");
    for field in ["programmer", "attempt", "started_at"] {
        assert!(
            view[field].is_null(),
            "a lost attempt leaves no {field}: {view:#}"
        );
    }
    let routes = status["routes"].as_array().expect("routes");
    let oldest = routes
        .iter()
        .find(|route| route["waiting_tasks"] == 1)
        .map(|route| &route["oldest_waiting"]);
    assert_eq!(
        oldest,
        Some(&view["submitted_at"]),
        "it has waited since it was submitted"
    );
    bench.go();
    bench.pool.start_worker(&["--all"]);
    let result = bench.pool.api().result("orphan", SOON).await;
    assert_eq!(
        result.programmer.as_ref().map(|id| id.as_str()),
        Some("001"),
        "the next worker does it"
    );
    let view = bench.pool.api().get("/tasks/orphan").await;
    assert!(
        view["started_at"].is_string(),
        "it shows the start of the successful attempt: {view:#}"
    );
}
