//! What exists in the broker, declared idempotently.
//!
//! Everyone who may declares exchanges, queues and streams, others look whether they are there; only the dispatcher binds
//! routes. Arguments hold only what never
//! changes (a changed argument is a 406 for everybody at start-up); the rest belongs into policies.

use std::collections::BTreeSet;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::{BrokerError, Endpoint, within};
use crate::fault::{Point, point};
use pool_core::pool::Events;
use pool_core::routing::{Binding, Route, Routes};

/// Tasks in; the key is the sorted required capabilities.
pub const TASKS: &str = "pool.tasks";
/// Outcomes of attempts, from programmers to whichever dispatcher.
pub const RESULTS_QUEUE: &str = "results";
/// Outcomes of tasks, to submitters' queues; the key is the `reply_to`.
pub const REPLIES: &str = "pool.results";
/// Exchange in front of the two streams.
pub const LOG: &str = "pool.log";
pub const EVENTS_KEY: &str = "events";
pub const HISTORY_KEY: &str = "history";
pub const EVENTS_STREAM: &str = "pool.events";
pub const HISTORY_STREAM: &str = "pool.history";
/// Who is alive and doing what; stores nothing.
pub const HEARTBEATS: &str = "pool.heartbeats";
/// Exchange and queue for tasks whose key leads to no route.
pub const UNROUTABLE: &str = "pool.unroutable";
/// Dead-letter exchange of the task queues.
pub const DEAD_EXCHANGE: &str = "pool.dlx";
/// What could not be handled.
pub const DEAD_QUEUE: &str = "pool.dead";
/// Key in front of `pool.results`, so that the results queue is reached without the default exchange.
pub const RESULTS_KEY: &str = "results";
/// Tasks whose attempt broke and is made again later; a dispatcher publishes them to `pool.tasks` when it is time. Reached
/// through `pool.results`, like the queue of results.
pub const RETRIES_QUEUE: &str = "pool.retries";
pub const RETRIES_KEY: &str = "retries";
/// What a `reply_to` must begin with.
pub const REPLY_PREFIX: &str = "results.";

/// As good as for ever.
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

/// A quorum queue from which the broker drops nothing: what it returns too often goes to `pool.dead`. Dead letters are
/// kept safely: at least once needs `reject-publish` and a target that is bound already.
fn dead_lettered() -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text(DEAD_EXCHANGE)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ])
}

/// Nothing dead-letters from here, so it must lose nothing by being looked at: every look returns what it saw, and from
/// RabbitMQ 4.0 on a queue without a limit of its own drops what was returned 20 times.
fn kept() -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(MOST_LOOKS)),
    ])
}

/// 406: the queue is there, and not as this version declares it.
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
    pub fn new(channel: &'a Channel, endpoint: &'a Endpoint) -> Self {
        Self { channel, endpoint }
    }

    /// Everything but the bindings of routes. Safe to repeat, by any process.
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

    /// For a user that may not declare: whether the queues of the routes are there. They are declared last, so all else is
    /// there then; and RabbitMQ 4.3.6 lets a user look only for what he may read or write.
    ///
    /// # Errors
    /// [`BrokerError::NotDeclared`] names the first that is not; the channel is closed then.
    pub async fn look_for(&self, routes: &Routes) -> Result<(), BrokerError> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        for queue in routes.all().iter().map(Route::queue) {
            let what = format!("look for the queue {queue}");
            let look =
                self.channel
                    .queue_declare(queue.as_str().into(), options, FieldTable::default());
            match within(self.endpoint.timeout(), what.as_str(), look).await {
                Ok(_) => {}
                Err(error) if error.is(AMQPSoftError::NOTFOUND) => {
                    return Err(BrokerError::NotDeclared { what });
                }
                // 4.2.6 and 4.3.0 let nobody look who may not declare. Consuming tells.
                Err(error) if error.is(AMQPSoftError::ACCESSREFUSED) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the bindings of `pool.tasks` those of `routes`; `before` are those that may be there.
    /// Unbinds first: the alternate exchange catches what arrives in the gap. One process at a time may do this.
    ///
    /// # Errors
    /// When the broker refuses; repeat it as a whole.
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
            within(
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
        within(
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
        let declared = within(
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
        within(
            self.endpoint.timeout(),
            format!("bind {queue} to {exchange}"),
            bind,
        )
        .await
    }
}
