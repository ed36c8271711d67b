//! A task that is handed in more than once, over whichever door and however late: it is done once, and everybody who asked
//! for its result gets it.

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
async fn who_publishes_a_task_that_runs_already_for_somebody_else_gets_its_result() {
    let mut bench = Bench::with(&["001", "002"]).await;
    bench.begin("shared").await;
    // The log does not know him, and the message that is worked on neither.
    let mut submitter = bench.pool.submitter("me").await;
    submitter.submit("any", &task("shared")).await;
    bench.pool.worker_prints(0, "dropping a delivery").await;
    bench.go();
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        reply.status,
        Status::Succeeded,
        "he is told like everybody else: {reply:?}"
    );
    let result = bench.pool.api().result("shared", SOON).await;
    assert_eq!(
        reply.attempt, result.attempt,
        "of the one attempt that was made"
    );
    let mut log = bench.pool.event_log().await;
    log.read().await;
    assert_eq!(
        (log.starts("shared").len(), log.outcomes("shared").len()),
        (1, 1),
        "it was done once"
    );
    eventually("nothing waits any more", SOON, async || {
        let waiting = (
            submitter.depth_if_any("tasks.any").await?,
            submitter.depth_if_any("pool.retries").await?,
        );
        (waiting == (0, 0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_copy_was_worked_on_in_vain_gets_the_result_of_the_other_one() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let mut submitter = pool.submitter("me").await;
    pool.kill_dispatcher();
    pool.start_worker_with(&["--all"], &[("POOL_FAULT", "worker.acked=kill")]);
    submitter.submit("any", &task("copied")).await;
    assert_eq!(
        pool.worker(0).ended().await.signal(),
        Some(9),
        "his copy is acked, and its result not decided"
    );
    pool.take_worker(0);
    // Of somebody who wants no reply.
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
    log.until("the other copy is worked on", SOON, |entries| {
        (copies(entries) == 2).then_some(())
    })
    .await;
    pool.start_dispatcher().await;
    let reply = submitter.reply(SOON).await;
    let result = pool.api().result("copied", SOON).await;
    assert_eq!(
        (reply.status, reply.attempt),
        (Status::Succeeded, result.attempt),
        "the one that counts: {reply:?}"
    );
    assert_eq!(log.starts("copied").len(), 2, "there were two attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_repeats_a_task_after_its_deadline_hears_how_it_stands() {
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
        "it was taken in time: {said}"
    );
    let mut other = late.clone();
    other["id"] = json!("another");
    let (status, said) = api.try_submit(&other).await;
    assert_eq!(
        status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "this one was not: {said}"
    );
    bench.go();
    assert_eq!(
        api.result("late", SOON).await.status,
        Status::Succeeded,
        "it was begun in time"
    );
}
