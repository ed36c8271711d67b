//! Submitters that do not give up: they repeat a task with the same id until a dispatcher or the
//! broker confirms it.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use pool_broker::topology::{REPLIES, TASKS};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::checker::Left;
use crate::bench::{confirmed_channel, connect};

/// The limit of one answer; afterwards the request is repeated.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// A client for plain HTTP that gives up on a dispatcher that does not answer. It reads no
/// certificates, which takes longer than a request.
///
/// # Errors
/// When the system has no TLS provider. (Plain HTTP does not need it, but the client does.)
pub fn http() -> anyhow::Result<Client> {
    // Fails only if a provider was chosen before, which works as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(ANSWER_WITHIN)
        .build()
        .context("failed to set up HTTP")
}

/// Repeats a request until an answer is final, and gives it. Each try goes to the next of these
/// addresses.
///
/// # Errors
/// When there is no final answer within `limit`.
pub async fn ask(
    urls: impl Fn(usize) -> Option<String>,
    request: impl Fn(&str) -> RequestBuilder,
    is_final: impl Fn(StatusCode) -> bool,
    limit: Duration,
) -> anyhow::Result<(StatusCode, String)> {
    let deadline = Instant::now() + limit;
    let mut problem = "there is no address to ask".to_owned();
    for attempt in 0.. {
        if Instant::now() > deadline {
            break;
        }
        if let Some(url) = urls(attempt) {
            match request(&url).send().await {
                Ok(answer) => {
                    let status = answer.status();
                    let said = answer.text().await.unwrap_or_default();
                    if is_final(status) {
                        return Ok((status, said));
                    }
                    problem = format!("{status} {said}");
                }
                Err(error) => problem = error.to_string(),
            }
        }
        sleep(PAUSE).await;
    }
    bail!("no answer within {limit:?}: {problem}")
}

/// Repeats `POST /tasks` until a dispatcher has accepted or refused the body, and gives its answer.
///
/// # Errors
/// When no dispatcher has answered within `limit`.
pub async fn offer_over_http(
    client: &Client,
    urls: impl Fn(usize) -> Option<String>,
    body: &str,
    limit: Duration,
) -> anyhow::Result<(StatusCode, String)> {
    let post = |url: &str| {
        client
            .post(format!("{url}/tasks"))
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    let passes =
        |status: StatusCode| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    ask(urls, post, |status| !passes(status), limit).await
}

/// Submits one task over HTTP until a dispatcher confirms it. Each try goes to the next of these
/// addresses.
///
/// # Errors
/// When it is refused for good, or not confirmed within `limit`.
pub async fn submit_over_http(
    client: &Client,
    urls: impl Fn(usize) -> Option<String>,
    task: &Value,
    limit: Duration,
) -> anyhow::Result<()> {
    let offered = offer_over_http(client, urls, &task.to_string(), limit).await;
    let (status, said) =
        offered.with_context(|| format!("task {} is not confirmed", task["id"]))?;
    ensure!(
        status.is_success(),
        "task {} is refused: {status} {said}",
        task["id"]
    );
    Ok(())
}

/// A submitter over AMQP. Its reply queue outlives the broker, and it reconnects when it loses its
/// connection.
#[derive(Debug)]
pub struct Submitter {
    url: String,
    queue: String,
    open: Option<(Connection, Channel)>,
}

impl Submitter {
    /// Declares `results.<name>`, a quorum queue, and binds it.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn join(url: &str, name: &str) -> anyhow::Result<Self> {
        let mut submitter = Self {
            url: url.to_owned(),
            queue: format!("results.{name}"),
            open: None,
        };
        let queue = submitter.queue.clone();
        let channel = submitter.channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.as_str().into(), options, arguments)
            .await?;
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(
                queue.as_str().into(),
                REPLIES.into(),
                queue.as_str().into(),
                options,
                none,
            )
            .await?;
        Ok(submitter)
    }

    pub fn queue(&self) -> &str {
        &self.queue
    }

    async fn channel(&mut self) -> anyhow::Result<Channel> {
        if let Some((connection, channel)) = &self.open
            && connection.status().connected()
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        let fresh = async {
            let connection = connect(&self.url).await?;
            let channel = confirmed_channel(&connection).await?;
            anyhow::Ok((connection, channel))
        };
        let (connection, channel) = timeout(ANSWER_WITHIN, fresh)
            .await
            .context("the broker does not answer")??;
        self.open = Some((connection, channel.clone()));
        Ok(channel)
    }

    /// Properties of a message with this submitter's reply address.
    pub fn properties(&self) -> BasicProperties {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        properties.with_reply_to(self.queue.as_str().into())
    }

    /// Publishes a task to `pool.tasks` until it is confirmed.
    ///
    /// # Errors
    /// When it is not confirmed within `limit`.
    pub async fn submit(&mut self, key: &str, task: &Value, limit: Duration) -> anyhow::Result<()> {
        let published = self
            .publish(key, &task.to_string(), self.properties(), limit)
            .await;
        published.with_context(|| format!("task {}", task["id"]))
    }

    /// Publishes a message to `pool.tasks` until it is confirmed.
    ///
    /// # Errors
    /// When it is not confirmed within `limit`.
    pub async fn publish(
        &mut self,
        key: &str,
        body: &str,
        properties: BasicProperties,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let Err(error) = self.try_publish(key, body, properties.clone()).await else {
                return Ok(());
            };
            // On any error of the channel, tries with a new one.
            self.open = None;
            if Instant::now() > deadline {
                return Err(error.context(format!("it is not confirmed within {limit:?}")));
            }
            sleep(PAUSE).await;
        }
    }

    async fn try_publish(
        &mut self,
        key: &str,
        body: &str,
        properties: BasicProperties,
    ) -> anyhow::Result<()> {
        let channel = self.channel().await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publish = async {
            channel
                .basic_publish(
                    TASKS.into(),
                    key.into(),
                    options,
                    body.as_bytes(),
                    properties,
                )
                .await?
                .await
        };
        match timeout(ANSWER_WITHIN, publish)
            .await
            .context("no confirm")??
        {
            Confirmation::Ack(None) => Ok(()),
            refused @ (Confirmation::Ack(Some(_))
            | Confirmation::Nack(_)
            | Confirmation::NotRequested) => {
                bail!("the broker did not take it: {refused:?}")
            }
        }
    }
}

/// Takes all ready messages out of a queue, for good; gives none if the queue does not exist.
///
/// # Errors
/// When the broker does not answer.
pub async fn drain(connection: &Connection, queue: &str) -> anyhow::Result<Vec<Left>> {
    let mut left = Vec::new();
    if ready(connection, queue).await?.is_none() {
        return Ok(left);
    }
    let channel = connection.create_channel().await?;
    while let Some(message) = channel
        .basic_get(queue.into(), BasicGetOptions { no_ack: true })
        .await?
    {
        let delivery = message.delivery;
        let in_property = delivery
            .properties
            .message_id()
            .as_ref()
            .map(|id| id.as_str().to_owned());
        let task = in_property
            .filter(|id| !id.is_empty())
            .or_else(|| id_in(&delivery.data));
        left.push(Left {
            queue: queue.to_owned(),
            task,
            body: delivery.data,
        });
    }
    channel.close(200, "done".into()).await?;
    Ok(left)
}

fn id_in(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    ["id", "task_id"]
        .iter()
        .find_map(|key| body[*key].as_str().map(str::to_owned))
}

/// The number of ready messages in a queue; None if the queue does not exist.
///
/// # Errors
/// When the broker does not answer.
pub async fn ready(connection: &Connection, queue: &str) -> anyhow::Result<Option<u32>> {
    // Asking for a queue that does not exist closes the channel.
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await;
    match declared {
        Ok(queue) => {
            channel.close(200, "done".into()).await?;
            Ok(Some(queue.message_count()))
        }
        Err(error) if matches!(error.kind(), lapin::ErrorKind::ProtocolError(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
