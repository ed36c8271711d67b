//! The broker layer: connections that come back, publishing that is confirmed, the topology, the event log.
//!
//! Rules that hold for every line below it (ARCHITECTURE.md, "Facts about the broker"): every await has a time-out;
//! after any error the channel is thrown away and everything on it is set up again; publishing and consuming use
//! separate connections.

pub mod acks;
pub mod backoff;
pub mod clock;
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
pub mod refusal;
pub mod service;
pub mod status;
mod tls;
pub mod topology;

use std::time::Duration;

pub use endpoint::Endpoint;
use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use refusal::NotConnected;

/// What went wrong with the broker. The text fits behind "failed to ".
#[derive(Debug, Clone, thiserror::Error)]
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
    #[error("{0}")]
    Connect(NotConnected),
    #[error(
        "{what}: the broker takes no messages now ({reason}): look at its memory and disk (`rabbitmq-diagnostics alarms`)"
    )]
    Blocked { what: String, reason: String },
    /// Waiting helps: a dispatcher declares it.
    #[error("{what}: it is not there, and this user may not declare it; is a dispatcher running?")]
    NotDeclared { what: String },
    #[error("{what}: no free publishing channel: {reason}")]
    Pool { what: String, reason: String },
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

    /// The most bytes that the broker takes, when it refused a message for its size.
    pub fn size_limit(&self) -> Option<usize> {
        let Self::Amqp { error, .. } = self else {
            return None;
        };
        message_too_large(error)
    }

    /// Whether it comes of the whole connection: its link tells of that, once, so that others need not.
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
            | Self::Pool { .. } => false,
        }
    }
}

/// What the broker said when it closed a channel because a delivery on it was not acknowledged in time (broker fact 5).
/// The code alone does not tell, and the words are those of RabbitMQ 3.10 to 4.3.
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

/// The most bytes that the broker takes, if it closed a channel because of the size of a message: `message size 17 is larger
/// than configured max size 16`, or, above every configuration, `… than max size 16` (broker fact 20).
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

/// Says that something does not work and is tried again: nothing that people must hear of when the whole broker is
/// away, because its link says so.
pub fn tell(error: &BrokerError, what: &str) {
    if error.is_outage() {
        tracing::debug!(%error, "{what}");
    } else {
        tracing::warn!(%error, "{what}");
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
