//! A task that is submitted more than once, over HTTP or AMQP and however late, is done once, and
//! every submitter that asked for its result gets it.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use lapin::BasicProperties;
use pool_core::result::Status;
use pool_telemetry::clock::wall_clock;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::bench::Bench;
use crate::support::event_log::Entry;
use crate::support::pool::task;
use crate::support::{Pool, PoolFile, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_that_publishes_a_running_task_of_another_submitter_gets_its_result() {
    let mut bench = Bench::with(&["001", "002"]).await;
    bench.begin("shared").await;
    // Neither the log nor the running message names the second submitter.
    let mut submitter = bench.pool.submitter("me").await;
    submitter.submit("any", &task("shared")).await;
    bench.pool.worker_prints(0, "dropping a delivery").await;
    bench.go();
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        reply.status,
        Status::Succeeded,
        "the second submitter gets the result: {reply:?}"
    );
    let result = bench.pool.api().result("shared", SOON).await;
    assert_eq!(
        reply.attempt, result.attempt,
        "it is the result of the one attempt"
    );
    let mut log = bench.pool.event_log().await;
    log.read().await;
    assert_eq!(
        (log.starts("shared").len(), log.outcomes("shared").len()),
        (1, 1),
        "the task was done once"
    );
    eventually("no message waits any more", SOON, async || {
        let waiting = (
            submitter.depth_if_any("tasks.any").await?,
            submitter.depth_if_any("pool.retries").await?,
        );
        (waiting == (0, 0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_whose_copy_was_done_in_vain_gets_the_result_of_the_other_copy() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let mut submitter = pool.submitter("me").await;
    pool.kill_dispatcher();
    pool.start_worker_with(&["--all"], &[("POOL_FAULT", "worker.acked=kill")]);
    submitter.submit("any", &task("copied")).await;
    assert_eq!(
        pool.worker(0).ended().await.signal(),
        Some(9),
        "its copy is acknowledged, and its result not decided"
    );
    pool.take_worker(0);
    // A copy of a submitter that wants no reply.
    submitter
        .publish(
            "any",
            task("copied").to_string(),
            BasicProperties::default().with_delivery_mode(2),
        )
        .await;
    pool.start_worker(&["--all"]);
    let mut log = pool.event_log().await;
    let copies = |entries: &[Entry]| {
        entries
            .iter()
            .filter(|entry| entry.is_start_of("copied"))
            .count()
    };
    log.until("the other copy runs", SOON, |entries| {
        (copies(entries) == 2).then_some(())
    })
    .await;
    pool.start_dispatcher().await;
    let reply = submitter.reply(SOON).await;
    let result = pool.api().result("copied", SOON).await;
    assert_eq!(
        (reply.status, reply.attempt),
        (Status::Succeeded, result.attempt),
        "the reply is the result that counts: {reply:?}"
    );
    assert_eq!(log.starts("copied").len(), 2, "there were two attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_that_repeats_a_task_after_its_deadline_gets_its_present_state() {
    let mut bench = Bench::with(&["001"]).await;
    bench.pool.start_worker(&["--all"]);
    let mut late = task("late");
    let deadline = wall_clock().plus(Duration::from_secs(3));
    late["limits"] = json!({"deadline": deadline});
    let api = bench.pool.api();
    api.submit(&late).await;
    bench.agents_started(1).await;
    eventually("the deadline has passed", SOON, async || {
        (wall_clock() > deadline).then_some(())
    })
    .await;
    let (status, said) = api.try_submit(&late).await;
    assert_eq!(
        (status, &said["status"]),
        (StatusCode::OK, &json!("running")),
        "the first submission was in time: {said}"
    );
    let mut other = late.clone();
    other["id"] = json!("another");
    let (status, said) = api.try_submit(&other).await;
    assert_eq!(
        status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "the second submission was too late: {said}"
    );
    bench.go();
    assert_eq!(
        api.result("late", SOON).await.status,
        Status::Succeeded,
        "the task was started in time"
    );
}
