//! What a process says about its connections to the broker: once when one is lost, once when it is back.

use std::fmt::Display;
use std::time::Duration;

use super::catalog::{
    BROKER_BLOCKED, BROKER_CONNECTED, BROKER_CONSUMER_TIMEOUTS, BROKER_RECONNECTS,
};

/// A connection is there.
#[derive(Debug)]
pub struct Up {
    pub purpose: &'static str,
    /// How long it was not, if that was told.
    pub away: Option<Duration>,
    /// It is not the first one.
    pub again: bool,
}

impl Up {
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

/// There is no connection.
pub struct Down<'a> {
    pub purpose: &'static str,
    pub error: &'a dyn Display,
    /// There was one until now.
    pub lost: bool,
    /// It was not said before.
    pub news: bool,
}

impl Down<'_> {
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

/// The broker takes messages again, or no more.
#[derive(Debug)]
pub struct Blocked<'a> {
    pub purpose: &'static str,
    /// None = it takes them.
    pub reason: Option<&'a str>,
}

impl Blocked<'_> {
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

/// The broker has taken back a message that was not acknowledged for too long, by closing the channel (broker fact 5).
#[derive(Debug)]
pub struct TakenBack<'a> {
    pub purpose: &'static str,
    /// The broker's words, which have the time.
    pub said: &'a str,
}

impl TakenBack<'_> {
    pub fn emit(&self) {
        let Self { purpose, said } = self;
        BROKER_CONSUMER_TIMEOUTS.add([purpose], 1);
        tracing::error!(
            purpose,
            said,
            "the broker took a task away from a programmer that was at work: its consumer_timeout is shorter than the task. \
             Set `consumer_timeout = 86400000` in the broker's rabbitmq.conf (config/rabbitmq.conf has it) and restart the \
             broker; until then such a task is started again and again, and fails in the end as `poison`"
        );
    }
}
