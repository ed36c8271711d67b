//! One connection that is made again whenever it is gone, by whoever asks for a channel next.

use std::sync::Arc;

use lapin::{Channel, Connection};
use tokio::sync::Mutex;

use super::{BrokerError, Endpoint, within};

/// A connection for one purpose. Asking for a channel connects when needed, one asker at a time.
#[derive(Debug, Clone)]
pub struct Link {
    endpoint: Endpoint,
    purpose: &'static str,
    connection: Arc<Mutex<Option<Arc<Connection>>>>,
}

impl Link {
    pub fn new(endpoint: Endpoint, purpose: &'static str) -> Self {
        Self { endpoint, purpose, connection: Arc::default() }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A fresh channel. Tries once; the caller backs off and asks again.
    ///
    /// # Errors
    /// When the broker cannot be reached or does not open a channel in time. A connection on which that happens is kept as
    /// long as it is one: what others hold through it (an exclusive queue) would shut out whoever comes with another. A
    /// peer that is gone is found by the heartbeats.
    pub async fn channel(&self) -> Result<Channel, BrokerError> {
        let mut slot = self.connection.lock().await;
        let connection = match slot.as_ref() {
            Some(connection) if connection.status().connected() => Arc::clone(connection),
            Some(_) | None => {
                let connection = Arc::new(self.endpoint.connect(self.purpose).await?);
                Arc::clone(slot.insert(connection))
            }
        };
        let what = format!("open a channel to RabbitMQ at {}", self.endpoint.address());
        within(self.endpoint.timeout(), what, connection.create_channel()).await
    }

    /// Ends the connection in order, so that the broker returns what is unacknowledged at once.
    pub async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            // A broker that does not answer finds out by itself.
            let _ = within(self.endpoint.timeout(), "close", connection.close(200, "bye".into())).await;
        }
    }
}

/// Closes a channel whose state is not known any more, so that the broker takes back what it delivered on it.
pub async fn discard(channel: &Channel, endpoint: &Endpoint) {
    if channel.status().connected() {
        // When even that fails the connection is gone, and with it the channel.
        let _ = within(endpoint.timeout(), "close a channel", channel.close(200, "starting over".into())).await;
    }
}
