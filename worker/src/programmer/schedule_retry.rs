//! Retries a broken attempt later, at whichever programmer is free then. First `reissued` goes into
//! the log, which ends this attempt. Then the task message goes into `pool.retries`, then the old
//! message is acknowledged. A dispatcher publishes the task when it is due.

use std::future::ready;
use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::fault::{Point, point};
use pool_broker::headers::retry_properties;
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::{REPLIES, RETRIES_KEY};
use pool_core::event::{Event, Retry, Spent, TaskReissued};
use pool_core::result::{ErrorKind, ResultMessage};
use pool_core::state::Verdict;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;

use super::claim::Claimed;
use super::conclude::{self, End};

/// The longest wait for the next attempt. The message stays unacknowledged meanwhile, which the
/// broker allows for half an hour.
const LONGEST: Duration = Duration::from_secs(300);

/// The error for which this attempt is retried, if it is.
pub(super) fn cause(result: &ResultMessage, number: u32, max_attempts: u32) -> Option<ErrorKind> {
    let error = result.error.as_ref().map(|error| error.kind);
    error.filter(|kind| kind.is_curable() && number < max_attempts)
}

/// The wait after attempt `number`. It doubles each time and is spread at random (`random` is in
/// 0..1).
fn delay(first: Duration, number: u32, random: f64) -> Duration {
    let doubled = first.saturating_mul(2u32.saturating_pow(number.saturating_sub(1)));
    doubled.min(LONGEST).mul_f64(0.5 + random / 2.0)
}

/// Ends this attempt and schedules another one.
pub(super) async fn make_again(
    process: &Process,
    delivery: &Delivery,
    claimed: &Claimed,
    (error, spent, first): (ErrorKind, Spent, Duration),
    wanted: impl Fn() -> bool,
) -> End {
    let (id, token) = (&claimed.envelope.task.id, claimed.envelope.token);
    let known = process
        .log
        .read(|fold| fold.tasks.get(id).map_or(0, |state| state.generation));
    let generation = known.max(token.generation) + 1;
    let at = wall_clock().plus(delay(first, claimed.number, rand::random()));
    let retry = Retry {
        attempt: claimed.attempt,
        error,
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
        Ok(Verdict::Refused(_)) | Err(_) => return End::Lost,
    }
    tracing::warn!(
        number = claimed.number, error = error.as_str(), %at, "the attempt broke; the task is retried later"
    );
    point(Point::RetryReissued);
    if !publish(process, claimed, (generation, at), wanted).await {
        // The next delivery finds that the message is not in its queue, and publishes it.
        return End::Lost;
    }
    point(Point::RetryKept);
    conclude::ack(process, delivery).await
}

async fn publish(
    process: &Process,
    claimed: &Claimed,
    (generation, at): (u32, Timestamp),
    wanted: impl Fn() -> bool,
) -> bool {
    let envelope = &claimed.envelope;
    let body = envelope.task.to_json();
    let properties = retry_properties(envelope.task.id.as_str(), generation, envelope.keeps, at);
    let properties = envelope.reply.on(properties);
    let message = Message {
        exchange: REPLIES,
        key: RETRIES_KEY,
        body: &body,
        properties,
        mandatory: true,
    };
    let words = "publishing a task for its retry was not confirmed; publishing it again";
    conclude::publish_while(process, message, words, || ready(wanted())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::result::{Status, TaskFailure};

    fn failed(kind: ErrorKind) -> ResultMessage {
        ResultMessage::without_attempt(None, Status::Failed, TaskFailure::new(kind, "x"))
    }

    #[test]
    fn what_broke_is_made_again_until_the_last_attempt() {
        let crashed = failed(ErrorKind::AgentCrashed);
        assert_eq!(
            cause(&crashed, 2, 3),
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
