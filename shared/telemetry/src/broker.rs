//! Logs and metrics of a process's connections to the broker: one line when a connection is lost, one when it is back.

use std::fmt::Display;
use std::time::Duration;

use super::catalog::{
    BROKER_BLOCKED, BROKER_CONNECTED, BROKER_CONSUMER_TIMEOUTS, BROKER_RECONNECTS,
};

/// A connection was made.
#[derive(Debug)]
pub struct Up {
    /// `consume`, `publish`, …
    pub purpose: &'static str,
    /// The length of the outage; None when the outage was not logged.
    pub away: Option<Duration>,
    /// It is not the first connection.
    pub again: bool,
}

impl Up {
    /// Sets the metrics and writes the log line.
    pub fn emit(&self) {
        let Self {
            purpose,
            away,
            again,
        } = self;
        BROKER_CONNECTED.set_flag([purpose], true);
        BROKER_BLOCKED.set_flag([purpose], false);
        BROKER_RECONNECTS.add([purpose], u64::from(*again));
        BROKER_CONSUMER_TIMEOUTS.add([purpose], 0);
        match away {
            Some(away) => tracing::info!(purpose, after_s = away.as_secs(), "the broker is back"),
            None => tracing::debug!(purpose, "connected to the broker"),
        }
    }
}

/// An attempt to connect failed, or the connection was lost.
pub struct Down<'a> {
    /// `consume`, `publish`, …
    pub purpose: &'static str,
    /// Why.
    pub error: &'a dyn Display,
    /// There was one until now.
    pub lost: bool,
    /// It was not logged before.
    pub news: bool,
}

impl Down<'_> {
    /// Sets the metrics and writes the log line.
    pub fn emit(&self) {
        let Self {
            purpose,
            error,
            lost,
            news,
        } = self;
        BROKER_CONNECTED.set_flag([purpose], false);
        BROKER_BLOCKED.set_flag([purpose], false);
        BROKER_RECONNECTS.add([purpose], 0);
        match (news, lost) {
            (true, true) => {
                tracing::warn!(purpose, %error, "the broker is lost; trying until it is back")
            }
            (true, false) => {
                tracing::warn!(purpose, %error, "the broker cannot be used; trying until it can")
            }
            (false, _) => tracing::debug!(purpose, %error, "the broker is still away"),
        }
    }
}

/// The broker stopped taking messages, or takes them again.
#[derive(Debug)]
pub struct Blocked<'a> {
    /// `consume`, `publish`, …
    pub purpose: &'static str,
    /// The broker's words; None: it takes messages.
    pub reason: Option<&'a str>,
}

impl Blocked<'_> {
    /// Sets the metrics and writes the log line.
    pub fn emit(&self) {
        let Self { purpose, reason } = self;
        BROKER_BLOCKED.set_flag([purpose], reason.is_some());
        match reason {
            Some(reason) => tracing::warn!(
                purpose,
                reason,
                "the broker takes no messages: it has an alarm (`rabbitmq-diagnostics alarms` says which); trying until it is over"
            ),
            None => tracing::info!(purpose, "the broker takes messages again"),
        }
    }
}

/// The broker closed a channel because a message on it was not acknowledged in time, and took the message back (broker fact 5).
#[derive(Debug)]
pub struct TakenBack<'a> {
    /// `consume`, `publish`, …
    pub purpose: &'static str,
    /// The broker's words, which name the time-out.
    pub said: &'a str,
}

impl TakenBack<'_> {
    /// Sets the metrics and writes the log line.
    pub fn emit(&self) {
        let Self { purpose, said } = self;
        BROKER_CONSUMER_TIMEOUTS.add([purpose], 1);
        tracing::error!(
            purpose,
            said,
            "the broker took a task away from a programmer that was at work: its consumer_timeout is shorter than the task. \
             Set `consumer_timeout = 86400000` in the broker's rabbitmq.conf (as in config/rabbitmq.conf) and restart the \
             broker; until then such a task is started again and again and at last fails as `poison`"
        );
    }
}
