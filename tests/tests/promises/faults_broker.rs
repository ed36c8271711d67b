//! The broker may be killed, stopped, frozen and starved: nothing is lost, and no result comes
//! twice with different content.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use pool_core::result::{ErrorKind, Status};
use reqwest::Method;
use serde_json::Value;

use crate::support::amqp::{channel, small_queue};
use crate::support::field::{REPAIRED_WITHIN, nervous};
use crate::support::pool::task;
use crate::support::{Books, Field, Pool, PoolFile, PrivateBroker, SOON, eventually};

/// The number of tasks before, while and after the broker is broken.
async fn survives(name: &str, breaks: impl AsyncFnOnce(&PrivateBroker)) {
    let mut field = Field::quick().await;
    Field::submit(&mut field.books, &format!("{name}-before"), 10).await;
    let meanwhile = format!("{name}-meanwhile");
    tokio::join!(
        breaks(&field.broker),
        Field::submit(&mut field.books, &meanwhile, 60)
    );
    Field::submit(&mut field.books, &format!("{name}-after"), 10).await;
    let report = field.books.close(&mut field.pool, REPAIRED_WITHIN).await;
    assert_eq!(report.tasks, 80, "all tasks were confirmed: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_comes_back_has_lost_nothing() {
    survives("crash", async |broker| broker.crash().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_restarted_in_order_has_lost_nothing() {
    survives("restart", async |broker| broker.restart().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_frozen_beyond_all_time_outs_has_lost_nothing() {
    survives("freeze", async |broker| {
        broker.node.freeze().expect("the broker runs");
        // Longer than every time-out of the pool file and than two heartbeats of the broker.
        tokio::time::sleep(Duration::from_secs(12)).await;
        broker.node.thaw().expect("the broker is there");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_in_hand_when_the_broker_is_killed_come_to_one_end() {
    let mut field = Field::patient().await;
    Field::submit(&mut field.books, "held", 2).await;
    field.started("held-1").await;
    field.started("held-2").await;
    field.broker.crash().await;
    field.go();
    field.books.close(&mut field.pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_before_during_and_after_a_publish_only_delay() {
    let mut field = Field::patient().await;
    // After a publish: two results are due while the broker accepts no messages.
    Field::submit(&mut field.books, "after", 2).await;
    field.started("after-1").await;
    field.started("after-2").await;
    field
        .broker
        .node
        .memory_alarm(true)
        .await
        .expect("an alarm");
    field.go();
    // Before: submissions begin during the alarm. During: the alarm comes and goes while they are
    // sent.
    let node = &field.broker.node;
    let toggle = async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        node.memory_alarm(false).await.expect("no alarm");
        for _ in 0..2 {
            node.disk_alarm(true).await.expect("an alarm");
            node.disk_alarm(false).await.expect("no alarm");
        }
    };
    tokio::join!(toggle, Field::submit(&mut field.books, "under", 30));
    field.books.close(&mut field.pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_timeout_that_is_too_short_ends_the_task_and_not_the_pool() {
    let mut field = Field::patient().await;
    // It holds for channels that are opened from now on; the workers open theirs again.
    field
        .broker
        .node
        .set("consumer_timeout", "2000")
        .await
        .expect("a short time-out");
    field
        .broker
        .node
        .set("channel_tick_interval", "1000")
        .await
        .expect("a short interval of its check");
    field.pool.stop().await;
    field.pool.start_dispatcher().await;
    let workers = ["001", "002"].map(|id| field.pool.start_worker(&["--programmers", id]));
    field.pool.all_consume().await;
    field.books.may_end("long-1", &[Status::Failed]);
    Field::submit(&mut field.books, "long", 1).await;
    let result = field.pool.api().result("long-1", REPAIRED_WITHIN).await;
    assert_eq!(
        result.status,
        Status::Failed,
        "the broker takes its message away again and again: {result:?}"
    );
    assert_eq!(
        result.error.as_ref().map(|error| error.kind),
        Some(ErrorKind::Poison),
        "{result:?}"
    );
    let said = workers
        .map(|worker| field.pool.worker(worker).log())
        .concat();
    assert!(
        said.contains("Set `consumer_timeout = 86400000`"),
        "the log says what to set: {said}"
    );

    field.go();
    Field::submit(&mut field.books, "short", 4).await;
    field.books.close(&mut field.pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_the_log_that_are_stalled_by_themselves_shut_the_gates_and_are_made_again() {
    let mut field = Field::patient().await;
    Field::submit(&mut field.books, "running", 2).await;
    field.started("running-1").await;
    field.started("running-2").await;
    let stalled = field
        .broker
        .node
        .stall_readers(&field.pool.vhost(), "pool.events")
        .await
        .expect("the readers are stalled");
    assert_eq!(stalled, 3, "a dispatcher and two workers read the log");
    // Two results are due whose log entries are not read back, and tasks wait for gates that are
    // shut.
    field.go();
    Field::submit(&mut field.books, "waiting", 6).await;
    for worker in field.workers.clone() {
        field
            .pool
            .worker_prints(worker, "the reader of the event log starts over")
            .await;
        field
            .pool
            .worker_prints(worker, "the gate is shut programmer=")
            .await;
    }
    field.pool.all_consume().await;
    let report = field.books.close(&mut field.pool, REPAIRED_WITHIN).await;
    assert_eq!(report.repeated_starts, 0, "running tasks go on: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn programmers_whose_queue_is_deleted_consume_again() {
    let mut field = Field::quick().await;
    Field::submit(&mut field.books, "before", 4).await;
    field.books.settled(REPAIRED_WITHIN).await;
    let (_connection, channel) = channel(&field.pool.amqp_url()).await;
    channel
        .queue_delete("tasks.any".into(), QueueDeleteOptions::default())
        .await
        .expect("the queue is deleted");
    field
        .pool
        .worker_prints(0, "the broker cancelled the consumer")
        .await;
    field.pool.all_consume().await;
    let submitter = field.pool.submitter("me").await;
    eventually(
        "all four programmers consume from the queue again",
        SOON * 2,
        async || {
            (submitter.depth_if_any("tasks.any").await.is_some()
                && submitter.consumers("tasks.any").await == 4)
                .then_some(())
        },
    )
    .await;
    // The queue has to be bound again, too.
    Field::submit(&mut field.books, "after", 4).await;
    field.books.close(&mut field.pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_queue_that_is_missing_holds_nobody_up() {
    let mut pool = Pool::start(&nervous(&["001"])).await;
    let mut books = Books::open(&pool).await;
    let nobody = pool.submitter("somebody").await;
    for number in 1..=20 {
        let properties = nobody.properties().with_reply_to("results.nobody".into());
        let id = format!("unheard-{number}");
        nobody
            .publish("any", task(&id).to_string(), properties)
            .await;
        books.took(&id);
    }
    Field::submit(&mut books, "heard", 4).await;
    books.close(&mut pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_queue_that_refuses_holds_nobody_up_and_its_results_are_sent_when_there_is_room() {
    /// More results than a dispatcher holds at once.
    const RESULTS: usize = 220;
    let mut pool =
        Pool::start(&nervous(&["001"]).set("dispatcher.reply_patience_s", 2.into())).await;
    let mut books = Books::open(&pool).await;
    let submitter = pool.submitter("somebody").await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    small_queue(&channel, "results.small", 1).await;
    for number in 1..=RESULTS {
        let id = format!("refused-{number}");
        let properties = submitter.properties().with_reply_to("results.small".into());
        submitter
            .publish("any", task(&id).to_string(), properties)
            .await;
        books.took(&id);
    }
    Field::submit(&mut books, "heard", 4).await;
    books.settled(REPAIRED_WITHIN).await;

    let dead = eventually(
        "the refused results are in pool.dead",
        REPAIRED_WITHIN,
        async || {
            let dead = pool.api().get("/dead").await;
            (dead["total"] == RESULTS - 1).then_some(dead)
        },
    )
    .await;
    let letter = &dead["letters"][0];
    assert!(
        letter["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("reply_refused")),
        "{letter}"
    );
    assert_eq!(
        submitter.drain("results.small").await.len(),
        1,
        "the queue had room for one result"
    );
    let retry = format!("/dead/{}/retry", letter["id"].as_str().expect("an id"));
    let (status, said) = pool
        .api()
        .send(Method::POST, &retry, &serde_json::json!({}))
        .await;
    assert!(status.is_success(), "the retry sends the result: {said}");
    let sent = submitter.drain("results.small").await;
    let result: Value =
        serde_json::from_slice(sent.first().expect("a result in the queue")).expect("a result");
    assert_eq!(
        result["task_id"], letter["task_id"],
        "it is the result of the dead letter"
    );
    books.close(&mut pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_named_and_nobody_starts() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    let classic = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare("results".into(), classic, FieldTable::default())
        .await
        .expect("a classic queue");
    let worker = pool.start_worker(&["--all"]);
    pool.worker_prints(worker, "results").await;
    let status = pool.worker(worker).ended().await;
    assert!(
        !status.success(),
        "the dispatcher must not use a queue that may lose results: {status}"
    );
    let said = pool.worker(worker).log();
    assert!(
        said.contains("406") || said.contains("PRECONDITION"),
        "the message has the broker's reason: {said}"
    );
}
