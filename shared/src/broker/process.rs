//! What every process of the pool sets up in front of its own work: two connections, the topology, the event log,
//! the clock and the heartbeats of others.

use std::sync::Arc;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::link::{Link, discard};
use super::log::Log;
use super::publisher::Publisher;
use super::status::{BrokerStatus, Condition};
use super::topology::Topology;
use super::{BrokerError, Endpoint, heartbeats, tell};
use crate::config::Pool;
use crate::event::EmitterId;
use crate::heartbeat::{Clock, Heartbeat};
use crate::routing::Routes;

/// The broker's side of a process. Cheap to clone.
#[derive(Clone)]
pub struct Process {
    /// This incarnation.
    pub id: EmitterId,
    /// For people: `worker host/123`, or what it was told to be called. Others may be called the same.
    pub name: String,
    /// The machine, or the container.
    pub host: String,
    /// For consuming; nothing is published over it.
    pub consume: Link,
    pub publisher: Publisher,
    pub log: Log,
    pub clock: Arc<Clock>,
    pub routes: Arc<Routes>,
    /// Ends everything.
    pub shutdown: CancellationToken,
}

impl Process {
    /// Connects, declares the topology and starts the log. Waits as long as the broker cannot be reached.
    ///
    /// # Errors
    /// When the broker refuses this user, this virtual host or the topology: nothing that waiting would cure.
    pub async fn start(
        pool: &Pool,
        name: String,
        hear: impl Fn(Heartbeat) + Send + 'static,
        shutdown: CancellationToken,
    ) -> Result<Self, BrokerError> {
        let host = host_name();
        let endpoint = Endpoint::new(pool.broker.clone(), name.as_str());
        let consume = Link::new(endpoint.clone(), "consume");
        consume.first_connection().await?;
        let publisher = Publisher::new(Link::new(endpoint, "publish"))?;
        let routes = Arc::new(Routes::new(&pool.capabilities()));
        declare(&consume, &routes, pool).await?;
        let clock = Arc::new(Clock::new());
        let id = EmitterId::new();
        let log = Log::start(consume.clone(), publisher.clone(), &pool.events, (Arc::clone(&clock), shutdown.clone()));
        let judge = Arc::clone(&clock);
        let heard = move |heartbeat: Heartbeat| {
            if heartbeat.process != id {
                judge.heard(&heartbeat);
            }
            hear(heartbeat);
        };
        tokio::spawn(heartbeats::listen(consume.clone(), heard, shutdown.clone()));
        Ok(Self { id, name, host, consume, publisher, log, clock, routes, shutdown })
    }
}

impl Process {
    /// How this process is connected.
    pub fn broker(&self) -> BrokerStatus {
        let now = |link: &Link| Condition::from(&*link.state().borrow());
        let condition = now(&self.consume).worse(now(self.publisher.link()));
        BrokerStatus::new(self.consume.endpoint().address(), condition)
    }
}

async fn declare(link: &Link, routes: &Routes, pool: &Pool) -> Result<(), BrokerError> {
    let mut backoff = Backoff::default();
    loop {
        let error = match try_declare(link, routes, pool).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if is_refusal(&error) {
            return Err(error);
        }
        tell(&error, "the topology is not declared yet; trying again");
        backoff.wait().await;
    }
}

async fn try_declare(link: &Link, routes: &Routes, pool: &Pool) -> Result<(), BrokerError> {
    let channel = link.channel().await?;
    let declared = Topology::new(&channel, link.endpoint()).declare(routes, &pool.events).await;
    discard(&channel, link.endpoint()).await;
    match declared {
        // The user of a worker need not be able to delete the pool (config/definitions.json).
        Err(error) if error.is(AMQPSoftError::ACCESSREFUSED) => {
            let channel = link.channel().await?;
            let found = Topology::new(&channel, link.endpoint()).look_for(routes).await;
            discard(&channel, link.endpoint()).await;
            found
        }
        Ok(()) | Err(_) => declared,
    }
}

/// Whether the broker is there and says no, so that trying again is of no use.
fn is_refusal(error: &BrokerError) -> bool {
    let BrokerError::Amqp { error, .. } = error else { return false };
    if let lapin::ErrorKind::ProtocolError(error) = error.kind() {
        return match error.kind() {
            // A node that has only just come up does not have all its queues yet; a lock is let go of.
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND | AMQPSoftError::RESOURCELOCKED) => false,
            AMQPErrorKind::Soft(_) => true,
            AMQPErrorKind::Hard(hard) => matches!(hard, AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED),
        };
    }
    false
}

/// What a process is called in logs, in the status and in the names of its connections: as it was told, or by what it
/// does, its machine (in a container: its short id) and its pid.
pub fn called(role: &str, told: Option<String>) -> String {
    told.filter(|told| !told.is_empty()).unwrap_or_else(|| format!("{role} {}/{}", host_name(), std::process::id()))
}

fn host_name() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = from_kernel.trim();
    if name.is_empty() { "host".to_owned() } else { name.to_owned() }
}
