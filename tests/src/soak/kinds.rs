//! The kinds of submitted work, and how each may end. Pure.

use std::time::Duration;

use pool_core::result::Status;
use pool_core::time::Timestamp;
use serde_json::{Value, json};

/// Only the programmers whose agent works in a worktree offer this capability.
pub const EDITS: &str = "edits";
/// The word in the instruction of a task whose agent crashes at first; the task's id follows.
pub const CRASHES: &str = "crash";
/// The word in the instruction of a slow task.
pub const SLOW: &str = "slow";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Any programmer can do it.
    Ordinary,
    /// No programmer offers its capabilities.
    Impossible,
    /// It is not a task.
    Malformed,
    /// Its agent crashes twice before it works.
    Crashing,
    /// A submitter cancels it soon after.
    Cancelled,
    /// Its deadline is soon.
    Late,
    /// It is submitted over HTTP and AMQP at the same time.
    Twice,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Ordinary,
        Self::Impossible,
        Self::Malformed,
        Self::Crashing,
        Self::Cancelled,
        Self::Late,
        Self::Twice,
    ];

    /// The kind of a submitter's task with this number. Of every 20 tasks, two are of each kind, one
    /// is of the crashing kind, and the rest are ordinary.
    pub fn of(number: usize) -> Self {
        match number % 20 {
            2 | 12 => Self::Impossible,
            4 | 14 => Self::Malformed,
            6 => Self::Crashing,
            8 | 18 => Self::Cancelled,
            10 | 16 => Self::Late,
            11 | 19 => Self::Twice,
            _ => Self::Ordinary,
        }
    }

    pub fn may_end(self) -> &'static [Status] {
        match self {
            Self::Ordinary | Self::Crashing | Self::Twice => &[Status::Succeeded],
            Self::Impossible | Self::Malformed => &[Status::Rejected],
            Self::Cancelled => &[Status::Cancelled, Status::Succeeded],
            Self::Late => &[Status::Expired, Status::Succeeded],
        }
    }

    /// The capabilities that it requires.
    fn capability(self, number: usize) -> Option<&'static str> {
        match self {
            Self::Ordinary | Self::Late | Self::Twice | Self::Malformed => None,
            Self::Impossible => Some("nobody"),
            Self::Crashing => Some(EDITS),
            // Some are cancelled while they run, others while they wait.
            Self::Cancelled => (number % 20 == 8).then_some(EDITS),
        }
    }
}

/// One thing to submit.
#[derive(Debug, Clone)]
pub struct Job {
    pub kind: Kind,
    pub id: String,
    /// The routing key, if it is published.
    pub key: &'static str,
    pub body: Value,
    /// The delay before its cancellation, if it is cancelled.
    pub cancelled_after: Duration,
}

impl Job {
    /// The job with this number of the submitter with this name.
    pub fn of(name: &str, number: usize, now: Timestamp) -> Self {
        let (kind, id) = (Kind::of(number), format!("{name}-{number}"));
        let mut spread = Duration::from_millis(u64::try_from(number % 7).unwrap_or(0) * 150);
        let capability = kind.capability(number);
        let instruction = match kind {
            Kind::Crashing => format!("soak {CRASHES} {id}"),
            Kind::Cancelled => format!("soak {SLOW} {id}"),
            Kind::Ordinary | Kind::Impossible | Kind::Malformed | Kind::Late | Kind::Twice => {
                format!("soak {id}")
            }
        };
        let mut body = json!({"id": id, "instruction": instruction, "repository": "app"});
        body["capabilities"] = capability.into_iter().collect();
        if kind == Kind::Late {
            spread += Duration::from_millis(100);
            body["limits"] = json!({"deadline": now.plus(spread)});
        }
        if kind == Kind::Malformed {
            body["instruction"] = json!(number);
        }
        Self {
            kind,
            id,
            key: capability.unwrap_or("any"),
            body,
            cancelled_after: spread,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::task::TaskMessage;

    #[test]
    fn every_kind_has_its_turn() {
        for kind in Kind::ALL {
            assert!(
                (0..20).any(|number| Kind::of(number) == kind),
                "{kind:?} never comes"
            );
        }
        let ordinary = (0..20)
            .filter(|number| Kind::of(*number) == Kind::Ordinary)
            .count();
        assert!(ordinary >= 8, "most are ordinary: {ordinary}");
    }

    #[test]
    fn all_but_the_malformed_are_tasks_and_each_requires_what_it_says() {
        for number in 0..40 {
            let job = Job::of("x", number, Timestamp(1_767_323_045_678));
            let read = TaskMessage::parse(job.body.to_string().as_bytes(), Timestamp::default());
            assert_eq!(
                read.is_err(),
                job.kind == Kind::Malformed,
                "{:?}: {read:?}",
                job.kind
            );
            if let Ok(task) = read {
                assert_eq!(
                    pool_core::routing::routing_key(&task.capabilities),
                    job.key,
                    "{:?}",
                    job.kind
                );
                assert_eq!(
                    task.limits.deadline.is_some(),
                    job.kind == Kind::Late,
                    "{:?}",
                    job.kind
                );
            }
        }
    }
}
