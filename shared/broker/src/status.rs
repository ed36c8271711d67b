//! The state of this process's two connections as one value, for `/health`.

use schemars::JsonSchema;
use serde::Serialize;

use super::link::LinkState;
use pool_core::time::Timestamp;

/// The state of one connection, or the worse state of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Not connected; the process tries again.
    Reconnecting {
        /// When it was lost, or when the process began to connect.
        since: Timestamp,
        /// Why the last attempt failed; None before the first has ended.
        error: Option<String>,
    },
    /// Connected, but the broker takes no messages.
    Blocked {
        /// When the alarm began.
        since: Timestamp,
        /// The broker's words.
        reason: String,
    },
    /// All is well.
    Connected {
        /// When it was made.
        since: Timestamp,
    },
}

impl From<&LinkState> for Condition {
    fn from(state: &LinkState) -> Self {
        match state {
            LinkState::Away { since, error } => Self::Reconnecting {
                since: *since,
                error: error.as_ref().map(ToString::to_string),
            },
            LinkState::Connected { since, .. } => Self::Connected { since: *since },
            LinkState::Blocked { since, reason, .. } => Self::Blocked {
                since: *since,
                reason: reason.clone(),
            },
        }
    }
}

impl Condition {
    /// The worse of two. When both are away, the one that is away longer; when both are connected, the younger one.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        match (&self, &other) {
            (
                Self::Reconnecting { since, .. },
                Self::Reconnecting {
                    since: other_since, ..
                },
            ) if other_since < since => other,
            (Self::Reconnecting { .. }, _) => self,
            (_, Self::Reconnecting { .. }) => other,
            (Self::Blocked { .. }, _) => self,
            (_, Self::Blocked { .. }) => other,
            (Self::Connected { since }, Self::Connected { since: other_since })
                if other_since > since =>
            {
                other
            }
            (Self::Connected { .. }, Self::Connected { .. }) => self,
        }
    }
}

pool_core::words!(
    /// The state of the connections, without details.
    pub enum BrokerState {
        /// All is well.
        Connected = "connected",
        /// Not connected; the process tries again.
        Reconnecting = "reconnecting",
        /// Connected, but the broker takes no messages.
        Blocked = "blocked",
    }
);

/// The object `broker` of `/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BrokerStatus {
    /// `connected`, `reconnecting` or `blocked`.
    #[schemars(with = "String")]
    pub state: BrokerState,
    /// Host, port and virtual host, without user and password.
    pub address: String,
    /// When this state began.
    pub since: Timestamp,
    /// Why it is not `connected`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl BrokerStatus {
    /// `address` without user and password.
    pub fn new(address: String, condition: Condition) -> Self {
        let (state, since, error) = match condition {
            Condition::Connected { since } => (BrokerState::Connected, since, None),
            Condition::Reconnecting { since, error } => (BrokerState::Reconnecting, since, error),
            Condition::Blocked { since, reason } => (
                BrokerState::Blocked,
                since,
                Some(format!(
                    "the broker takes no messages: {reason}; see `rabbitmq-diagnostics alarms`"
                )),
            ),
        };
        Self {
            state,
            address,
            since,
            error,
        }
    }

    /// Why the process cannot work, in one sentence; None while it is connected.
    pub fn trouble(&self) -> Option<String> {
        let error = self.error.as_deref().unwrap_or("it has not answered yet");
        (self.state != BrokerState::Connected)
            .then(|| format!("the broker: {} since {}: {error}", self.state, self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_connections_the_worse_one_is_shown() {
        let connected = |ms| Condition::Connected {
            since: Timestamp(ms),
        };
        let blocked = Condition::Blocked {
            since: Timestamp(5),
            reason: "low on memory".to_owned(),
        };
        let away = |ms| Condition::Reconnecting {
            since: Timestamp(ms),
            error: None,
        };
        for (a, b, shown) in [
            (connected(1), connected(2), connected(2)),
            (connected(1), blocked.clone(), blocked.clone()),
            (blocked, away(9), away(9)),
            (away(3), away(9), away(3)),
            (away(9), connected(10), away(9)),
        ] {
            assert_eq!(a.clone().worse(b.clone()), shown, "{a:?} and {b:?}");
            assert_eq!(b.clone().worse(a.clone()), shown, "{b:?} and {a:?}");
        }
    }

    #[test]
    fn trouble_says_since_when_and_why() {
        let status = |condition| BrokerStatus::new("broker:5672/%2f".to_owned(), condition);
        assert_eq!(
            status(Condition::Connected {
                since: Timestamp(0)
            })
            .trouble(),
            None,
            "none"
        );
        let blocked = status(Condition::Blocked {
            since: Timestamp(0),
            reason: "low on disk".to_owned(),
        });
        let trouble = blocked.trouble().expect("it is blocked");
        assert!(
            trouble.contains("blocked since 1970-01-01") && trouble.contains("low on disk"),
            "{trouble}"
        );
    }
}
