//! With the users of `config/definitions.json` every part of the pool can do its own work and
//! nothing else.

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, ErrorKind};
use pool_core::result::Status;
use serde_json::json;

use crate::support::amqp::channel;
use crate::support::pool::task;
use crate::support::{Pool, PoolFile, SOON, Submitter};

const AGENT: [&str; 3] = ["/bin/sh", "-c", "echo four >>readme.txt"];

async fn pool_with_users(file: &PoolFile) -> Pool {
    let mut pool = Pool::set_up_shared(file).await;
    pool.make_users().await;
    pool
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_does_its_work_with_its_own_user() {
    let file = PoolFile::sample().command(&AGENT);
    let mut pool = pool_with_users(&file).await;
    // A worker may not declare queues: started first, it waits for a dispatcher.
    let first = pool.start_worker(&["--any", "5"]);
    pool.worker_prints(
        first,
        "it does not exist, and this user may not declare it; is a dispatcher running?",
    )
    .await;
    pool.start_dispatcher().await;
    pool.start_worker(&["--any", "5"]);
    pool.all_consume().await;

    let mut submitter = Submitter::join(&pool.amqp_url_of("submitter"), "tester").await;
    submitter
        .submit("fast", &with_capabilities("direct", &["fast"]))
        .await;
    let result = submitter.reply(SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "a task published by the submitter: {:?}",
        result.error
    );
    // The dispatcher reads `pool.unroutable` and publishes the task again.
    submitter
        .submit(
            "local.fast",
            &with_capabilities("unsorted", &["fast", "local"]),
        )
        .await;
    assert_eq!(
        submitter.reply(SOON).await.status,
        Status::Succeeded,
        "a task with an unsorted key"
    );
    submitter
        .submit("any", &with_capabilities("nobody", &["quantum"]))
        .await;
    assert_eq!(
        submitter.reply(SOON).await.status,
        Status::Rejected,
        "a task that no programmer can do"
    );
    pool.api().submit(&task("http")).await;
    assert_eq!(
        pool.api().result("http", SOON).await.status,
        Status::Succeeded,
        "a task over HTTP"
    );
}

fn with_capabilities(id: &str, capabilities: &[&str]) -> serde_json::Value {
    let mut task = task(id);
    task["capabilities"] = json!(capabilities);
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn no_user_can_do_the_work_of_another_role() {
    let mut pool = pool_with_users(&PoolFile::sample().command(&AGENT)).await;
    pool.start_dispatcher().await;
    for (role, exchange, key) in [
        ("submitter", "", "results"),
        ("submitter", "", "tasks.fast"),
        ("submitter", "pool.results", "results"),
        ("submitter", "pool.log", "events"),
        ("submitter", "pool.heartbeats", ""),
        ("submitter", "pool.dlx", ""),
        ("worker", "", "tasks.fast"),
        ("worker", "pool.dlx", ""),
        ("monitor", "pool.tasks", "any"),
    ] {
        let refused = may_not_publish(&pool, role, exchange, key).await;
        assert!(
            refused,
            "{role} may not publish to {exchange:?} with the key {key}"
        );
    }
    for (role, queue) in [
        ("submitter", "tasks.fast"),
        ("submitter", "results"),
        ("submitter", "pool.events"),
        ("submitter", "pool.dead"),
        ("worker", "results"),
        ("worker", "results.other"),
        ("worker", "pool.dead"),
        ("worker", "pool.history"),
        ("monitor", "tasks.fast"),
        ("dispatcher", "results.other"),
    ] {
        assert!(
            may_not_read(&pool, role, queue).await,
            "{role} may not read {queue}"
        );
        assert!(
            may_not_purge(&pool, role, queue).await,
            "{role} may not purge {queue}"
        );
        assert!(
            may_not_delete(&pool, role, queue).await,
            "{role} may not delete {queue}"
        );
    }
    for queue in ["tasks.fast", "pool.events", "pool.retries"] {
        assert!(
            may_not_delete(&pool, "worker", queue).await,
            "a worker may not delete {queue}"
        );
    }
    assert!(
        may_not_bind(&pool, "submitter", "pool.tasks").await,
        "a submitter may not bind its queue to the tasks"
    );
    assert!(
        may_not_bind(&pool, "submitter", "pool.log").await,
        "a submitter may not bind its queue to the log"
    );
    assert!(
        !may_not_bind(&pool, "submitter", "pool.results").await,
        "a submitter may bind its queue to the results"
    );
}

/// Whether the broker refused it for lack of a permission.
///
/// # Panics
/// When it failed in another way.
fn refused<T>(what: &str, done: lapin::Result<T>) -> bool {
    let Err(error) = done else { return false };
    let ErrorKind::ProtocolError(reason) = error.kind() else {
        panic!("{what}: {error}")
    };
    assert_eq!(
        reason.kind(),
        &AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED),
        "{what}: {error}"
    );
    true
}

async fn channel_of(pool: &Pool, role: &str) -> (lapin::Connection, Channel) {
    channel(&pool.amqp_url_of(role)).await
}

async fn may_not_publish(pool: &Pool, role: &str, exchange: &str, key: &str) -> bool {
    let (_connection, channel) = channel_of(pool, role).await;
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let publish = channel.basic_publish(
        exchange.into(),
        key.into(),
        options,
        b"x",
        BasicProperties::default(),
    );
    let confirmed: lapin::Result<Confirmation> = async { publish.await?.await }.await;
    refused("publish", confirmed)
}

async fn may_not_read(pool: &Pool, role: &str, queue: &str) -> bool {
    let (_connection, channel) = channel_of(pool, role).await;
    let got: lapin::Result<Option<BasicGetMessage>> = channel
        .basic_get(queue.into(), BasicGetOptions::default())
        .await;
    refused("get", got)
}

async fn may_not_purge(pool: &Pool, role: &str, queue: &str) -> bool {
    let (_connection, channel) = channel_of(pool, role).await;
    refused(
        "purge",
        channel
            .queue_purge(queue.into(), QueuePurgeOptions::default())
            .await,
    )
}

async fn may_not_delete(pool: &Pool, role: &str, queue: &str) -> bool {
    let (_connection, channel) = channel_of(pool, role).await;
    refused(
        "delete",
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await,
    )
}

/// Binds a new queue to this exchange.
async fn may_not_bind(pool: &Pool, role: &str, exchange: &str) -> bool {
    let (_connection, channel) = channel_of(pool, role).await;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare("results.mine".into(), options, FieldTable::default())
        .await
        .expect("a new queue");
    let (options, key) = (QueueBindOptions::default(), "results.mine".into());
    refused(
        "bind",
        channel
            .queue_bind(
                "results.mine".into(),
                exchange.into(),
                key,
                options,
                FieldTable::default(),
            )
            .await,
    )
}
