//! Workers and dispatchers may be killed at any time: every task has one outcome and brings one
//! result.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, Consumer};
use pool_core::result::Status;
use serde_json::{Value, json};

use crate::support::amqp::channel;
use crate::support::bench::{Bench, is_alive};
use crate::support::pool::task;
use crate::support::status::PoolStatus;
use crate::support::{Pool, PoolFile, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_worker_is_killed_is_done_by_another_and_comes_back_once() {
    let mut bench = Bench::with(&["001", "002"]).await;
    let workers = ["001", "002"].map(|id| bench.pool.start_worker(&["--programmers", id]));
    bench.pool.all_consume().await;
    let mut submitter = bench.pool.submitter("me").await;
    submitter.submit("any", &task("killed")).await;
    let mut log = bench.pool.event_log().await;
    let first = log.started("killed").await;
    let agent = bench.agents_started(1).await[0];

    bench.pool.kill_worker(if first.as_str() == "001" {
        workers[0]
    } else {
        workers[1]
    });
    log.until("another programmer has started the task", SOON, |entries| {
        let starts = entries
            .iter()
            .filter(|entry| entry.accepted && entry.is_start_of("killed"));
        (starts.count() == 2).then_some(())
    })
    .await;
    eventually("the agent of the killed worker is gone", SOON, async || {
        (!is_alive(agent)).then_some(())
    })
    .await;
    bench.go();

    let result = submitter.reply(SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the other programmer has done it: {result:?}"
    );
    assert_ne!(
        result.programmer.as_ref(),
        Some(&first),
        "it is the result of another programmer"
    );
    // A second result would come before the result of a task that is submitted later.
    submitter.submit("any", &task("afterwards")).await;
    let next = submitter.reply(SOON).await;
    assert_eq!(
        next.task_id.as_ref().map(|id| id.as_str()),
        Some("afterwards"),
        "no second result of the first task"
    );
    log.read().await;
    assert_eq!(log.outcomes("killed"), [Status::Succeeded], "one outcome");
    assert_eq!(log.starts("killed").len(), 2, "two attempts");
    let branch = bench.pool.branch("app", "pool/killed").await;
    assert_eq!(
        Some(branch),
        result.commit,
        "the branch is the commit of the attempt that won"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_arrives_while_no_dispatcher_runs_is_delivered_by_the_next() {
    let mut bench = Bench::with(&["001"]).await;
    bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    let mut submitter = bench.pool.submitter("me").await;
    submitter.submit("any", &task("direct")).await;
    bench.pool.api().submit(&task("over-http")).await;
    let mut log = bench.pool.event_log().await;
    log.started("direct").await;

    bench.pool.kill_dispatcher();
    bench.go();
    for id in ["direct", "over-http"] {
        log.until(&format!("{id} is finished"), SOON, |entries| {
            entries.iter().find(|e| e.is_end_of(id)).map(|_| ())
        })
        .await;
    }
    bench.pool.start_dispatcher().await;

    let result = submitter.reply(SOON).await;
    assert_eq!(
        result.task_id.as_ref().map(|id| id.as_str()),
        Some("direct"),
        "the result was kept: {result:?}"
    );
    let result = bench.pool.api().result("over-http", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the history has the other result: {result:?}"
    );
    log.read().await;
    for id in ["direct", "over-http"] {
        assert_eq!(log.outcomes(id), [Status::Succeeded], "one outcome of {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_finishes_its_task_and_takes_no_other() {
    let mut bench = Bench::with(&["001"]).await;
    let worker = bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    bench
        .pool
        .api()
        .submit(&json!([task("running"), task("waiting")]))
        .await;
    let mut log = bench.pool.event_log().await;
    let (running, waiting) = log
        .until("one of the two tasks is started", SOON, |entries| {
            if entries.iter().any(|entry| entry.is_start_of("running")) {
                return Some(("running", "waiting"));
            }
            entries
                .iter()
                .any(|entry| entry.is_start_of("waiting"))
                .then_some(("waiting", "running"))
        })
        .await;

    bench.pool.worker(worker).terminate();
    bench.pool.worker_prints(worker, "draining").await;
    bench.go();
    let status = bench.pool.worker(worker).ended().await;
    assert!(status.success(), "a drain is an orderly end: {status}");
    log.read().await;
    assert_eq!(
        log.outcomes(running),
        [Status::Succeeded],
        "the running task was finished"
    );
    assert_eq!(
        log.starts(waiting).len(),
        0,
        "the other task was not started"
    );

    bench.pool.start_worker(&["--all"]);
    let result = bench.pool.api().result(waiting, SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the next worker does it: {result:?}"
    );
}

/// A worker that is told to end returns its task once `meanwhile` has happened, and another worker
/// does the task.
async fn is_given_back(drain_timeout_s: u64, meanwhile: impl AsyncFnOnce(&mut Pool, usize)) {
    let file = PoolFile::sample()
        .only(&["001"])
        .set("dispatcher.drain_timeout_s", json!(drain_timeout_s));
    let mut bench =
        Bench::with_file(file.set("load_balancing.health_check_interval_s", json!(1))).await;
    bench.pool.api().submit(&task("long")).await;
    let mut log = bench.pool.event_log().await;
    let worker = bench.pool.start_worker(&["--all"]);
    bench.agents_started(1).await;
    bench.pool.worker(worker).terminate();
    bench.pool.worker_prints(worker, "draining").await;
    meanwhile(&mut bench.pool, worker).await;
    assert!(
        bench.pool.worker(worker).ended().await.success(),
        "the worker ends in order"
    );
    log.read().await;
    let released = log
        .entries
        .iter()
        .filter(|entry| entry.is("released") && entry.accepted)
        .count();
    assert_eq!(released, 1, "the task was returned");
    assert!(!is_alive(bench.agents()[0]), "its agent has ended");

    bench.go();
    bench.pool.start_worker(&["--all"]);
    assert_eq!(
        bench.pool.api().result("long", SOON).await.status,
        Status::Succeeded,
        "another programmer has done it"
    );
    assert_eq!(
        bench.pool.api().get("/tasks/long").await["attempts"],
        1,
        "a drain burns no attempt"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_worker_sends_heartbeats_until_it_gives_the_task_back_and_burns_no_attempt() {
    is_given_back(4, async |pool, _| {
        let mut ears = Ears::at(&pool.amqp_url()).await;
        for _ in 0..4 {
            ears.hear_of("001").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_gives_the_task_back_at_once_and_burns_no_attempt() {
    is_given_back(600, async |pool, worker| pool.worker(worker).terminate()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_in_order_says_goodbye_and_is_known_to_be_gone_at_once() {
    // Without its goodbye the worker would be missed later than this test waits.
    let file = PoolFile::sample()
        .only(&["001"])
        .set("load_balancing.health_check_interval_s", json!(600));
    let mut bench = Bench::with_file(file).await;
    let worker = bench.begin("long").await;
    bench.pool.worker(worker).terminate();
    bench.pool.worker_prints(worker, "draining").await;
    bench.pool.worker(worker).terminate();
    assert!(
        bench.pool.worker(worker).ended().await.success(),
        "the worker ends in order"
    );

    let status = bench
        .pool
        .status_where("it is down", |status| {
            status.programmer("001")["state"] == "down"
        })
        .await;
    let reason = status.programmer("001")["reason"].to_string();
    assert!(
        reason.contains("its worker ended at "),
        "the reason is its end, not a missed heartbeat: {reason}"
    );
    let why = bench.pool.api().get("/tasks/long/why").await;
    let sentence = why["sentence"].as_str().unwrap_or_default();
    assert!(
        sentence.starts_with("1 programmer can take it: 1 down; "),
        "no programmer can take the task: {why:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_is_known_to_be_gone_before_a_heartbeat_is_missed() {
    let file = PoolFile::sample()
        .only(&["001"])
        .set("load_balancing.health_check_interval_s", json!(600));
    let mut bench = Bench::with_file(file).await;
    let worker = bench.begin("long").await;
    let busy = |status: &PoolStatus| status.programmer("001")["state"] == "busy";
    bench.pool.status_where("it is busy", busy).await;
    bench.pool.kill_worker(worker);
    let down = |status: &PoolStatus| status.programmer("001")["state"] == "down";
    let status = bench.pool.status_where("it is down", down).await;
    let reason = status.programmer("001")["reason"].to_string();
    assert!(
        reason.contains("its worker's connection to the broker ended at "),
        "the reason is the lost connection: {reason}"
    );
    let task = bench.pool.api().get("/tasks/long").await;
    assert_eq!(task["status"], "queued", "nobody does the task: {task:#}");
    bench.pool.start_worker(&["--all"]);
    let up = |status: &PoolStatus| status.programmer("001")["state"] != "down";
    bench.pool.status_where("another one has it", up).await;
}

/// Receives the heartbeats that are sent from now on.
struct Ears {
    heartbeats: Consumer,
    _connection: Connection,
}

impl Ears {
    async fn at(url: &str) -> Self {
        let (connection, channel) = channel(url).await;
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare("ears".into(), options, FieldTable::default())
            .await
            .expect("a queue");
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(
                "ears".into(),
                "pool.heartbeats".into(),
                "".into(),
                options,
                none,
            )
            .await
            .expect("bound");
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let heartbeats = channel
            .basic_consume("ears".into(), "".into(), options, FieldTable::default())
            .await;
        Self {
            heartbeats: heartbeats.expect("a consumer"),
            _connection: connection,
        }
    }

    /// Waits for the next heartbeat that contains this programmer.
    async fn hear_of(&mut self, programmer: &str) {
        let heard = async {
            while let Some(delivery) = self.heartbeats.next().await {
                let heartbeat: Value =
                    serde_json::from_slice(&delivery.expect("a delivery").data).expect("JSON");
                if heartbeat["programmers"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| one["id"] == programmer))
                {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, heard)
            .await
            .unwrap_or_else(|_| panic!("no heartbeat of {programmer} came"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_programmer_is_held_by_one_process_and_by_the_next_when_that_is_gone() {
    let mut bench = Bench::with(&["001"]).await;
    let first = bench.pool.start_worker(&["--programmers", "001"]);
    bench.pool.all_consume().await;
    let second = bench.pool.start_worker(&["--programmers", "001"]);
    bench
        .pool
        .worker_prints(second, "another process holds programmer 001")
        .await;
    let submitter = bench.pool.submitter("me").await;
    assert_eq!(
        submitter.consumers("tasks.any").await,
        1,
        "the second process does not consume"
    );

    bench.go();
    bench.pool.kill_worker(first);
    bench.pool.api().submit(&task("inherited")).await;
    let result = bench.pool.api().result("inherited", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the second process took its place: {result:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_take_any_two_programmers_take_four() {
    let mut bench = Bench::with(&["001", "002", "003", "004"]).await;
    for _ in 0..2 {
        bench.pool.start_worker(&["--any", "2"]);
    }
    bench.pool.all_consume().await;
    let status = bench.pool.api().status().await;
    let mut of_worker: std::collections::BTreeMap<String, usize> =
        std::collections::BTreeMap::new();
    for programmer in status["programmers"].as_array().expect("programmers") {
        *of_worker
            .entry(programmer["worker"].to_string())
            .or_default() += 1;
    }
    assert_eq!(
        of_worker.values().collect::<Vec<_>>(),
        [&2, &2],
        "each worker has two programmers: {of_worker:?}"
    );
    bench.go();
    let tasks: Vec<_> = (0..8).map(|n| task(&format!("t{n}"))).collect();
    let mut log = bench.pool.event_log().await;
    bench.pool.api().submit(&json!(tasks)).await;
    log.finished(tasks.len(), Duration::from_secs(60)).await;
}
