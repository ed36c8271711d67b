//! Reply queues that drain slowly, or that refuse and are repaired: no result is lost, and no other
//! submitter waits for them.

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::amqp::{bind_reply_queue, channel, small_queue};
use crate::support::field::{Field, REPAIRED_WITHIN, nervous};
use crate::support::pool::tasks;
use crate::support::{Books, Pool, SOON, eventually};

/// The pace of a reader that is slower than the pool: five results a second.
const READS_EVERY: Duration = Duration::from_millis(200);

/// After this time without a result the missing ones must be in `pool.dead`.
const NOTHING_COMES: Duration = Duration::from_secs(10);

/// Publishes tasks with this reply address; gives their ids.
async fn publish(
    pool: &Pool,
    books: &mut Books,
    reply_to: &str,
    name: &str,
    count: usize,
) -> BTreeSet<String> {
    let submitter = pool.submitter("somebody").await;
    let mut ids = BTreeSet::new();
    for task in tasks(name, count) {
        submitter
            .publish(
                "any",
                task.to_string(),
                submitter.properties().with_reply_to(reply_to.into()),
            )
            .await;
        let id = task["id"].as_str().expect("an id").to_owned();
        books.took(&id);
        ids.insert(id);
    }
    ids
}

/// The task of the next result in this queue.
async fn next(channel: &Channel, queue: &str) -> Option<String> {
    let got = channel
        .basic_get(queue.into(), BasicGetOptions { no_ack: true })
        .await
        .expect("a queue")?;
    let result: Value = serde_json::from_slice(&got.delivery.data).expect("a result");
    Some(result["task_id"].as_str().expect("an id").to_owned())
}

/// Reads slowly until all these results have come, or no more come. Then retries the dead letters,
/// which must be the missing ones. Gives the number of dead letters.
async fn all_come(pool: &Pool, channel: &Channel, queue: &str, mut ids: BTreeSet<String>) -> usize {
    let deadline = Instant::now() + REPAIRED_WITHIN;
    let mut idle_since = Instant::now();
    while !ids.is_empty() && idle_since.elapsed() < NOTHING_COMES {
        assert!(
            Instant::now() < deadline,
            "{} results never came: {ids:?}",
            ids.len()
        );
        if let Some(id) = next(channel, queue).await {
            ids.remove(&id);
            idle_since = Instant::now();
        }
        sleep(READS_EVERY).await;
    }
    let dead = pool.api().get("/dead").await;
    let letters = dead["letters"].as_array().cloned().unwrap_or_default();
    for letter in &letters {
        assert!(
            letter["reason"]
                .as_str()
                .is_some_and(|reason| reason.starts_with("reply_refused")),
            "{letter}"
        );
        let retry = format!("/dead/{}/retry", letter["id"].as_str().expect("an id"));
        let (status, said) = pool.api().send(Method::POST, &retry, &json!({})).await;
        assert!(
            status.is_success(),
            "the queue has room again, so the result is sent: {said}"
        );
        ids.remove(
            &next(channel, queue)
                .await
                .expect("the result comes at once"),
        );
    }
    assert_eq!(
        ids,
        BTreeSet::new(),
        "all results have come, by themselves or from pool.dead"
    );
    letters.len()
}

/// The time of the slowest of these results for another submitter, from its submission on.
async fn slowest_of_others(pool: &Pool, books: &mut Books, count: usize) -> Duration {
    let mut other = pool.submitter("other").await;
    let mut slowest = Duration::ZERO;
    for task in tasks("other", count) {
        let began = Instant::now();
        books.took(task["id"].as_str().expect("an id"));
        other.submit("any", &task).await;
        other.reply(3 * REPAIRED_WITHIN).await;
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_queue_that_drains_slowly_gets_every_result_and_holds_nobody_up() {
    let mut pool = Pool::start(&nervous(&["001", "002"])).await;
    let mut books = Books::open(&pool).await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    small_queue(&channel, "results.slow", 5).await;
    let ids = publish(&pool, &mut books, "results.slow", "slow", 60).await;
    let (sent, slowest) = tokio::join!(
        all_come(&pool, &channel, "results.slow", ids),
        slowest_of_others(&pool, &mut books, 20)
    );
    assert_eq!(
        sent, 0,
        "the queue took a result every minute, so none was given up"
    );
    assert!(
        slowest < Duration::from_secs(5),
        "results of others go past those that wait: {slowest:?}"
    );
    books.close(&mut pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_results_than_a_dispatcher_holds_for_a_queue_that_drains_slowly_delay_others_by_its_patience_at_most()
 {
    const PATIENCE: Duration = Duration::from_secs(3);
    let file =
        nervous(&["001", "002"]).set("dispatcher.reply_patience_s", PATIENCE.as_secs().into());
    let mut pool = Pool::start(&file).await;
    let mut books = Books::open(&pool).await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    small_queue(&channel, "results.slow", 5).await;
    // More than 200: the results behind them in `results` wait.
    let ids = publish(&pool, &mut books, "results.slow", "slow", 260).await;
    let (sent, slowest) = tokio::join!(
        all_come(&pool, &channel, "results.slow", ids),
        slowest_of_others(&pool, &mut books, 5)
    );
    assert!(
        sent > 0,
        "some of so many results are given up and go to pool.dead"
    );
    // A result is tried at least every five seconds, and checks for its turn as often.
    assert!(
        slowest < PATIENCE + Duration::from_secs(15),
        "the patience of the dispatcher is the limit: {slowest:?}"
    );
    books.close(&mut pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_queue_that_refuses_and_is_repaired_gets_all_waiting_results() {
    let mut pool = Pool::start(&nervous(&["001", "002"])).await;
    let mut books = Books::open(&pool).await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    let options = QueueDeclareOptions::default();
    channel
        .queue_declare("results.broken".into(), options, FieldTable::default())
        .await
        .expect("a queue");
    bind_reply_queue(&channel, "results.broken").await;
    pool.set_policy(
        "^results.broken$",
        &json!({"max-length": 1, "overflow": "reject-publish"}),
    )
    .await;
    let ids = publish(&pool, &mut books, "results.broken", "burst", 100).await;
    eventually("it refuses", SOON, async || {
        pool.dispatcher_log()
            .contains("a reply queue refuses its results")
            .then_some(())
    })
    .await;
    Field::submit(&mut books, "heard", 10).await;
    pool.set_policy(
        "^results.broken$",
        &json!({"max-length": 1000, "overflow": "reject-publish"}),
    )
    .await;
    let sent = all_come(&pool, &channel, "results.broken", ids).await;
    assert_eq!(sent, 0, "the queue was repaired in time");
    books.close(&mut pool, REPAIRED_WITHIN).await;
}
