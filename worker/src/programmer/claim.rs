//! Step 7 of the life of a task (ARCHITECTURE.md): [`read`] reads a delivery, and [`examine`] decides
//! by the fold what to do with it.
//!
//! This module only decides and needs no broker. [`super::ProgrammerRunner`] acts on the decision:
//! its function `claim` in `executor.rs` does step 8.

use pool_broker::headers::{self, Keeps, Reply};
use pool_broker::topology::REPLY_PREFIX;
use pool_core::event::Spent;
use pool_core::id::{AttemptId, TaskId, Token};
use pool_core::money::MicroUsd;
use pool_core::result::{ErrorKind, Status, TaskFailure};
use pool_core::routing::CapabilitySet;
use pool_core::state::{PoolState, Refusal, TaskState};
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;
use pool_core::wrong::id_in;

/// After this many deliveries without a start, the task counts as poison: it kills its worker
/// before it can be claimed.
const MOST_UNSTARTED_DELIVERIES: u64 = 10;

/// A delivery that holds a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredTask {
    pub task: Task,
    pub body_hash: String,
    pub token: Token,
    pub reply: Reply,
    pub keeps: Keeps,
}

/// A delivery that cannot be handled: without a valid task, or of a task that is never started. It
/// holds the id and the reply address, as far as they could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadDelivery {
    pub id: Option<TaskId>,
    pub reply: Reply,
    pub failure: TaskFailure,
}

/// Reads a delivery from a task queue.
///
/// # Errors
/// [`DeadDelivery`], with a message for the submitter.
pub fn read(
    body: &[u8],
    properties: &lapin::BasicProperties,
) -> Result<DeliveredTask, DeadDelivery> {
    let property_id = headers::text(properties.message_id()).map(TaskId::new);
    let readable_id = || id_in(body).or_else(|| property_id.clone().and_then(Result::ok));
    let malformed = |id: Option<TaskId>, reply: Reply, problem: String| DeadDelivery {
        id,
        reply,
        failure: TaskFailure::new(ErrorKind::InvalidTask, problem),
    };
    let reply = match Reply::of(properties) {
        Ok(reply) => reply,
        Err(to) => {
            let problem = format!("reply_to: {to:?} must begin with `{REPLY_PREFIX}`");
            return Err(malformed(
                readable_id(),
                Reply::without_address(properties),
                problem,
            ));
        }
    };
    // A deadline that passed while the task was queued is an outcome of its own, not a mistake in
    // the message.
    let message = match TaskMessage::parse(body, Timestamp::default()) {
        Ok(message) => message,
        Err(error) => return Err(malformed(readable_id(), reply, error.to_string())),
    };
    let id = match (message.id.clone(), property_id) {
        (Some(id), _) | (None, Some(Ok(id))) => id,
        (None, Some(Err(error))) => {
            return Err(malformed(None, reply, format!("message_id: {error}")));
        }
        (None, None) => {
            let problem = "id: needed when publishing straight to pool.tasks (or set the property message_id), \
                           because without it every redelivery would look like a new task";
            return Err(malformed(None, reply, problem.to_owned()));
        }
    };
    let task = Task::new(id, message);
    Ok(DeliveredTask {
        body_hash: task.body_hash(),
        task,
        token: headers::token(properties),
        reply,
        keeps: Keeps::of(properties),
    })
}

/// How a task ends without a run of its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEnd {
    pub status: Status,
    pub failure: TaskFailure,
}

/// The decision about a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examination {
    /// Claim it.
    Claim,
    /// Nothing is left to do: acknowledge the message. The text is the reason.
    Drop(&'static str),
    /// The task has finished: acknowledge the message, and send the existing result to its reply
    /// address.
    Finished,
    /// The task belongs in another queue: send it back through `pool.tasks` with the next generation.
    Divert,
    /// The task ends here, without an attempt.
    End(TaskEnd),
    /// The task cannot be handled: send it to `pool.dead`, and a result to the submitter.
    Dead(TaskFailure),
}

/// Decides by the fold how to handle a delivery. Pure.
pub fn examine(
    fold: &PoolState,
    delivered: &DeliveredTask,
    offered: &CapabilitySet,
) -> Examination {
    let known = fold.tasks.get(&delivered.task.id);
    let known = known.as_deref();
    let generation = known.map_or(0, |state| state.generation);
    if let Some(conflict) = conflict(fold, delivered) {
        return conflict;
    }
    if known.is_some_and(TaskState::is_finished) {
        return Examination::Finished;
    }
    if delivered.token.generation < generation {
        return older_than_the_log(known);
    }
    if !delivered.task.message.capabilities.is_subset(offered) {
        return Examination::Divert;
    }
    if known.is_none_or(|state| state.fence.is_none())
        && delivered.token.count >= MOST_UNSTARTED_DELIVERIES
    {
        let problem = format!(
            "the task was delivered {} times and never started",
            delivered.token.count
        );
        return Examination::Dead(TaskFailure::new(ErrorKind::Poison, problem));
    }
    Examination::Claim
}

/// A delivery whose generation is older than the log's. The process that reissued the task may have
/// died before it published the new message. Then this message is the only one.
fn older_than_the_log(known: Option<&TaskState>) -> Examination {
    match known.is_some_and(TaskState::is_published) {
        true => Examination::Drop("the task has been published again since"),
        false => Examination::Divert,
    }
}

/// Whether the log knows this id with another body.
fn conflict(fold: &PoolState, delivered: &DeliveredTask) -> Option<Examination> {
    let known = fold.tasks.get(&delivered.task.id)?;
    let known = known.body_hash.as_ref()?;
    (*known != delivered.body_hash).then(|| {
        let problem = format!(
            "the id {} belongs to a task with another body; use a new id",
            delivered.task.id
        );
        Examination::End(TaskEnd {
            status: Status::Rejected,
            failure: TaskFailure::new(ErrorKind::IdConflict, problem),
        })
    })
}

/// How to handle a delivery whose `started` was refused.
pub fn after_refusal(fold: &PoolState, delivered: &DeliveredTask, refusal: Refusal) -> Examination {
    if let Some(conflict) = conflict(fold, delivered) {
        return conflict;
    }
    let known = fold.tasks.get(&delivered.task.id);
    let known = known.as_deref();
    match refusal {
        // The broker counts deliveries from the start when somebody moves a message by hand. If the
        // owner is not alive, no other programmer has the task.
        Refusal::Superseded
            if known.is_some_and(|state| state.owner().is_none_or(|owner| fold.is_gone(owner))) =>
        {
            Examination::Divert
        }
        Refusal::Finished => Examination::Finished,
        Refusal::OldGeneration => older_than_the_log(known),
        Refusal::Superseded => Examination::Drop("another delivery owns the task"),
        Refusal::Taken { .. }
        | Refusal::UnknownTask
        | Refusal::OverBudget
        | Refusal::NotReserved
        | Refusal::OldEpoch
        | Refusal::NotDue => Examination::Drop("the log refused the start"),
    }
}

/// The usage of earlier attempts at a task. The two values differ when an attempt died with its
/// worker.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    pub at_most: Spent,
    pub for_sure: Spent,
}

/// A task that this programmer owns.
#[derive(Debug)]
pub struct Claimed {
    pub delivered: DeliveredTask,
    pub attempt: AttemptId,
    /// The number of this attempt; the first is 1.
    pub number: u32,
    pub spent: Earlier,
    pub since: Timestamp,
}

impl Claimed {
    /// The most that this attempt may cost: the lower of two rests. The task's own limit also
    /// counts what lost attempts may have spent. The programmer's limit counts only what was spent
    /// for certain, so a crash does not use it up.
    pub fn max_cost(&self, of_programmer: MicroUsd) -> MicroUsd {
        let left = of_programmer.saturating_sub(self.spent.for_sure.cost_usd);
        let own = self.delivered.task.message.limits.max_cost_usd;
        own.map_or(left, |own| {
            own.saturating_sub(self.spent.at_most.cost_usd).min(left)
        })
    }

    /// The tokens that this attempt may use, given the programmer's limit for one task.
    pub fn max_tokens(&self, of_programmer: u64) -> u64 {
        of_programmer.saturating_sub(self.spent.for_sure.tokens)
    }

    /// Why the attempt ends at once: the task was started too often, or its deadline has passed.
    /// This is decided after the claim, because only its owner can finish a task that has been
    /// started before.
    pub fn ends_at_once(&self, max_attempts: u32) -> Option<TaskEnd> {
        if self.number > max_attempts {
            let problem = format!(
                "the task was started {} times and never finished; its last attempts died with their worker",
                self.number - 1
            );
            return Some(TaskEnd {
                status: Status::Failed,
                failure: TaskFailure::new(ErrorKind::Poison, problem),
            });
        }
        let deadline = self
            .delivered
            .task
            .message
            .limits
            .deadline
            .filter(|deadline| *deadline <= self.since)?;
        Some(TaskEnd {
            status: Status::Expired,
            failure: TaskFailure::deadline_passed(deadline),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::{
        Event, ReleaseCause, TaskFinished, TaskPublished, TaskReleased, TaskStarted,
    };
    use pool_core::id::{Capability, ProgrammerId};

    const NOW: Timestamp = Timestamp(1_767_323_045_678);

    fn delivered(extra: &str, count: u64) -> DeliveredTask {
        let body = format!(r#"{{"id": "t", "instruction": "x", "repository": "app"{extra}}}"#);
        let properties = lapin::BasicProperties::default();
        let delivered = read(body.as_bytes(), &properties).expect("a task");
        DeliveredTask {
            token: Token {
                generation: 0,
                count,
            },
            ..delivered
        }
    }

    fn fold(events: Vec<Event>) -> PoolState {
        PoolState::of_events(NOW, events)
    }

    fn started(count: u64, hash: &str) -> Event {
        Event::from(TaskStarted {
            task: TaskId::new("t").expect("an id"),
            attempt: AttemptId::from_u128(1),
            programmer: ProgrammerId::new("001").expect("an id"),
            token: Token {
                generation: 0,
                count,
            },
            route: "any".to_owned(),
            body_hash: hash.to_owned(),
        })
    }

    fn finished() -> Event {
        Event::from(TaskFinished {
            task: TaskId::new("t").expect("an id"),
            attempt: Some(AttemptId::from_u128(1)),
            status: Status::Succeeded,
            llm: None,
            cost_usd: MicroUsd::ZERO,
            error: None,
        })
    }

    fn offered() -> CapabilitySet {
        [Capability::new("fast").expect("a capability")].into()
    }

    #[test]
    fn a_new_task_is_claimed_and_a_finished_one_is_dropped() {
        let delivered = delivered("", 0);
        let examine = |fold: &PoolState| examine(fold, &delivered, &offered());
        assert_eq!(examine(&fold(vec![])), Examination::Claim, "never heard of");
        let done = fold(vec![started(0, &delivered.body_hash), finished()]);
        assert_eq!(examine(&done), Examination::Finished, "finished");
    }

    #[test]
    fn another_body_under_a_known_id_is_a_conflict_even_when_that_task_has_finished() {
        let other = fold(vec![started(0, "other"), finished()]);
        let examination = examine(&other, &delivered("", 0), &offered());
        assert!(
            matches!(&examination, Examination::End(TaskEnd { status: Status::Rejected, failure }) if failure.kind == ErrorKind::IdConflict),
            "the submitter must get a result: {examination:?}"
        );
    }

    #[test]
    fn a_task_for_others_goes_back_with_the_next_generation() {
        let delivered = delivered(r#", "capabilities": ["premium"]"#, 0);
        let examination = examine(&fold(vec![]), &delivered, &offered());
        assert_eq!(examination, Examination::Divert, "not offered here");
    }

    #[test]
    fn an_old_delivery_is_dropped_only_when_the_new_message_is_in_its_queue() {
        let delivered = delivered("", 0);
        let reissued = || Event::reissued(&TaskId::new("t").expect("an id"), 1);
        let examine = |events| examine(&fold(events), &delivered, &offered());
        assert_eq!(
            examine(vec![reissued()]),
            Examination::Divert,
            "it was never published again"
        );
        let published = Event::from(TaskPublished {
            task: TaskId::new("t").expect("an id"),
            generation: 1,
        });
        let examination = examine(vec![reissued(), published]);
        assert_eq!(
            examination,
            Examination::Drop("the task has been published again since"),
            "it was"
        );
    }

    #[test]
    fn a_start_that_comes_behind_a_reissue_is_dropped_only_when_that_was_published() {
        let delivered = delivered("", 0);
        let id = || TaskId::new("t").expect("an id");
        let after = |events| after_refusal(&fold(events), &delivered, Refusal::OldGeneration);
        let reissued = Event::reissued(&id(), 1);
        assert_eq!(
            after(vec![reissued.clone()]),
            Examination::Divert,
            "this message is all there is"
        );
        let published = Event::from(TaskPublished {
            task: id(),
            generation: 1,
        });
        let dropped = Examination::Drop("the task has been published again since");
        assert_eq!(
            after(vec![reissued, published]),
            dropped,
            "the other one is in its queue"
        );
    }

    #[test]
    fn a_delivery_that_lost_to_nobody_is_sent_on_instead_of_dropped() {
        let delivered = delivered("", 0);
        let released = Event::from(TaskReleased {
            task: TaskId::new("t").expect("an id"),
            attempt: AttemptId::from_u128(1),
            cause: ReleaseCause::Stopped,
        });
        let after = |events| after_refusal(&fold(events), &delivered, Refusal::Superseded);
        let owned = vec![started(5, &delivered.body_hash)];
        assert_eq!(
            after(owned.clone()),
            Examination::Drop("another delivery owns the task"),
            "it has an owner"
        );
        let free = owned.into_iter().chain([released]).collect();
        assert_eq!(after(free), Examination::Divert, "nobody has it");
    }

    #[test]
    fn what_earlier_attempts_have_spent_is_not_there_for_this_one() {
        let spent = |cost| Spent {
            cost_usd: MicroUsd(cost),
            ..Spent::default()
        };
        let claimed = |cost| Claimed {
            delivered: delivered(r#", "limits": {"max_cost_usd": "2.00"}"#, 0),
            attempt: AttemptId::from_u128(1),
            number: 2,
            spent: Earlier {
                at_most: spent(cost),
                for_sure: spent(cost),
            },
            since: NOW,
        };
        let left = |spent| claimed(spent).max_cost(MicroUsd(2_500_000));
        assert_eq!(
            left(1_900_000),
            MicroUsd(100_000),
            "the task's own limit is the lower one"
        );
        assert_eq!(left(2_100_000), MicroUsd::ZERO, "zero, not less");
        let after_a_crash = |limits: &str| Claimed {
            delivered: delivered(limits, 0),
            spent: Earlier {
                at_most: spent(1_900_000),
                for_sure: spent(300_000),
            },
            ..claimed(1_900_000)
        };
        let left = |limits| after_a_crash(limits).max_cost(MicroUsd(2_500_000));
        let own = r#", "limits": {"max_cost_usd": "2.00"}"#;
        assert_eq!(
            left(own),
            MicroUsd(100_000),
            "possible spending counts against the task's own limit"
        );
        assert_eq!(
            left(""),
            MicroUsd(2_200_000),
            "only certain spending counts against the programmer's"
        );
    }

    #[test]
    fn a_task_that_waited_past_its_deadline_ends_instead_of_being_worked_on() {
        let claimed = |extra: &str| Claimed {
            delivered: delivered(extra, 0),
            attempt: AttemptId::from_u128(1),
            number: 1,
            spent: Earlier::default(),
            since: NOW,
        };
        let late = claimed(r#", "limits": {"deadline": "2020-01-01T00:00:00Z"}"#).ends_at_once(3);
        assert!(
            matches!(&late, Some(end) if end.status == Status::Expired),
            "the deadline has passed: {late:?}"
        );
        assert_eq!(claimed("").ends_at_once(3), None, "nothing is in the way");
        let poison = Claimed {
            number: 4,
            ..claimed("")
        }
        .ends_at_once(3);
        assert!(
            matches!(&poison, Some(TaskEnd { status: Status::Failed, failure }) if failure.kind == ErrorKind::Poison),
            "too many starts: {poison:?}"
        );
    }

    #[test]
    fn ten_deliveries_without_a_start_are_enough() {
        let unstarted = examine(&fold(vec![]), &delivered("", 10), &offered());
        assert!(
            matches!(unstarted, Examination::Dead(_)),
            "never started: {unstarted:?}"
        );
        let delivered = delivered("", 10);
        let once = fold(vec![started(3, &delivered.body_hash)]);
        assert_eq!(
            examine(&once, &delivered, &offered()),
            Examination::Claim,
            "a return does not count as a failure"
        );
    }

    #[test]
    fn what_cannot_be_read_names_the_mistake_and_keeps_the_reply_address() {
        let properties = lapin::BasicProperties::default().with_reply_to("results.me".into());
        let malformed =
            read(br#"{"instruction": "x", "repository": "app"}"#, &properties).expect_err("no id");
        assert!(
            malformed.failure.message.starts_with("id: needed"),
            "{}",
            malformed.failure.message
        );
        assert_eq!(
            malformed.reply.to.as_deref(),
            Some("results.me"),
            "the submitter can get a reply"
        );
        let properties = lapin::BasicProperties::default().with_reply_to("amq.gen-x".into());
        let malformed =
            read(b"{}", &properties).expect_err("a reply address that belongs to another queue");
        assert!(
            malformed.failure.message.contains("results."),
            "{}",
            malformed.failure.message
        );
        assert_eq!(malformed.reply.to, None, "nothing is sent there");
    }
}
