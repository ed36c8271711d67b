//! Heartbeats: the state that a process publishes every few seconds. Nobody stores them, and a missing one decides nothing. They
//! have one effect: see [`crate::clock_check`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::EmitterId;
use crate::id::{LlmName, ProgrammerId, TaskId};
use crate::time::Timestamp;

/// Whether a programmer may take a task now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Gate {
    Consuming,
    Busy { task: TaskId, since: Timestamp },
    Shut { reason: ShutReason, detail: String },
}

impl Gate {
    /// Whether the programmer is there for tasks, now or once it has an LLM, money or its hands free: others may leave
    /// tasks to it.
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
                    | ShutReason::Broker,
                ..
            } => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShutReason {
    /// The process is ending, or an operator drains the programmer.
    Draining,
    /// An operator has told it to take no more tasks.
    Paused,
    /// Its pool file differs from the one in force, or none is in force yet.
    Config,
    /// This machine's clock is off.
    Clock,
    /// The event log is not known well enough.
    Log,
    /// Another process holds this programmer.
    Held,
    /// The broker is out of reach.
    Broker,
    /// No LLM is available: their breakers are open.
    Breaker,
    /// Its cap does not fit into what is left of the day's budget.
    Budget,
}

impl ShutReason {
    pub const ALL: [Self; 9] = [
        Self::Draining,
        Self::Paused,
        Self::Config,
        Self::Clock,
        Self::Log,
        Self::Held,
        Self::Broker,
        Self::Breaker,
        Self::Budget,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Paused => "paused",
            Self::Config => "config",
            Self::Clock => "clock",
            Self::Log => "log",
            Self::Held => "held",
            Self::Broker => "broker",
            Self::Breaker => "breaker",
            Self::Budget => "budget",
        }
    }

    /// Whether it says that something is wrong with the process, and not merely what an operator, the breakers or the
    /// budget want.
    pub fn is_trouble(self) -> bool {
        match self {
            Self::Config | Self::Clock | Self::Log | Self::Held | Self::Broker => true,
            Self::Draining | Self::Paused | Self::Breaker | Self::Budget => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgrammerBeat {
    pub id: ProgrammerId,
    pub port: u16,
    pub gate: Gate,
    pub current_llm: LlmName,
}

/// One message of `pool.heartbeats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The incarnation of the process.
    pub process: EmitterId,
    /// For people: `worker host/pid`, or what it was told to be called.
    pub name: String,
    pub version: String,
    pub at_ms: u64,
    pub programmers: Vec<ProgrammerBeat>,
    /// Who has just started asks the others to say at once what time it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// Its last one: the process ends in order, and its programmers are not there any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
}

impl Heartbeat {
    /// One that says no more than what time it is here.
    pub fn greeting(process: EmitterId, name: &str, at: Timestamp, asks: bool) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            process,
            name: name.to_owned(),
            version,
            at_ms: at.0,
            programmers: Vec::new(),
            asks,
            ends: false,
        }
    }
}
