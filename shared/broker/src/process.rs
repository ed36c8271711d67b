//! The set-up of every process before its own work: two connections, the topology, the event log, the clock and the
//! heartbeats of the other processes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::Channel;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::event_log::Log;
use super::link::{Link, gone};
use super::publisher::Publisher;
use super::service::Service;
use super::status::{BrokerStatus, Condition};
use super::topology::{EVENTS_STREAM, Topology};
use super::{BrokerError, Endpoint, consumer, heartbeats, log_broker_error, queue};
use crate::clock::Clock;
use pool_core::event::EmitterId;
use pool_core::heartbeat::Heartbeat;
use pool_core::pool::{Events, Pool};
use pool_core::routing::Routes;
use pool_telemetry::clock::{new_id, wall_clock};

/// About how often a process without news from the event log checks whether the stream still exists.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The connections and shared services of a process. Cheap to clone.
#[derive(Clone)]
pub struct Process {
    /// Names this run of the process in heartbeats.
    pub id: EmitterId,
    /// For people: `worker host/123`, or the name from the command line. It need not be unique.
    pub name: String,
    /// The name of the machine or the container.
    pub host: String,
    /// The connection for consuming; nothing is published over it.
    pub consume: Link,
    /// Publishes over the second connection.
    pub publisher: Publisher,
    /// The event log.
    pub log: Log,
    /// Gives the time while it agrees with the other processes.
    pub clock: Arc<Clock>,
    /// The routes of this process's pool file.
    pub routes: Arc<Routes>,
    /// Ends the process and everything in it.
    pub shutdown: CancellationToken,
}

impl Process {
    /// Connects and declares the topology. Waits while the broker cannot be reached. Also returns the services that read the
    /// log, append to it and receive heartbeats, which the caller runs. `hear` is called for every heartbeat.
    ///
    /// # Errors
    /// When the broker refuses this user, this virtual host or the topology, which waiting would not cure.
    pub async fn prepare(
        pool: &Pool,
        name: String,
        hear: impl Fn(Heartbeat) + Send + Sync + 'static,
        shutdown: CancellationToken,
    ) -> Result<(Self, Vec<Service>), BrokerError> {
        let host = host_name();
        let endpoint = Endpoint::new(pool.broker.clone(), name.as_str());
        let consume = Link::new(endpoint.clone(), "consume");
        consume.first_connection().await?;
        let publisher = Publisher::new(Link::new(endpoint, "publish"))?;
        let routes = Arc::new(Routes::new(&pool.capabilities()));
        declare(&consume, &routes, pool).await?;
        let clock = Arc::new(Clock::new());
        let id = new_id::<EmitterId>();
        let (log, of_log) = Log::new(
            consume.clone(),
            publisher.clone(),
            &pool.events,
            Arc::clone(&clock),
            shutdown.clone(),
        );
        let (hears, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (judge, asks) = (Arc::clone(&clock), Arc::clone(&asked));
        let heard = move |heartbeat: Heartbeat| {
            if heartbeat.process != id {
                judge.heard(&heartbeat);
                if heartbeat.asks {
                    asks.notify_one();
                }
            }
            hear(heartbeat);
        };
        let listening =
            heartbeats::listen(consume.clone(), heard, Arc::clone(&hears), shutdown.clone());
        let process = Self {
            id,
            name,
            host,
            consume,
            publisher,
            log,
            clock,
            routes,
            shutdown,
        };
        let name = process.name.clone();
        let greeting = heartbeats::greet(
            process.publisher.clone(),
            move |asks| Heartbeat::greeting(id, &name, wall_clock(), asks),
            Arc::clone(&process.clock),
            hears,
            asked,
            process.shutdown.clone(),
        );
        let declaring = keep_declared(process.clone(), pool.events.clone());
        let mut services: Vec<Service> = vec![
            ("connection_to_consume", process.consume.ended().boxed()),
            (
                "connection_to_publish",
                process.publisher.link().ended().boxed(),
            ),
            ("heartbeats", listening.boxed()),
            ("greetings", greeting.boxed()),
            ("topology", declaring.boxed()),
        ];
        services.extend(of_log);
        Ok((process, services))
    }

    /// Waits for this time; false when the process ends meanwhile.
    pub async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    /// Consumes until shutdown. Whenever `consume` ends, calls it again, with growing pauses, as soon as this machine's clock is
    /// right. `words` say what does not work meanwhile.
    pub async fn keep_consuming<C>(&self, words: &str, consume: impl Fn() -> C)
    where
        C: Future<Output = Result<(), BrokerError>>,
    {
        let consume = &consume;
        consumer::keep(&self.shutdown, || async move {
            self.clock.right().await;
            if let Err(error) = consume().await {
                log_broker_error(&error, words);
            }
        })
        .await;
    }

    /// Handles deliveries of a channel until their handling is in vain: the channel is closed, or this machine's clock is off,
    /// so that nothing can be appended. Another process can have them then.
    ///
    /// # Errors
    /// Those of `handling`.
    pub async fn while_useful(
        &self,
        channel: &Channel,
        handling: impl Future<Output = Result<(), BrokerError>>,
    ) -> Result<(), BrokerError> {
        tokio::select! {
            ended = handling => ended,
            () = gone(channel) => Ok(()),
            off = self.clock.wrong() => {
                tracing::warn!("{off}: returning unfinished messages to other processes");
                Ok(())
            }
        }
    }

    /// The state of the connections of this process.
    pub fn broker(&self) -> BrokerStatus {
        let now = |link: &Link| Condition::from(&*link.state().borrow());
        let condition = now(&self.consume).worse(now(self.publisher.link()));
        BrokerStatus::new(self.consume.endpoint().address(), condition)
    }
}

/// Declares everything again when the stream of the event log has disappeared, because somebody has deleted the virtual host
/// and created it anew.
async fn keep_declared(process: Process, events: Events) {
    let mut declared = true;
    while process
        .pause(LOOK_EVERY.mul_f64(0.5 + rand::random::<f64>()))
        .await
    {
        // A declaration that failed halfway has to be repeated, although the stream is there again.
        if declared {
            if process.log.is_fresh() || !is_gone(&process.consume).await {
                continue;
            }
            tracing::warn!("the stream {EVENTS_STREAM} is gone; declaring everything again");
        }
        let declaring = try_declare(&process.consume, &process.routes, &events).await;
        if let Err(error) = &declaring
            && declared
        {
            log_broker_error(
                error,
                "the topology is not declared again yet; trying again",
            );
        }
        declared = declaring.is_ok();
    }
}

/// Whether the broker answers that the stream of the event log does not exist.
async fn is_gone(link: &Link) -> bool {
    let limit = link.endpoint().timeout();
    let seen = link
        .on_channel(|channel| async move { queue::inspect(&channel, limit, EVENTS_STREAM).await });
    seen.await
        .is_err_and(|error| error.is(AMQPSoftError::NOTFOUND))
}

async fn declare(link: &Link, routes: &Routes, pool: &Pool) -> Result<(), BrokerError> {
    let mut backoff = Backoff::default();
    loop {
        let error = match try_declare(link, routes, &pool.events).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if is_refusal(&error) {
            return Err(error);
        }
        log_broker_error(&error, "the topology is not declared yet; trying again");
        backoff.wait().await;
    }
}

async fn try_declare(link: &Link, routes: &Routes, events: &Events) -> Result<(), BrokerError> {
    let declared = link.on_channel(|channel| async move {
        Topology::new(&channel, link.endpoint())
            .declare(routes, events)
            .await
    });
    match declared.await {
        // A worker's user has no right to declare (config/definitions.json), so that it cannot delete either.
        Err(error) if error.is(AMQPSoftError::ACCESSREFUSED) => {
            let found = link.on_channel(|channel| async move {
                Topology::new(&channel, link.endpoint())
                    .look_for(routes)
                    .await
            });
            found.await
        }
        declared => declared,
    }
}

/// Whether the broker refuses for a reason that trying again does not cure.
fn is_refusal(error: &BrokerError) -> bool {
    let BrokerError::Amqp { error, .. } = error else {
        return false;
    };
    if let lapin::ErrorKind::ProtocolError(error) = error.kind() {
        return match error.kind() {
            // A node that has just started does not have all its queues yet; a lock will be released.
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND | AMQPSoftError::RESOURCELOCKED) => false,
            AMQPErrorKind::Soft(_) => true,
            AMQPErrorKind::Hard(hard) => matches!(
                hard,
                AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED
            ),
        };
    }
    false
}

/// The name of a process in logs, in the status and in the names of its connections. It is `told` from the command line;
/// without it, the role, the host name (in a container: the short id) and the pid.
pub fn called(role: &str, told: Option<String>) -> String {
    told.filter(|told| !told.is_empty())
        .unwrap_or_else(|| format!("{role} {}/{}", host_name(), std::process::id()))
}

/// The host name from the kernel; `host` when it is empty.
pub fn host_name() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = from_kernel.trim();
    if name.is_empty() {
        "host".to_owned()
    } else {
        name.to_owned()
    }
}
