//! A submitter that speaks AMQP: it publishes to `pool.tasks` and has its own reply queue.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicRejectOptions,
    ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use pool_core::result::ResultMessage;
use serde_json::Value;

use super::{SOON, eventually};

/// The lock of the process that reads `pool.dead`.
const LOOK: &str = "pool.dead.look";

/// A connection and a channel with confirms.
pub(crate) async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("publisher confirms");
    (connection, channel)
}

/// A reply queue that takes this many messages and refuses more.
pub(crate) async fn small_queue(channel: &Channel, name: &str, messages: i32) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(messages));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    channel
        .queue_declare(name.into(), QueueDeclareOptions::default(), arguments)
        .await
        .expect("a small queue");
    bind_reply_queue(channel, name).await;
}

/// Binds results for this name to the queue of this name.
pub(crate) async fn bind_reply_queue(channel: &Channel, name: &str) {
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel
        .queue_bind(
            name.into(),
            "pool.results".into(),
            name.into(),
            options,
            none,
        )
        .await
        .expect("a binding");
}

/// Gets a message out of a queue and returns it, as a process that died with it; false if the queue
/// is empty. A reject counts towards the delivery limit of every RabbitMQ, a nack up to 4.2 only.
pub(crate) async fn give_back(channel: &Channel, queue: &str) -> bool {
    let got = channel
        .basic_get(queue.into(), BasicGetOptions::default())
        .await
        .expect("an answer");
    let Some(got) = got else { return false };
    got.delivery
        .reject(BasicRejectOptions { requeue: true })
        .await
        .expect("a reject");
    true
}

#[derive(Debug)]
pub(crate) struct Submitter {
    name: String,
    channel: Channel,
    replies: Consumer,
    connection: Connection,
}

impl Submitter {
    pub(crate) async fn join(url: &str, name: &str) -> Self {
        let (connection, channel) = channel(url).await;
        let queue = format!("results.{name}");
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.as_str().into(), options, FieldTable::default())
            .await
            .expect("a reply queue");
        let (name_of_queue, key) = (queue.as_str().into(), queue.as_str().into());
        let bind = channel.queue_bind(
            name_of_queue,
            "pool.results".into(),
            key,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bind.await.expect("a binding");
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consume = channel.basic_consume(
            queue.as_str().into(),
            "".into(),
            options,
            FieldTable::default(),
        );
        let replies = consume.await.expect("a consumer");
        Self {
            name: name.to_owned(),
            channel,
            replies,
            connection,
        }
    }

    /// Properties of a task message with this submitter's reply address.
    pub(crate) fn properties(&self) -> BasicProperties {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        properties.with_reply_to(format!("results.{}", self.name).as_str().into())
    }

    /// Publishes to `pool.tasks`.
    pub(crate) async fn publish(
        &self,
        key: &str,
        body: impl AsRef<[u8]>,
        properties: BasicProperties,
    ) {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publish = self.channel.basic_publish(
            "pool.tasks".into(),
            key.into(),
            options,
            body.as_ref(),
            properties,
        );
        let confirmed = publish.await.expect("a publish").await.expect("a confirm");
        assert!(
            confirmed.is_ack(),
            "the broker did not take the message: {confirmed:?}"
        );
    }

    /// Publishes into a queue directly, as an operator could.
    pub(crate) async fn publish_to_queue(
        &self,
        queue: &str,
        body: impl AsRef<[u8]>,
        properties: BasicProperties,
    ) {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publish =
            self.channel
                .basic_publish("".into(), queue.into(), options, body.as_ref(), properties);
        let confirmed = publish.await.expect("a publish").await.expect("a confirm");
        assert!(
            confirmed.is_ack(),
            "the broker did not take the message: {confirmed:?}"
        );
    }

    pub(crate) async fn submit(&self, key: &str, task: &Value) {
        self.publish(key, task.to_string(), self.properties()).await;
    }

    /// The next reply.
    ///
    /// # Panics
    /// When none comes within `limit`.
    pub(crate) async fn reply(&mut self, limit: Duration) -> ResultMessage {
        let delivery = self
            .next(limit)
            .await
            .unwrap_or_else(|| panic!("no result came within {} s", limit.as_secs()));
        serde_json::from_slice(&delivery.data).expect("a result message")
    }

    /// The next message of the reply queue, if one comes within `limit`.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<Delivery> {
        let next = tokio::time::timeout(limit, self.replies.next())
            .await
            .ok()?;
        Some(next.expect("the reply queue stays").expect("a delivery"))
    }

    /// Takes everything out of a queue and acknowledges it; gives the bodies.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<Vec<u8>> {
        self.drain_deliveries(queue)
            .await
            .into_iter()
            .map(|delivery| delivery.data)
            .collect()
    }

    /// The same, with the properties.
    pub(crate) async fn drain_deliveries(&self, queue: &str) -> Vec<Delivery> {
        let mut messages = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self
            .channel
            .basic_get(queue.into(), options)
            .await
            .expect("a queue")
        {
            messages.push(message.delivery);
        }
        messages
    }

    /// Takes everything out of `pool.dead`, at a time when no dispatcher reads it.
    pub(crate) async fn drain_dead(&self) -> Vec<Vec<u8>> {
        // A dispatcher that reads the queue holds this one. A refusal closes the channel.
        let turn = eventually("no dispatcher reads pool.dead", SOON, async || {
            let channel = self.connection.create_channel().await.expect("a channel");
            let options = QueueDeclareOptions {
                exclusive: true,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(LOOK.into(), options, FieldTable::default())
                .await
                .ok()?;
            Some(channel)
        });
        let turn = turn.await;
        let given_back = async || (self.consumers("pool.dead").await == 0).then_some(());
        eventually(
            "the last reader has returned its messages",
            SOON,
            given_back,
        )
        .await;
        let dead = self.drain("pool.dead").await;
        turn.queue_delete(LOOK.into(), QueueDeleteOptions::default())
            .await
            .expect("the turn is given up");
        dead
    }

    /// The number of consumers of a queue.
    pub(crate) async fn consumers(&self, queue: &str) -> u32 {
        let declared = self.look_at(queue).await;
        declared
            .unwrap_or_else(|error| panic!("no queue {queue}: {error}"))
            .consumer_count()
    }

    /// The number of ready messages in a queue, if it exists.
    pub(crate) async fn depth_if_any(&self, queue: &str) -> Option<u32> {
        self.look_at(queue)
            .await
            .ok()
            .map(|queue| queue.message_count())
    }

    async fn look_at(&self, queue: &str) -> lapin::Result<lapin::Queue> {
        // Asking for a queue that does not exist closes the channel.
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
    }
}
