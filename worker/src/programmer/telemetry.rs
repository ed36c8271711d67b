//! Telemetry of the programmers: their gates and the runs of their agents.

use std::time::Duration;

use pool_core::heartbeat::{Gate, ShutReason};
use pool_core::id::{AttemptId, ProgrammerId, TaskId};
use pool_telemetry::catalog::{AGENT_RUN, AGENT_RUNS, GATE};
use tokio::sync::watch;

use super::runs::RunEnd;

/// The span of one attempt.
pub(super) fn attempt_span(
    task: &TaskId,
    programmer: &ProgrammerId,
    attempt: AttemptId,
) -> tracing::Span {
    // No parent: the completer begins this span inside of the same span of the programmer.
    tracing::info_span!(parent: None, "attempt", task_id = %task, %programmer, %attempt)
}

/// Reports every change of the gate, until the programmer is gone. The log line is in
/// [`gate`](super::gate).
pub async fn watch_gate(programmer: ProgrammerId, mut gate: watch::Receiver<Gate>) {
    loop {
        GateIs {
            programmer: &programmer,
            gate: &gate.borrow_and_update(),
        }
        .emit();
        if gate.changed().await.is_err() {
            return;
        }
    }
}

/// The current state of a gate.
struct GateIs<'a> {
    programmer: &'a ProgrammerId,
    gate: &'a Gate,
}

impl GateIs<'_> {
    fn emit(&self) {
        let now = match self.gate {
            Gate::Consuming => "consuming",
            Gate::Busy { .. } => "busy",
            Gate::Shut { reason, .. } => reason.as_str(),
        };
        for state in ["consuming", "busy"]
            .into_iter()
            .chain(ShutReason::ALL.map(ShutReason::as_str))
        {
            GATE.set_flag([self.programmer.as_str(), state], state == now);
        }
    }
}

/// A finished run of the agent, with its judgement and its checks.
pub(super) struct RunEnded<'a> {
    pub(super) programmer: &'a ProgrammerId,
    pub(super) end: &'a RunEnd,
    pub(super) took: Duration,
}

impl RunEnded<'_> {
    pub(super) fn emit(&self) {
        let outcome = match self.end {
            RunEnd::Passed => "passed",
            RunEnd::CheckFailed { .. } => "check_failed",
            RunEnd::Refused { failure, .. } => failure.kind.as_str(),
            RunEnd::NoLlmLeft(_) => "no_llm_left",
            RunEnd::Failed(failure) => failure.kind.as_str(),
        };
        let programmer = self.programmer.as_str();
        AGENT_RUNS.add([programmer, outcome], 1);
        AGENT_RUN.record([programmer], self.took);
        tracing::debug!(programmer, outcome, took = ?self.took, "a run of the agent has ended");
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_gate_is_in_one_state_at_a_time() {
        let programmer = ProgrammerId::new("001").expect("an id");
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let shut = Gate::Shut {
                reason: ShutReason::Breaker,
                detail: String::new(),
            };
            for gate in [Gate::Consuming, shut] {
                GateIs {
                    programmer: &programmer,
                    gate: &gate,
                }
                .emit();
            }
        });
        let text = recorder.handle().render();
        let on: Vec<&str> = text.lines().filter(|line| line.ends_with(" 1")).collect();
        assert_eq!(
            on,
            [r#"pool_programmer_gate{programmer="001",state="breaker"} 1"#],
            "and the others are 0"
        );
    }
}
