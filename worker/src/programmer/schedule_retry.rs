//! Retries a broken attempt later, at whichever programmer is free then. First `reissued` goes into
//! the log, which ends this attempt. Then the task message goes into `pool.retries`, then the old
//! message is acknowledged. A dispatcher publishes the task when it is due.

use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::fault::{Point, point};
use pool_broker::process::Process;
use pool_broker::steps::{OutgoingTask, delay_task};
use pool_core::event::{Event, Retry, Spent, TaskReissued};
use pool_core::result::{ResultMessage, TaskFailure};
use pool_core::routing::routing_key;
use pool_core::state::Verdict;
use pool_telemetry::clock::wall_clock;

use super::claim::Claimed;
use super::conclude::{self, DeliveryEnd};

/// The longest wait for the next attempt. The message stays unacknowledged meanwhile, which the
/// broker allows for half an hour.
const LONGEST: Duration = Duration::from_secs(300);

/// The error for which this attempt is retried, if it is.
pub(super) fn cause(
    result: &ResultMessage,
    number: u32,
    max_attempts: u32,
) -> Option<&TaskFailure> {
    let error = result.error.as_ref();
    error.filter(|error| error.kind.is_curable() && number < max_attempts)
}

/// The wait after attempt `number`. It doubles each time and is spread at random (`random` is in
/// 0..1).
fn delay(first: Duration, number: u32, random: f64) -> Duration {
    let doubled = first.saturating_mul(2u32.saturating_pow(number.saturating_sub(1)));
    doubled.min(LONGEST).mul_f64(0.5 + random / 2.0)
}

/// An attempt that is retried.
pub(super) struct BrokenAttempt {
    pub(super) error: TaskFailure,
    pub(super) spent: Spent,
    /// The wait after the first attempt.
    pub(super) first_delay: Duration,
}

/// Ends this attempt and schedules another one.
pub(super) async fn schedule_retry(
    process: &Process,
    delivery: &Delivery,
    claimed: &Claimed,
    broken: BrokenAttempt,
    wanted: impl Fn() -> bool,
) -> DeliveryEnd {
    let BrokenAttempt {
        error,
        spent,
        first_delay,
    } = broken;
    let (id, token) = (&claimed.delivered.task.id, claimed.delivered.token);
    let known = process
        .log
        .read(|fold| fold.tasks.get(id).map_or(0, |state| state.generation));
    let generation = known.max(token.generation) + 1;
    let at = wall_clock().plus(delay(first_delay, claimed.number, rand::random()));
    let retry = Retry {
        attempt: claimed.attempt,
        error: error.kind,
        at_ms: at.0,
        spent,
    };
    match process
        .log
        .append(Event::from(TaskReissued {
            task: id.clone(),
            generation,
            retry: Some(retry),
        }))
        .await
    {
        Ok(Verdict::Accepted) => {}
        Ok(Verdict::Refused(_)) | Err(_) => return DeliveryEnd::Lost,
    }
    tracing::warn!(
        number = claimed.number,
        kind = error.kind.as_str(),
        error = error.message,
        %at,
        "the attempt broke; the task is retried later"
    );
    point(Point::RetryReissued);
    let delivered = &claimed.delivered;
    let outgoing = OutgoingTask {
        id: id.as_str(),
        generation,
        keeps: delivered.keeps,
        reply: delivered.reply.clone(),
        key: &routing_key(&delivered.task.message.capabilities),
        body: &delivered.task.to_json(),
    };
    let words = "publishing a task for its retry was not confirmed; publishing it again";
    let step = || delay_task(process, &outgoing, at);
    if !conclude::until_confirmed(words, wanted, step).await {
        // The next delivery finds that the message is not in its queue, and publishes it.
        return DeliveryEnd::Lost;
    }
    point(Point::RetryKept);
    conclude::ack(process, delivery).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::result::{ErrorKind, Status};

    fn failed(kind: ErrorKind) -> ResultMessage {
        ResultMessage::without_attempt(None, Status::Failed, TaskFailure::new(kind, "x"))
    }

    #[test]
    fn what_broke_is_made_again_until_the_last_attempt() {
        let crashed = failed(ErrorKind::AgentCrashed);
        assert_eq!(
            cause(&crashed, 2, 3).map(|error| error.kind),
            Some(ErrorKind::AgentCrashed),
            "one is left"
        );
        assert_eq!(cause(&crashed, 3, 3), None, "that was the last one");
    }

    #[test]
    fn what_a_repeat_cannot_cure_is_not_repeated() {
        for kind in [
            ErrorKind::Repository,
            ErrorKind::AcceptanceFailed,
            ErrorKind::LlmAuth,
            ErrorKind::TokenLimit,
            ErrorKind::Limit,
            ErrorKind::Sandbox,
        ] {
            assert_eq!(cause(&failed(kind), 1, 3), None, "{kind:?} is not retried");
        }
    }

    #[test]
    fn delays_double_up_to_a_limit_and_are_spread() {
        let first = Duration::from_secs(10);
        assert_eq!(delay(first, 1, 1.0), first, "the first");
        assert_eq!(
            delay(first, 3, 1.0),
            Duration::from_secs(40),
            "the wait doubles each time"
        );
        assert_eq!(
            delay(first, 3, 0.0),
            Duration::from_secs(20),
            "the retries are spread"
        );
        assert_eq!(delay(first, 99, 1.0), LONGEST, "the wait has a limit");
    }
}
