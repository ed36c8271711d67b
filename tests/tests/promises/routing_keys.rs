//! A task that is published over AMQP goes where its message says. A routing key that is empty or
//! written in another way does no harm.

use pool_core::result::{ErrorKind, Status};
use serde_json::{Value, json};

use crate::support::pool::task;
use crate::support::{Pool, PoolFile, SOON};

/// Programmers that offer `fast`, `local`, `free` (001) and `premium`, `reasoning`, `paid` (006).
fn two_kinds() -> PoolFile {
    PoolFile::sample().only(&["001", "006"])
}

fn requiring(id: &str, capabilities: &[&str]) -> Value {
    let mut task = task(id);
    task["capabilities"] = json!(capabilities);
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_names_capabilities_is_routed_by_them_whatever_its_key_is() {
    let pool = Pool::start(&two_kinds()).await;
    let mut submitter = pool.submitter("me").await;
    let keys = [
        "",
        " ",
        "any",
        "ANY",
        "fast",
        "FAST",
        " fast ",
        "fast.fast",
        "local.fast",
        "local, fast",
        "any.fast",
        "fast.",
        ".fast",
        "tasks.fast",
        "tasks.any",
        "premium",
        "Fast!",
        "*",
        "#",
        "flotte-tâche",
    ];
    for (n, key) in keys.iter().enumerate() {
        let id = format!("key-{n}");
        submitter.submit(key, &requiring(&id, &["fast"])).await;
        let reply = submitter.reply(SOON).await;
        assert_eq!(
            reply.task_id.as_ref().map(|id| id.as_str()),
            Some(id.as_str()),
            "the key {key:?}"
        );
        assert_eq!(
            reply.status,
            Status::Succeeded,
            "the key {key:?}: {reply:?}"
        );
        assert_eq!(
            reply.programmer.as_ref().map(|id| id.as_str()),
            Some("001"),
            "the programmer that offers `fast` does it; the key {key:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_asks_for_what_a_task_does_not_name_however_it_is_written() {
    let pool = Pool::start(&two_kinds()).await;
    let mut submitter = pool.submitter("me").await;
    let keys = [
        "premium",
        "PREMIUM",
        " premium ",
        "premium.premium",
        "reasoning.premium",
        "paid, premium",
        "tasks.paid",
    ];
    for (n, key) in keys.iter().enumerate() {
        submitter.submit(key, &task(&format!("key-{n}"))).await;
        let reply = submitter.reply(SOON).await;
        assert_eq!(
            reply.status,
            Status::Succeeded,
            "the key {key:?}: {reply:?}"
        );
        assert_eq!(
            reply.programmer.as_ref().map(|id| id.as_str()),
            Some("006"),
            "the key {key:?}"
        );
    }
    submitter.submit("", &task("no-key")).await;
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        reply.status,
        Status::Succeeded,
        "without key and capabilities any programmer does it: {reply:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_programmer_serves_leaves_the_id_of_its_task_free() {
    let pool = Pool::start(&two_kinds()).await;
    let mut submitter = pool.submitter("me").await;
    for (key, words) in [("quantum", "`quantum`"), ("Fast!", "\"Fast!\"")] {
        submitter.submit(key, &task("mistaken")).await;
        let reply = submitter.reply(SOON).await;
        assert_eq!(
            reply.error.as_ref().map(|error| error.kind),
            Some(ErrorKind::Unroutable),
            "{key}: {reply:?}"
        );
        let message = reply.error.map(|error| error.message).unwrap_or_default();
        assert!(
            message.contains(words),
            "the message names the key: {message}"
        );
    }
    submitter.submit("any", &task("mistaken")).await;
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        reply.status,
        Status::Succeeded,
        "the same task with the right key is done: {reply:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_a_dead_letter_whatever_its_key_is() {
    let pool = Pool::start(&two_kinds()).await;
    let mut submitter = pool.submitter("me").await;
    for key in ["", "quantum", "Fast!"] {
        submitter
            .publish(
                key,
                "hello",
                submitter.properties().with_message_id("unread".into()),
            )
            .await;
        let reply = submitter.reply(SOON).await;
        assert_eq!(
            reply.error.as_ref().map(|error| error.kind),
            Some(ErrorKind::InvalidTask),
            "{key:?}: {reply:?}"
        );
    }
    submitter.submit("", &task("unread")).await;
    let reply = submitter.reply(SOON).await;
    assert_eq!(reply.status, Status::Succeeded, "its id is free: {reply:?}");
    assert_eq!(
        submitter.drain_dead().await.len(),
        3,
        "all three messages are kept"
    );
}
