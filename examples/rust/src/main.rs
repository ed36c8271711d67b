//! Publishes one task over AMQP, waits for its result and prints "ID STATUS COMMIT".
//!
//!     AMQP_URL=amqp://user:password@host:5672/%2f cargo run -p example-client
//!
//! If the task does not succeed, it prints the reason and ends with status 1.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use serde_json::{Value, json};

const NO_URL: &str = "AMQP_URL is not set; expected amqp://user:password@host:5672/%2f";
const WAIT: Duration = Duration::from_secs(600);

/// Returns when the broker has stored the task in a queue.
async fn publish(channel: &Channel, id: &str, reply_to: &ShortString) -> anyhow::Result<()> {
    let task = json!({
        "id": id,
        "instruction": "Give every public function of ledger/text.py a docstring",
        "repository": "sample",
        "files": ["ledger/text.py"],
        "capabilities": ["fast"],
    });
    // The routing key is the capabilities, sorted and joined with `.`; `any` without one.
    let (exchange, key, task) = ("pool.tasks".into(), "fast".into(), task.to_string());
    let options = BasicPublishOptions {
        mandatory: true, // a task that no queue takes comes back
        ..Default::default()
    };
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2) // persistent: the task outlives a restart of the broker
        .with_correlation_id(id.into())
        .with_reply_to(reply_to.clone());
    channel.confirm_select(Default::default()).await?;
    let publish = channel.basic_publish(exchange, key, options, task.as_bytes(), properties);
    let answer = publish.await?.await?;
    ensure!(answer == Confirmation::Ack(None), "not queued: {answer:?}");
    Ok(())
}

/// The first message of the queue.
async fn result_from(channel: &Channel, queue: &ShortString) -> anyhow::Result<Value> {
    let (tag, options, arguments) = ("".into(), Default::default(), FieldTable::default());
    let consume = channel.basic_consume(queue.clone(), tag, options, arguments);
    let delivery = consume.await?.next().await;
    let delivery = delivery.context("the broker has closed the reply queue")??;
    delivery.ack(Default::default()).await?;
    Ok(serde_json::from_slice(&delivery.data)?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("AMQP_URL").context(NO_URL)?;
    let connection = Connection::connect(&url, Default::default()).await?;
    let channel = connection.create_channel().await?;
    // An id of your own: publish the task again after a lost connection, and it is done once.
    let id = format!("rust-{}", uuid::Uuid::now_v7());
    // This queue goes with the connection. A durable one keeps results while the client is away.
    let queue = ShortString::from(format!("results.{id}"));
    let exclusive = QueueDeclareOptions::exclusive();
    let declare = channel.queue_declare(queue.clone(), exclusive, FieldTable::default());
    declare.await?;
    let (results, none, key) = ("pool.results".into(), Default::default(), queue.clone());
    let bind = channel.queue_bind(queue.clone(), results, key, none, FieldTable::default());
    bind.await?;
    publish(&channel, &id, &queue).await?;
    let waiting = tokio::time::timeout(WAIT, result_from(&channel, &queue)).await;
    let result = waiting.context("no result in time; the task stays in its queue")??;
    ensure!(result["status"] == "succeeded", "{id}: {}", result["error"]);
    let commit = result["commit"].as_str().unwrap_or_default();
    println!("{id} succeeded {commit}");
    Ok(())
}
