//! The broker layer: connections that come back, publishing that is confirmed, the topology, the event log.
//!
//! Rules that hold for every line below it (ARCHITECTURE.md, "Facts about the broker"): every await has a time-out;
//! after any error the channel is thrown away and everything on it is set up again; publishing and consuming use
//! separate connections.

pub mod acks;
pub mod backoff;
pub mod headers;
pub mod heartbeats;
pub mod link;
pub mod log;
pub mod outbox;
pub mod process;
pub mod publisher;
pub mod topology;

use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{Connection, ConnectionProperties};

/// What went wrong with the broker. The text fits behind "failed to ".
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("{what}: no answer from the broker within {} s", after.as_secs())]
    Timeout { what: String, after: Duration },
    /// The text holds lapin's, so lapin's error is no `source`: chains would print it twice.
    #[error("{what}: {error}")]
    Amqp { what: String, error: lapin::Error },
    #[error("{what}: the broker did not take the message")]
    Nacked { what: String },
    #[error("{what}: no queue is bound for it; is the topology declared?")]
    Returned { what: String },
    /// Waiting helps: a dispatcher declares it.
    #[error("{what}: it is not there, and this user may not declare it; is a dispatcher running?")]
    NotDeclared { what: String },
    #[error("{what}: no free publishing channel: {reason}")]
    Pool { what: String, reason: String },
}

impl BrokerError {
    /// Whether the broker closed the channel for this reason.
    pub fn is(&self, reason: AMQPSoftError) -> bool {
        let Self::Amqp { error, .. } = self else { return false };
        let lapin::ErrorKind::ProtocolError(error) = error.kind() else { return false };
        error.kind() == &AMQPErrorKind::Soft(reason)
    }
}

/// Waits for one answer of the broker, but not for ever: lapin never returns from a call to a silent peer.
///
/// # Errors
/// [`BrokerError::Timeout`] or what lapin says.
pub async fn within<T>(
    limit: Duration,
    what: impl Into<String>,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(BrokerError::Amqp { what: what.into(), error }),
        Err(_) => Err(BrokerError::Timeout { what: what.into(), after: limit }),
    }
}

/// How to reach the broker, and under which name the management UI shows this process.
#[derive(Debug, Clone)]
pub struct Endpoint {
    config: crate::config::Broker,
    process: String,
}

impl Endpoint {
    pub fn new(config: crate::config::Broker, process: impl Into<String>) -> Self {
        Self { config, process: process.into() }
    }

    /// For every single await on the broker.
    pub fn timeout(&self) -> Duration {
        self.config.timeout
    }

    pub fn publish_channels(&self) -> usize {
        self.config.publish_channels
    }

    /// Host and port, without the password.
    pub fn address(&self) -> String {
        let url = self.config.url.expose();
        url.rsplit_once('@').map_or(url, |(_, address)| address).to_owned()
    }

    /// A new connection; `purpose` is added to its name in the management UI.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses; the text names the address.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let name = format!("{} ({purpose})", self.process);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let what = format!("connect to RabbitMQ at {}", self.address());
        within(self.config.timeout, what, Connection::connect(&self.url(), properties)).await
    }

    fn url(&self) -> String {
        let url = self.config.url.expose();
        if url.contains("heartbeat=") {
            return url.to_owned();
        }
        let separator = if url.contains('?') { '&' } else { '?' };
        format!("{url}{separator}heartbeat={}", self.config.heartbeat.as_secs())
    }
}
