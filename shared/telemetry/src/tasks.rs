//! Metrics of events about tasks. The process that appended an event counts it, when the event is read back and was accepted.
//! Every process reads every event, but only one counts it, so the counts of all processes add up.
//!
//! An event that its process has not read back before it died is not counted.

use super::catalog::{
    ATTEMPTS_RELEASED, ATTEMPTS_RETRIED, TASK_QUEUE, TASK_RUN, TASKS_FINISHED, TASKS_SUBMITTED,
};
use pool_core::event::{Event, ReleaseCause, TaskEvent};
use pool_core::id::{LlmName, TaskId};
use pool_core::result::ErrorKind;
use pool_core::state::{Outcome, PoolState, TaskState};

/// An event that is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// A task was submitted.
    Submitted {
        /// The route of the task.
        route: String,
    },
    /// An attempt failed, and another one was scheduled.
    Retried {
        /// Why it failed.
        error: ErrorKind,
    },
    /// An attempt gave its task back.
    Released {
        /// Why it did so.
        cause: ReleaseCause,
    },
    /// A task has an outcome.
    Ended {
        /// The task.
        task: TaskId,
    },
}

impl Written {
    /// The count that this event adds to; None if it is not counted.
    pub fn of(decision: &Event) -> Option<Self> {
        let Event::Task(event) = decision else {
            return None;
        };
        match event {
            TaskEvent::Submitted(submitted) => Some(Self::Submitted {
                route: submitted.route.clone(),
            }),
            TaskEvent::Reissued(reissued) => reissued
                .retry
                .as_ref()
                .map(|retry| Self::Retried { error: retry.error }),
            TaskEvent::Released(released) => Some(Self::Released {
                cause: released.cause,
            }),
            TaskEvent::Finished(_) | TaskEvent::Cancelled(_) => Some(Self::Ended {
                task: event.task().clone(),
            }),
            TaskEvent::Published(_)
            | TaskEvent::Started(_)
            | TaskEvent::Used(_)
            | TaskEvent::Stated(_) => None,
        }
    }

    /// Counts the accepted event; `fold` is the state after it.
    pub fn emit(&self, fold: &PoolState) {
        match self {
            Self::Submitted { route } => TASKS_SUBMITTED.add([route], 1),
            Self::Retried { error } => ATTEMPTS_RETRIED.add([error.as_str()], 1),
            Self::Released { cause } => {
                let reason = match cause {
                    ReleaseCause::Stopped => "stopped",
                    ReleaseCause::NoLlm => "no_llm",
                    ReleaseCause::NoSandbox => "no_sandbox",
                };
                ATTEMPTS_RELEASED.add([reason], 1);
            }
            Self::Ended { task } => {
                if let Some(state) = fold.tasks.get(task) {
                    ended(task, &state);
                }
            }
        }
    }
}

fn ended(task: &TaskId, state: &TaskState) {
    let Some(Outcome {
        status,
        llm,
        at,
        started_at,
        ..
    }) = state.outcome()
    else {
        return;
    };
    let outcome = status.as_str();
    TASKS_FINISHED.add([outcome, llm.as_ref().map_or("", LlmName::as_str)], 1);
    let Some(started_at) = started_at else { return };
    let run = at.since(*started_at);
    TASK_RUN.record([outcome], run);
    // For a task that came straight to the broker the log does not know how long it has waited.
    let queue = state
        .submitted_at
        .map(|submitted_at| started_at.since(submitted_at));
    if let Some(queue) = queue {
        TASK_QUEUE.record([&state.route], queue);
    }
    tracing::debug!(task_id = %task, outcome, ?queue, ?run, "the task has ended");
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::{TaskFinished, TaskStarted, TaskSubmitted};
    use pool_core::id::{AttemptId, ProgrammerId, Token};
    use pool_core::money::MicroUsd;
    use pool_core::result::Status;
    use pool_core::time::Timestamp;

    #[test]
    fn a_task_that_ends_is_counted_with_its_times() {
        let task = TaskId::new("t").expect("an id");
        let attempt = AttemptId::from_u128(1);
        let (route, body_hash) = ("fast".to_owned(), "h".to_owned());
        let submitted = Event::from(TaskSubmitted {
            task: task.clone(),
            body_hash: body_hash.clone(),
            route: route.clone(),
            deadline_ms: None,
        });
        let started = Event::from(TaskStarted {
            task: task.clone(),
            attempt,
            programmer: ProgrammerId::new("001").expect("an id"),
            token: Token {
                generation: 0,
                count: 0,
            },
            route,
            body_hash,
        });
        let finished = Event::from(TaskFinished {
            task: task.clone(),
            attempt: Some(attempt),
            status: Status::Succeeded,
            llm: LlmName::new("free/small").ok(),
            cost_usd: MicroUsd::ZERO,
            error: None,
        });
        let written: Vec<Written> = [&submitted, &started, &finished]
            .into_iter()
            .filter_map(Written::of)
            .collect();
        assert_eq!(written.len(), 2, "its start is not counted");
        let mut fold = PoolState::new();
        for (at_ms, event) in [(1_000, submitted), (3_000, started), (10_000, finished)] {
            fold.append(Timestamp(at_ms), event);
        }
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            written.iter().for_each(|written| written.emit(&fold))
        });
        let text = recorder.handle().render();
        for line in [
            r#"pool_tasks_submitted_total{route="fast"} 1"#,
            r#"pool_tasks_finished_total{outcome="succeeded",llm="free/small"} 1"#,
            r#"pool_task_queue_seconds_sum{route="fast"} 2"#,
            r#"pool_task_run_seconds_sum{outcome="succeeded"} 7"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
