//! One programmer in the pool's status and in its own `/health`. Pure: from the fold and its last heartbeat.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use pool_core::eligibility::{Eligibility, explain};
use pool_core::heartbeat::{Gate, ShutReason};
use pool_core::id::{ProgrammerId, TaskId};
use pool_core::llm::Fault;
use pool_core::pool::Programmer;
use pool_core::sandbox::SandboxStatus;
use pool_core::time::Timestamp;

/// The state of a programmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProgrammerState {
    /// It waits for a task.
    Idle,
    /// It works on a task.
    Busy,
    /// It takes no task; `shut` and `reason` say why.
    Shut,
    /// No process holds it, or its process sends no heartbeats.
    Down,
}

impl ProgrammerState {
    /// In the order in which tables list them.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Busy, Self::Shut, Self::Down];

    /// Whether it works for the pool now.
    pub fn is_available(self) -> bool {
        match self {
            Self::Idle | Self::Busy => true,
            Self::Shut | Self::Down => false,
        }
    }

    /// The word in messages, logs and metrics; the same as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Shut => "shut",
            Self::Down => "down",
        }
    }
}

/// One programmer in the status.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ProgrammerStatus {
    /// As in the pool file: `001`.
    pub id: ProgrammerId,
    /// The name that people see: `Prog-001`.
    pub agent: String,
    /// The port of its `/health`.
    pub port: u16,
    /// Whether it takes tasks.
    pub state: ProgrammerState,
    /// `down` is a guess: the dispatcher could not have received a heartbeat yet.
    #[serde(default)]
    pub unknown: bool,
    /// Why it is shut or down, or the task that it works on; for people.
    pub reason: String,
    /// Why it is shut, for programs.
    pub shut: Option<ShutReason>,
    /// The task in hand, while it is busy.
    pub task: Option<TaskId>,
    /// When that task was started.
    pub since: Option<Timestamp>,
    /// The process that holds it: `worker host/pid`.
    pub worker: Option<String>,
    /// The sandbox of its agents and checks, as its worker has settled it; unknown for a programmer that is down or an older
    /// worker.
    #[serde(default)]
    pub sandbox: Option<SandboxStatus>,
    /// Its first LLM in the pool file.
    pub primary_llm: String,
    /// Its second LLM in the pool file.
    pub backup_llm: Option<String>,
    /// The LLM that its next call would go to.
    pub current_llm: String,
    /// Whether that is not its primary LLM.
    pub using_backup: bool,
    /// The breaker of its primary LLM lets no call pass; `circuit` says why.
    pub circuit_open: bool,
    /// The open breaker of its primary LLM.
    pub circuit: Option<CircuitStatus>,
    /// Its calls to its primary LLM that failed within the breaker's window.
    pub failures: u32,
    /// The capabilities that it offers.
    pub capabilities: Vec<String>,
}

/// The open breaker of a programmer's primary LLM.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CircuitStatus {
    /// When it opened.
    pub since: Timestamp,
    /// When the next probe is due.
    pub until: Timestamp,
    /// The class of the last failure.
    pub reason: Fault,
    /// The failed calls that opened it, and failed probes since.
    pub failures: u32,
    /// All of it in one sentence, for people.
    pub detail: String,
}

/// The last heartbeat of a programmer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastBeat {
    /// Whether it takes tasks.
    pub gate: Gate,
    /// The port of its `/health`.
    pub port: u16,
    /// The process that holds it: `worker host/pid`.
    pub worker: String,
    /// The sandbox of that process; None for an older one.
    pub sandbox: Option<SandboxStatus>,
}

/// Why the state of a programmer is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoHeartbeat {
    /// No heartbeat came for `health_check_interval_s`, though the dispatcher listened.
    #[error("no heartbeat since {since}; is a worker running with it?")]
    Silent {
        /// The last heartbeat.
        since: Timestamp,
    },
    /// No worker has run with it while this dispatcher listened.
    #[error(
        "no heartbeat since this dispatcher began to listen at {since}: never seen; start a worker with it"
    )]
    Never {
        /// When the dispatcher began to listen.
        since: Timestamp,
    },
    /// The broker has lost the connection of its process.
    #[error(
        "its worker's connection to the broker ended at {at}; is another worker running with it?"
    )]
    Gone {
        /// When this dispatcher noticed it.
        at: Timestamp,
    },
    /// Its process has ended in order.
    #[error("its worker ended at {at}; is another one running with it?")]
    Left {
        /// When the last heartbeat of that process came.
        at: Timestamp,
    },
    /// No heartbeat has come yet, and the dispatcher has listened only this long.
    #[error("no heartbeat yet: this dispatcher has listened for {} s", .0.as_secs())]
    NotYet(Duration),
    /// Heartbeats cannot come, because of this state of the broker.
    #[error("unknown: the broker {0}")]
    Deaf(&'static str),
}

impl NoHeartbeat {
    /// Whether the programmer is known to be down.
    pub fn is_down(self) -> bool {
        match self {
            Self::Silent { .. } | Self::Never { .. } | Self::Gone { .. } | Self::Left { .. } => {
                true
            }
            Self::NotYet(_) | Self::Deaf(_) => false,
        }
    }
}

/// The status of a programmer, from the fold and its last heartbeat.
pub fn programmer_status(
    standing: &Eligibility<'_>,
    programmer: &Programmer,
    heard: Result<LastBeat, NoHeartbeat>,
) -> ProgrammerStatus {
    let current = standing
        .current_llm(programmer)
        .unwrap_or_else(|| programmer.primary().clone());
    let circuit = circuit(standing, programmer);
    let key = standing
        .pool
        .llm_key(programmer.primary(), &standing.caller(&programmer.id).host);
    let down = ProgrammerStatus {
        id: programmer.id.clone(),
        agent: programmer.id.display_name(),
        port: programmer.port,
        state: ProgrammerState::Down,
        unknown: false,
        reason: String::new(),
        shut: None,
        task: None,
        since: None,
        worker: None,
        sandbox: None,
        primary_llm: programmer.primary().to_string(),
        backup_llm: programmer.llms.get(1).map(ToString::to_string),
        using_backup: current != *programmer.primary(),
        current_llm: current.to_string(),
        circuit_open: circuit.is_some(),
        circuit,
        failures: standing.fold.breakers.failures(&key, &programmer.id),
        capabilities: programmer
            .capabilities
            .iter()
            .map(ToString::to_string)
            .collect(),
    };
    let LastBeat {
        gate,
        port,
        worker,
        sandbox,
    } = match heard {
        Ok(beat) => beat,
        Err(missing) => {
            return ProgrammerStatus {
                unknown: !missing.is_down(),
                reason: missing.to_string(),
                ..down
            };
        }
    };
    let idle = ProgrammerStatus {
        port,
        worker: Some(worker),
        sandbox,
        state: ProgrammerState::Idle,
        ..down
    };
    match gate {
        Gate::Consuming => idle,
        Gate::Busy { task, since } => ProgrammerStatus {
            state: ProgrammerState::Busy,
            reason: format!("working on {task}"),
            task: Some(task),
            since: Some(since),
            ..idle
        },
        Gate::Shut { reason, detail } => {
            // Breakers and money change often: the log is newer than the heartbeat.
            let known = standing
                .blocker(programmer, |_| true)
                .filter(|blocker| blocker.reason == reason);
            let detail = known.map_or(detail, |blocker| blocker.detail);
            ProgrammerStatus {
                state: ProgrammerState::Shut,
                reason: format!("{}: {detail}", reason.as_str()),
                shut: Some(reason),
                ..idle
            }
        }
    }
}

/// The open breaker that keeps this programmer's calls from its primary LLM.
fn circuit(standing: &Eligibility<'_>, programmer: &Programmer) -> Option<CircuitStatus> {
    let caller = standing.caller(&programmer.id);
    let primary = programmer.primary();
    let shut = standing.shut(&standing.pool.llm_key(primary, &caller.host), &caller)?;
    let detail = explain(primary, &shut);
    let outage = shut.outage?;
    Some(CircuitStatus {
        since: outage.since,
        until: shut.until,
        reason: outage.fault,
        failures: outage.failures,
        detail,
    })
}
