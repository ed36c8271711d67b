//! The exchanges, queues and streams of the pool, declared idempotently.
//!
//! A process whose user has the right declares all of them; another process checks that the queues of all routes exist. Only
//! the dispatcher binds routes. Arguments contain only what never changes, because every process with a changed argument fails at
//! its start (406). Everything else belongs into policies.

use std::collections::BTreeSet;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::{BrokerError, Endpoint, queue, with_timeout};
use crate::fault::{Point, point};
use pool_core::id::ProgrammerId;
use pool_core::pool::Events;
use pool_core::routing::{Binding, Route, Routes};

/// The exchange for tasks. The routing key is the required capabilities, sorted and joined with `.`.
pub const TASKS: &str = "pool.tasks";
/// The queue for the results of attempts, from programmers to any dispatcher.
pub const RESULTS_QUEUE: &str = "results";
/// The exchange for the results of tasks. The routing key is the submitter's `reply_to`.
pub const REPLIES: &str = "pool.results";
/// The exchange of the two streams.
pub const LOG: &str = "pool.log";
/// The key of [`EVENTS_STREAM`] in [`LOG`].
pub const EVENTS_KEY: &str = "events";
/// The key of [`HISTORY_STREAM`] in [`LOG`].
pub const HISTORY_KEY: &str = "history";
/// The stream of the event log.
pub const EVENTS_STREAM: &str = "pool.events";
/// The stream of task messages, results and output of agents. Only dispatchers read it.
pub const HISTORY_STREAM: &str = "pool.history";
/// The exchange for heartbeats, which are not stored.
pub const HEARTBEATS: &str = "pool.heartbeats";
/// The exchange and the queue for tasks whose key leads to no route.
pub const UNROUTABLE: &str = "pool.unroutable";
/// The dead-letter exchange of the task queues.
pub const DEAD_EXCHANGE: &str = "pool.dlx";
/// The queue of dead letters: messages that could not be handled.
pub const DEAD_QUEUE: &str = "pool.dead";
/// The key of [`RESULTS_QUEUE`] in [`REPLIES`]: workers have no right to the default exchange.
pub const RESULTS_KEY: &str = "results";
/// The queue of tasks that wait for their next attempt. A dispatcher publishes each to [`TASKS`] when it is due.
pub const RETRIES_QUEUE: &str = "pool.retries";
/// The key of [`RETRIES_QUEUE`] in [`REPLIES`].
pub const RETRIES_KEY: &str = "retries";
/// The exclusive queue by which one process holds this programmer. It is gone as soon as that process's connection is.
pub fn programmer_lock(id: &ProgrammerId) -> String {
    format!("programmer.{id}")
}

/// The prefix of every `reply_to`.
pub const REPLY_PREFIX: &str = "results.";

/// The delivery limit of `pool.dead`: effectively unlimited.
const MOST_LOOKS: i64 = 1_000_000_000;

/// Declares and binds on one channel.
pub struct Topology<'a> {
    channel: &'a Channel,
    endpoint: &'a Endpoint,
}

fn table<const N: usize>(arguments: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A quorum queue from which the broker drops nothing: a message that is returned too often goes to `pool.dead`, at least
/// once. That strategy needs `reject-publish`, and a target that is bound already.
fn dead_lettered() -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text(DEAD_EXCHANGE)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ])
}

/// The queue of dead letters, which has no dead-letter exchange of its own. Every inspection returns its messages, and from
/// RabbitMQ 4.0 on a queue without an explicit limit drops a message after 20 returns.
fn kept() -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(MOST_LOOKS)),
    ])
}

/// Explains a 406: the queue exists with other arguments than this version declares.
fn hint(name: &str, refused: BrokerError) -> BrokerError {
    if !refused.is(AMQPSoftError::PRECONDITIONFAILED) {
        return refused;
    }
    let BrokerError::Amqp { error, .. } = refused else {
        return refused;
    };
    let what = format!(
        "declare the queue {name}: it exists with other arguments. Save what is in it, delete it (`rabbitmqctl delete_queue \
         {name}`), and start again"
    );
    BrokerError::Amqp { what, error }
}

impl<'a> Topology<'a> {
    /// Works on this channel, with the time-outs of this endpoint.
    pub fn new(channel: &'a Channel, endpoint: &'a Endpoint) -> Self {
        Self { channel, endpoint }
    }

    /// Declares everything except the bindings of routes. Any process may repeat it.
    ///
    /// # Errors
    /// When the broker refuses, for example because a queue exists with other arguments.
    pub async fn declare(&self, routes: &Routes, events: &Events) -> Result<(), BrokerError> {
        self.exchange(UNROUTABLE, ExchangeKind::Fanout, FieldTable::default())
            .await?;
        self.exchange(DEAD_EXCHANGE, ExchangeKind::Fanout, FieldTable::default())
            .await?;
        self.exchange(REPLIES, ExchangeKind::Direct, FieldTable::default())
            .await?;
        self.exchange(LOG, ExchangeKind::Direct, FieldTable::default())
            .await?;
        self.exchange(HEARTBEATS, ExchangeKind::Fanout, FieldTable::default())
            .await?;
        self.exchange(
            TASKS,
            ExchangeKind::Direct,
            table([("alternate-exchange", text(UNROUTABLE))]),
        )
        .await?;
        for (queue, exchange, key) in [
            (DEAD_QUEUE, DEAD_EXCHANGE, ""),
            (UNROUTABLE, UNROUTABLE, ""),
            (RESULTS_QUEUE, REPLIES, RESULTS_KEY),
            (RETRIES_QUEUE, REPLIES, RETRIES_KEY),
        ] {
            let arguments = if queue == DEAD_QUEUE {
                kept()
            } else {
                dead_lettered()
            };
            self.queue(queue, arguments).await?;
            self.bind(queue, exchange, key).await?;
        }
        for (stream, key) in [(EVENTS_STREAM, EVENTS_KEY), (HISTORY_STREAM, HISTORY_KEY)] {
            self.stream(stream, events).await?;
            self.bind(stream, LOG, key).await?;
        }
        for route in routes.all() {
            self.queue(&route.queue(), dead_lettered()).await?;
        }
        Ok(())
    }

    /// Checks that the queues of the routes exist, for a user that may not declare. They are declared last, so everything else
    /// exists then. RabbitMQ 4.3.6 lets a user check only what the user may read or write.
    ///
    /// # Errors
    /// [`BrokerError::NotDeclared`] names the first missing queue. The broker has closed the channel then.
    pub async fn look_for(&self, routes: &Routes) -> Result<(), BrokerError> {
        for queue in routes.all().iter().map(Route::queue) {
            match queue::inspect(self.channel, self.endpoint.timeout(), &queue).await {
                Ok(_) => {}
                Err(error) if error.is(AMQPSoftError::NOTFOUND) => {
                    let what = format!("look for the queue {queue}");
                    return Err(BrokerError::NotDeclared { what });
                }
                // RabbitMQ 4.2.6 and 4.3.0 refuse the check to a user without the right to declare. Consuming will fail if
                // the queue is missing.
                Err(error) if error.is(AMQPSoftError::ACCESSREFUSED) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Replaces the bindings of `pool.tasks`, which may be any of `before`, by those of `routes`. It unbinds first; the
    /// alternate exchange catches messages that arrive in between. One process at a time may do this.
    ///
    /// # Errors
    /// When the broker refuses. Then repeat all of it.
    pub async fn bind_routes(
        &self,
        routes: &Routes,
        before: &BTreeSet<Binding>,
    ) -> Result<(), BrokerError> {
        let wanted: BTreeSet<Binding> = routes.bindings().collect();
        for Binding { queue, key } in before.difference(&wanted) {
            let unbind = self.channel.queue_unbind(
                queue.as_str().into(),
                TASKS.into(),
                key.as_str().into(),
                FieldTable::default(),
            );
            with_timeout(
                self.endpoint.timeout(),
                format!("unbind {queue} from {TASKS}"),
                unbind,
            )
            .await?;
        }
        point(Point::RoutesUnbound);
        for Binding { queue, key } in &wanted {
            self.bind(queue, TASKS, key).await?;
        }
        Ok(())
    }

    async fn exchange(
        &self,
        name: &str,
        kind: ExchangeKind,
        arguments: FieldTable,
    ) -> Result<(), BrokerError> {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declare = self
            .channel
            .exchange_declare(name.into(), kind, options, arguments);
        with_timeout(
            self.endpoint.timeout(),
            format!("declare the exchange {name}"),
            declare,
        )
        .await
    }

    async fn queue(&self, name: &str, arguments: FieldTable) -> Result<(), BrokerError> {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let declare = self.channel.queue_declare(name.into(), options, arguments);
        let declared = with_timeout(
            self.endpoint.timeout(),
            format!("declare the queue {name}"),
            declare,
        )
        .await;
        declared.map(drop).map_err(|error| hint(name, error))
    }

    async fn stream(&self, name: &str, events: &Events) -> Result<(), BrokerError> {
        let segment = i64::try_from(events.segment_bytes).unwrap_or(i64::MAX);
        let arguments = table([
            ("x-queue-type", text("stream")),
            ("x-max-age", text(&events.max_age)),
            (
                "x-stream-max-segment-size-bytes",
                AMQPValue::LongLongInt(segment),
            ),
        ]);
        self.queue(name, arguments).await
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), BrokerError> {
        let bind = self.channel.queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        with_timeout(
            self.endpoint.timeout(),
            format!("bind {queue} to {exchange}"),
            bind,
        )
        .await
    }
}
