//! The broker layer: connections that are restored, confirmed publishing, the topology, the event log.
//!
//! Three rules hold in all of it (docs/internals/broker-facts.md). Every await on the broker has a time-out.
//! After any error the channel is closed and everything on it is set up again. Publishing and consuming use separate
//! connections.

pub mod acks;
pub mod backoff;
pub mod clock;
pub mod connect_error;
pub mod consumer;
mod endpoint;
pub mod event_log;
pub mod fault;
pub mod headers;
pub mod heartbeats;
pub mod link;
pub mod outbox;
pub mod pool_metrics;
pub mod process;
pub mod publisher;
pub mod queue;
pub mod service;
pub mod status;
pub mod steps;
pub mod tail;
mod tls;
pub mod topology;

use std::time::Duration;

use connect_error::NotConnected;
pub use endpoint::Endpoint;
use event_log::LogError;
use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use pool_core::state::Refusal;

/// An operation on the broker that failed. The text fits after "failed to"; `what` in each variant is the operation:
/// `publish to pool.tasks with key "fast"`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// The broker did not answer in time. The operation may still take effect.
    #[error("{what}: no answer from the broker within {} s", after.as_secs())]
    Timeout {
        /// The operation.
        what: String,
        /// `broker.timeout_s` of the pool file.
        after: Duration,
    },
    /// The broker or the connection reported an error. lapin's error is not the `source`, because the text contains it
    /// and error chains would print it twice.
    #[error("{what}: {error}")]
    Amqp {
        /// The operation.
        what: String,
        /// lapin's error.
        error: lapin::Error,
    },
    /// The broker refused the message (`basic.nack`).
    #[error("{what}: the broker did not take the message")]
    Nacked {
        /// The operation.
        what: String,
    },
    /// A mandatory message reached no queue.
    #[error("{what}: no queue is bound for it; is the topology declared?")]
    Returned {
        /// The operation.
        what: String,
    },
    /// The broker is not connected.
    #[error("{0}")]
    Connect(NotConnected),
    /// The broker has a memory or disk alarm and accepts no messages.
    #[error(
        "{what}: the broker takes no messages now ({reason}): look at its memory and disk (`rabbitmq-diagnostics alarms`)"
    )]
    Blocked {
        /// The operation.
        what: String,
        /// The broker's words.
        reason: String,
    },
    /// A queue is missing that only a dispatcher may declare. Waiting for one helps.
    #[error(
        "{what}: it does not exist, and this user may not declare it; is a dispatcher running?"
    )]
    NotDeclared {
        /// The operation.
        what: String,
    },
    /// The broker ended the consumer.
    #[error(
        "{what}: the broker cancelled the consumer: its queue was deleted, or a message was held for longer than consumer_timeout"
    )]
    Cancelled {
        /// The operation.
        what: String,
    },
    /// A consumer that was to end may still be open.
    #[error("{what}: a consumer may still be open")]
    StillConsuming {
        /// The operation.
        what: String,
    },
    /// A stream that always has messages brought none.
    #[error("{what}: no message came within {} s", after.as_secs())]
    Silent {
        /// The operation.
        what: String,
        /// `events.stale_s` of the pool file.
        after: Duration,
    },
    /// The event log did not confirm an event that the operation needs.
    #[error("{what}: {error}")]
    Log {
        /// The operation.
        what: String,
        /// The log's error.
        error: LogError,
    },
    /// The event log refused an event that the operation needs.
    #[error("{what}: the event log refuses it: {refusal:?}")]
    RefusedByLog {
        /// The operation.
        what: String,
        /// The log's reason.
        refusal: Refusal,
    },
    /// The process ends and publishes no more.
    #[error("{what}: this process is ending")]
    Ending {
        /// The operation.
        what: String,
    },
    /// No channel for publishing was free in time.
    #[error("{what}: no free publishing channel: {reason}")]
    Pool {
        /// The operation.
        what: String,
        /// Why no channel became free.
        reason: String,
    },
}

impl BrokerError {
    /// Whether the broker closed the channel for this reason.
    pub fn is(&self, reason: AMQPSoftError) -> bool {
        let Self::Amqp { error, .. } = self else {
            return false;
        };
        let ErrorKind::ProtocolError(error) = error.kind() else {
            return false;
        };
        error.kind() == &AMQPErrorKind::Soft(reason)
    }

    /// The broker's limit in bytes, when it refused a message because of its size.
    pub fn size_limit(&self) -> Option<usize> {
        let Self::Amqp { error, .. } = self else {
            return None;
        };
        message_too_large(error)
    }

    /// Whether the whole connection is down or blocked. Its link logs that once, so the caller need not.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Blocked { .. } => true,
            Self::Amqp { error, .. } => {
                error.is_io_error()
                    || error.is_amqp_hard_error()
                    || matches!(
                        error.kind(),
                        ErrorKind::MissingHeartbeatError | ErrorKind::InvalidConnectionState(_)
                    )
            }
            Self::Timeout { .. }
            | Self::Nacked { .. }
            | Self::Returned { .. }
            | Self::NotDeclared { .. }
            | Self::Cancelled { .. }
            | Self::StillConsuming { .. }
            | Self::Silent { .. }
            | Self::Log { .. }
            | Self::RefusedByLog { .. }
            | Self::Ending { .. }
            | Self::Pool { .. } => false,
        }
    }
}

/// The broker's words, when it closed a channel because a delivery was not acknowledged in time (broker fact 5). The reply
/// code has other meanings too; the words are those of RabbitMQ 3.10 to 4.3.
fn unacknowledged_too_long(error: &lapin::Error) -> Option<String> {
    let ErrorKind::ProtocolError(closed) = error.kind() else {
        return None;
    };
    let said = closed.get_message().to_string();
    let is_it = closed.kind() == &AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
        && said.contains("delivery acknowledgement")
        && said.contains("timed out");
    is_it.then_some(said)
}

/// The broker's limit in bytes, when it closed a channel because of the size of a message (broker fact 20). Its words are
/// `message size 17 is larger than configured max size 16`. Above every configurable limit they are `… than max size 16`.
fn message_too_large(error: &lapin::Error) -> Option<usize> {
    let ErrorKind::ProtocolError(closed) = error.kind() else {
        return None;
    };
    let said = closed.get_message().to_string();
    let is_it = closed.kind() == &AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
        && said.contains("message size")
        && said.contains("is larger than");
    said.rsplit(|c: char| !c.is_ascii_digit())
        .find(|number| !number.is_empty())?
        .parse()
        .ok()
        .filter(|_| is_it)
}

/// Logs a failed operation that will be tried again: as a warning, or at level debug during an outage of the connection,
/// because the link has logged that one.
pub fn log_broker_error(error: &BrokerError, what: &str) {
    if error.is_outage() {
        tracing::debug!(%error, "{what}");
    } else {
        tracing::warn!(%error, "{what}");
    }
}

/// Waits at most `limit` for one answer of the broker, because lapin never returns from a call to a silent peer.
///
/// # Errors
/// [`BrokerError::Timeout`], or [`BrokerError::Amqp`] with lapin's error.
pub async fn with_timeout<T>(
    limit: Duration,
    what: impl Into<String>,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(BrokerError::Amqp {
            what: what.into(),
            error,
        }),
        Err(_) => Err(BrokerError::Timeout {
            what: what.into(),
            after: limit,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::AMQPError;

    #[test]
    fn a_refusal_for_the_size_of_a_message_names_the_limit() {
        let closed = |reason: AMQPSoftError, said: &str| {
            let error = ErrorKind::ProtocolError(AMQPError::new(reason.into(), said.into())).into();
            BrokerError::Amqp {
                what: "publish".to_owned(),
                error,
            }
        };
        let precondition = AMQPSoftError::PRECONDITIONFAILED;
        for (reason, said, limit) in [
            (
                &precondition,
                "PRECONDITION_FAILED - message size 1401289 is larger than configured max size 1048576",
                1_048_576,
            ),
            (
                &precondition,
                "PRECONDITION_FAILED - message size 600000000 is larger than max size 536870912",
                536_870_912,
            ),
        ] {
            assert_eq!(
                closed(reason.clone(), said).size_limit(),
                Some(limit),
                "{said}"
            );
        }
        let other = closed(
            precondition,
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'a': 16 is larger",
        );
        assert_eq!(other.size_limit(), None, "another precondition");
        assert_eq!(
            BrokerError::Nacked {
                what: String::new()
            }
            .size_limit(),
            None,
            "not even a reason"
        );
    }
}
