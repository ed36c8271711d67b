//! A client that submits tasks and waits until every result has come back to its own reply queue.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer};
use tokio::time::Instant;

use super::{confirmed_channel, connect, patiently};

/// The most publishes that may be unconfirmed.
const IN_FLIGHT: usize = 200;
/// The size of a task message.
pub const BODY_BYTES: usize = 500;

/// Where tasks go and where their results come from.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    pub exchange: &'static str,
    pub key: &'static str,
    pub reply_to: &'static str,
}

/// An open client.
pub struct Submitter {
    address: Address,
    publish: Channel,
    results: Consumer,
    submitted: usize,
    /// The readers, which end with the client.
    _connections: [Connection; 2],
}

/// A task message of [`BODY_BYTES`] that any programmer can take.
pub fn task(id: &str) -> String {
    let filled = |instruction: &str| {
        format!(
            r#"{{"id":"{id}","instruction":"{instruction}","repository":"bench","capabilities":[]}}"#
        )
    };
    filled(&"x".repeat(BODY_BYTES - filled("").len()))
}

impl Submitter {
    /// Connects; the queue named `address.reply_to` must exist.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn open(url: &str, address: Address) -> anyhow::Result<Self> {
        let (publishing, consuming) = (connect(url).await?, connect(url).await?);
        let publish = confirmed_channel(&publishing).await?;
        let channel = consuming.create_channel().await?;
        channel.basic_qos(1000, BasicQosOptions::default()).await?;
        let results = channel
            .basic_consume(
                address.reply_to.into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok(Self {
            address,
            publish,
            results,
            submitted: 0,
            _connections: [publishing, consuming],
        })
    }

    /// Submits `count` tasks as fast as the broker confirms them. Gives the time from the first
    /// submission to the last result.
    ///
    /// # Errors
    /// When a task is not confirmed, or a result is missing.
    pub async fn burst(&mut self, count: usize) -> anyhow::Result<Duration> {
        let ids = self.new_ids(count);
        let began = Instant::now();
        let Self {
            address,
            publish,
            results,
            ..
        } = self;
        let publishing = stream::iter(ids.iter().map(anyhow::Ok))
            .try_for_each_concurrent(IN_FLIGHT, |id| {
                send(publish, *address, id, task(id).into_bytes())
            });
        let collecting = collect(results, ids.iter().cloned().collect());
        patiently("a burst of tasks", async {
            tokio::try_join!(publishing, collecting)
        })
        .await?;
        Ok(began.elapsed())
    }

    /// Submits `count` tasks, each after the result of the one before. Gives the time of each.
    ///
    /// # Errors
    /// When a task is not confirmed, or a result is missing.
    pub async fn one_by_one(&mut self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(count);
        for id in self.new_ids(count) {
            let began = Instant::now();
            let body = task(&id).into_bytes();
            let sending = send(&self.publish, self.address, &id, body);
            let collecting = collect(&mut self.results, HashSet::from([id.clone()]));
            patiently("a single task", async {
                tokio::try_join!(sending, collecting)
            })
            .await?;
            times.push(began.elapsed());
        }
        Ok(times)
    }

    fn new_ids(&mut self, count: usize) -> Vec<String> {
        let first = self.submitted;
        self.submitted += count;
        (first..self.submitted)
            .map(|number| format!("bench-{number}"))
            .collect()
    }
}

async fn send(channel: &Channel, address: Address, id: &str, body: Vec<u8>) -> anyhow::Result<()> {
    let properties = persistent(id).with_reply_to(address.reply_to.into());
    publish(channel, (address.exchange, address.key), &body, properties).await
}

/// Properties of a persistent message with this id.
pub fn persistent(id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(id.into())
        .with_content_type("application/json".into())
}

/// Publishes and waits for the confirm.
///
/// # Errors
/// When the broker does not take the message.
pub async fn publish(
    channel: &Channel,
    (exchange, key): (&str, &str),
    body: &[u8],
    properties: BasicProperties,
) -> anyhow::Result<()> {
    let options = BasicPublishOptions::default();
    match channel
        .basic_publish(exchange.into(), key.into(), options, body, properties)
        .await?
        .await?
    {
        Confirmation::Ack(None) => Ok(()),
        refused @ (Confirmation::Ack(Some(_))
        | Confirmation::Nack(_)
        | Confirmation::NotRequested) => {
            bail!("the broker did not take a message: {refused:?}")
        }
    }
}

/// Takes results until each of these tasks has one. A task may have several results (they come at
/// least once), but every result must be a success.
async fn collect(results: &mut Consumer, mut missing: HashSet<String>) -> anyhow::Result<()> {
    while !missing.is_empty() {
        let delivery = results
            .next()
            .await
            .context("the broker ended the consumer")??;
        let id = delivery
            .properties
            .message_id()
            .as_ref()
            .map(|id| id.as_str().to_owned())
            .unwrap_or_default();
        if missing.remove(&id) {
            check(&id, &delivery.data)?;
        }
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

fn check(id: &str, body: &[u8]) -> anyhow::Result<()> {
    let result: HashMap<&str, &serde_json::value::RawValue> = serde_json::from_slice(body)
        .with_context(|| format!("the result of {id} is not a JSON object"))?;
    match result.get("status").map(|status| status.get()) {
        // The bare loop sends the task back as its own result.
        None | Some("\"succeeded\"") => Ok(()),
        Some(other) => bail!(
            "task {id} ended as {other}: {}",
            String::from_utf8_lossy(body)
        ),
    }
}
