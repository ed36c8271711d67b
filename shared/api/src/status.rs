//! One programmer as the status and its own `/health` show it. Pure: from the fold, and what it said of itself last.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use pool_core::eligibility::{Standing, explain};
use pool_core::heartbeat::{Gate, ShutReason};
use pool_core::id::{ProgrammerId, TaskId};
use pool_core::llm::Fault;
use pool_core::pool::Programmer;
use pool_core::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProgrammerState {
    Idle,
    Busy,
    Shut,
    Down,
}

impl ProgrammerState {
    pub const ALL: [Self; 4] = [Self::Idle, Self::Busy, Self::Shut, Self::Down];

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
    pub id: ProgrammerId,
    /// The old clients' name: `Prog-001`.
    pub agent: String,
    pub port: u16,
    pub state: ProgrammerState,
    /// That it is down is not known, only that it could not be heard of so far.
    #[serde(default)]
    pub unknown: bool,
    /// Why it is shut or down; which task it works on.
    pub reason: String,
    /// Why it is shut, in a word.
    pub shut: Option<ShutReason>,
    pub task: Option<TaskId>,
    pub since: Option<Timestamp>,
    /// The process that holds it.
    pub worker: Option<String>,
    pub primary_llm: String,
    pub backup_llm: Option<String>,
    pub current_llm: String,
    pub using_backup: bool,
    /// The breaker of its primary LLM lets none of its calls pass; `circuit` says why.
    pub circuit_open: bool,
    pub circuit: Option<CircuitStatus>,
    /// Failures of its primary LLM that it has seen lately.
    pub failures: u32,
    pub capabilities: Vec<String>,
}

/// Why the primary LLM of a programmer is not called.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CircuitStatus {
    pub since: Timestamp,
    /// When the next probe is due.
    pub until: Timestamp,
    pub reason: Fault,
    pub failures: u32,
    /// In one sentence.
    pub detail: String,
}

/// What a programmer said of itself last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub gate: Gate,
    pub port: u16,
    /// The process that holds it.
    pub worker: String,
}

/// Why nothing is known of a programmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    /// It was not heard of for a health check interval, though it could have been.
    #[error("not heard of since {since}; is a worker running with it?")]
    Silent { since: Timestamp },
    /// Its process has said goodbye.
    #[error("its worker ended at {at}; is another one running with it?")]
    Left { at: Timestamp },
    /// It was listened for only so long.
    #[error("not heard of yet: this dispatcher has listened for {} s", .0.as_secs())]
    NotYet(Duration),
    /// Nobody can be heard: what the broker, which brings heartbeats, does instead.
    #[error("unknown: the broker {0}")]
    Deaf(&'static str),
}

impl Unseen {
    /// Whether it is known that it is not there.
    pub fn is_down(self) -> bool {
        match self {
            Self::Silent { .. } | Self::Left { .. } => true,
            Self::NotYet(_) | Self::Deaf(_) => false,
        }
    }
}

pub fn programmer_status(
    standing: &Standing<'_>,
    programmer: &Programmer,
    seen: Result<Seen, Unseen>,
) -> ProgrammerStatus {
    let gate = gate_status(
        standing,
        programmer,
        seen.as_ref()
            .map(|seen| &seen.gate)
            .map_err(|unseen| *unseen),
    );
    let unknown = seen.as_ref().is_err_and(|unseen| !unseen.is_down());
    let seen = seen.ok();
    let current = standing
        .current_llm(programmer)
        .unwrap_or_else(|| programmer.primary().clone());
    let circuit = circuit(standing, programmer);
    let key = standing
        .pool
        .llm_key(programmer.primary(), &standing.caller(&programmer.id).host);
    ProgrammerStatus {
        id: programmer.id.clone(),
        agent: programmer.id.display_name(),
        port: seen.as_ref().map_or(programmer.port, |seen| seen.port),
        state: gate.state,
        unknown,
        reason: gate.reason,
        shut: gate.shut,
        task: gate.task,
        since: gate.since,
        worker: seen.map(|seen| seen.worker),
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
    }
}

struct GateStatus {
    state: ProgrammerState,
    reason: String,
    shut: Option<ShutReason>,
    task: Option<TaskId>,
    since: Option<Timestamp>,
}

fn gate_status(
    standing: &Standing<'_>,
    programmer: &Programmer,
    gate: Result<&Gate, Unseen>,
) -> GateStatus {
    let without_task = |state, reason| GateStatus {
        state,
        reason,
        shut: None,
        task: None,
        since: None,
    };
    match gate {
        Err(unseen) => without_task(ProgrammerState::Down, unseen.to_string()),
        Ok(Gate::Consuming) => without_task(ProgrammerState::Idle, String::new()),
        Ok(Gate::Busy { task, since }) => GateStatus {
            state: ProgrammerState::Busy,
            reason: format!("working on {task}"),
            shut: None,
            task: Some(task.clone()),
            since: Some(*since),
        },
        Ok(Gate::Shut { reason, detail }) => {
            // Breakers and money change from moment to moment: the log knows it better than a heartbeat.
            let known = standing
                .obstacle(programmer, |_| true)
                .filter(|obstacle| obstacle.reason == *reason);
            let detail = known.map_or(detail.clone(), |obstacle| obstacle.detail);
            let words = format!("{}: {detail}", reason.as_str());
            GateStatus {
                shut: Some(*reason),
                ..without_task(ProgrammerState::Shut, words)
            }
        }
    }
}

/// Why this programmer's calls do not go to its primary LLM.
fn circuit(standing: &Standing<'_>, programmer: &Programmer) -> Option<CircuitStatus> {
    let caller = standing.caller(&programmer.id);
    let primary = programmer.primary();
    let shut = standing.shut(&standing.pool.llm_key(primary, &caller.host), &caller)?;
    let detail = explain(primary, &shut);
    let outage = shut.outage?;
    let (since, reason, failures) = (outage.since, outage.fault, outage.failures);
    Some(CircuitStatus {
        since,
        until: shut.until,
        reason,
        failures,
        detail,
    })
}
