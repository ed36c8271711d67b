//! Heartbeats: messages in which every process reports its state every few seconds. They are not events: nothing is stored,
//! and a missing heartbeat decides nothing. They decide only whether a clock is right: see [`crate::clock_check`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::EmitterId;
use crate::id::{LlmName, ProgrammerId, TaskId};
use crate::sandbox::{self, SandboxStatus};
use crate::time::Timestamp;

/// Whether a programmer may take a task now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Gate {
    /// It waits for a task.
    Consuming,
    /// It has a task.
    Busy {
        /// The task in hand.
        task: TaskId,
        /// When it was started.
        since: Timestamp,
    },
    /// It takes no task.
    Shut {
        /// For programs.
        reason: ShutReason,
        /// The same for people, in one sentence.
        detail: String,
    },
}

impl Gate {
    /// Whether the programmer takes tasks: now, or as soon as its task ends, an LLM is back or money is left. Other
    /// programmers may leave tasks to it.
    pub fn could_take(&self) -> bool {
        match self {
            Self::Consuming | Self::Busy { .. } => true,
            Self::Shut {
                reason: ShutReason::Budget | ShutReason::Breaker,
                ..
            } => true,
            Self::Shut {
                reason:
                    ShutReason::Draining
                    | ShutReason::Paused
                    | ShutReason::Config
                    | ShutReason::Clock
                    | ShutReason::Log
                    | ShutReason::Held
                    | ShutReason::Broker
                    | ShutReason::Sandbox,
                ..
            } => false,
        }
    }
}

crate::words!(
    /// Why a programmer takes no task.
    pub enum ShutReason {
        /// The process is ending, or an operator drains the programmer.
        Draining = "draining",
        /// An operator has paused the programmer or the pool.
        Paused = "paused",
        /// Its pool file differs from the one in force, or none is in force yet.
        Config = "config",
        /// Its machine's clock differs more than 2 s from the others'.
        Clock = "clock",
        /// It has not read the event log to its end.
        Log = "log",
        /// Another process holds this programmer.
        Held = "held",
        /// The broker cannot be reached.
        Broker = "broker",
        /// The sandbox for agents and checks cannot be set up.
        Sandbox = "sandbox",
        /// The breakers of all its LLMs are open.
        Breaker = "breaker",
        /// A task may cost more than what is left of the day's budget.
        Budget = "budget",
    }
);

impl ShutReason {
    /// Whether something is wrong with the process. False when an operator, a breaker or the budget has shut the gate.
    pub fn is_trouble(self) -> bool {
        match self {
            Self::Config | Self::Clock | Self::Log | Self::Held | Self::Broker | Self::Sandbox => {
                true
            }
            Self::Draining | Self::Paused | Self::Breaker | Self::Budget => false,
        }
    }
}

/// One programmer in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgrammerBeat {
    /// The programmer.
    pub id: ProgrammerId,
    /// The port of its `/health`.
    pub port: u16,
    /// Whether it takes tasks.
    pub gate: Gate,
    /// The LLM that its next call would go to.
    pub current_llm: LlmName,
}

/// One message of `pool.heartbeats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The incarnation of the process.
    pub process: EmitterId,
    /// For people: `worker host/pid`, or the name from the command line.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// When it was sent, by the clock of its sender: milliseconds since 1970.
    pub at_ms: u64,
    /// The programmers that the process holds.
    pub programmers: Vec<ProgrammerBeat>,
    /// The sandbox of its agents and checks; absent for dispatchers and older workers.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "sandbox::if_known"
    )]
    pub sandbox: Option<SandboxStatus>,
    /// The process has just started: the others send a heartbeat at once, so that it can compare its clock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// The last heartbeat: the process ends in order, and its programmers are gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
}

impl Heartbeat {
    /// A heartbeat without programmers, sent for its time alone.
    pub fn greeting(process: EmitterId, name: &str, at: Timestamp, asks: bool) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            process,
            name: name.to_owned(),
            version,
            at_ms: at.0,
            programmers: Vec::new(),
            sandbox: None,
            asks,
            ends: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_heartbeat_counts_without_a_sandbox_or_with_an_unknown_one() {
        let known = json!({
            "level": "files", "wanted": "auto", "landlock": 4, "proc": "shared", "limits": "watched", "network": "gateway"
        });
        let mut newer = known.clone();
        newer["limits"] = json!("a word of tomorrow");
        for (sandbox, read) in [(None, false), (Some(newer), false), (Some(known), true)] {
            let mut beat = json!(Heartbeat::greeting(
                EmitterId::from_u128(1),
                "worker h/1",
                Timestamp(1),
                false
            ));
            if let Some(sandbox) = &sandbox {
                beat["sandbox"] = sandbox.clone();
            }
            let beat: Heartbeat = serde_json::from_value(beat).expect("a heartbeat");
            assert_eq!(beat.sandbox.is_some(), read, "{sandbox:?}");
        }
    }
}
