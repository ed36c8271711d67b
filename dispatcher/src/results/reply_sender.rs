//! Delivers results to their submitters' reply queues, and lets no queue hold up the others.
//!
//! A reply queue can refuse (full, with `reject-publish`) or not answer (a quorum queue without a
//! majority). Then only one result at a time is tried. Results that still cannot be delivered after
//! a while go to `pool.dead`; an operator sends them again when the queue works.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use pool_broker::BrokerError;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{DeadLetterInfo, Reply, json_properties, text};
use pool_broker::outbox::{Outbox, PROMPT};
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::steps;
use pool_broker::topology::{REPLIES, RESULTS_QUEUE};
use pool_telemetry::clock::wall_clock;
use tokio::time::Instant;

/// The pause between two tries at a queue that refuses its results: the first pause, doubled each
/// time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Consecutive successes after which a queue is no longer throttled. A queue that is only read
/// slowly takes fewer in a row, and would refuse most of a burst.
const TRUSTED_AFTER: u32 = 20;
/// A throttled queue that had no result for this long is dropped from memory.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
const REASON: &str = "reply_refused";

#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDelivered {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("{0} refuses its results; another result is tried first")]
    Waits(String),
}

/// The next step for a result whose queue is throttled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Try,
    Wait,
    GiveUp,
}

/// A throttled reply queue: it refused a result.
#[derive(Debug, Clone, Copy)]
struct Reluctant {
    /// Since when it has accepted nothing.
    since: Instant,
    last_refused: Instant,
    next_try: Instant,
    /// The pause after the next refusal.
    pause: Duration,
    /// How many results it has accepted since its last refusal.
    taken: u32,
}

impl Reluctant {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            last_refused: now,
            next_try: now + FIRST_PAUSE,
            pause: 2 * FIRST_PAUSE,
            taken: 0,
        }
    }

    fn refused(&mut self, now: Instant) {
        let pause = LONGEST_PAUSE.min(2 * self.pause);
        *self = Self {
            since: self.since,
            last_refused: now,
            next_try: now + self.pause,
            pause,
            taken: 0,
        };
    }

    /// True if the queue is no longer throttled.
    fn took(&mut self, now: Instant) -> bool {
        let taken = self.taken + 1;
        *self = Self {
            since: now,
            next_try: now,
            pause: FIRST_PAUSE,
            taken,
            ..*self
        };
        taken >= TRUSTED_AFTER
    }

    /// The turn of a result that arrived at `arrived`. The result is given up if it, or the queue,
    /// has waited for the patience, but not before the queue has refused one since then.
    /// `longest` is the longest duration of a try: until then no other result is tried.
    fn turn(
        &mut self,
        arrived: Instant,
        now: Instant,
        patience: Duration,
        longest: Duration,
    ) -> Turn {
        if now >= self.next_try {
            self.next_try = now + longest;
            return Turn::Try;
        }
        let waited = now.duration_since(self.since.min(arrived));
        let hopeless = waited >= patience && self.last_refused >= arrived;
        if hopeless { Turn::GiveUp } else { Turn::Wait }
    }
}

pub(crate) struct ReplySender {
    process: Process,
    outbox: Outbox,
    /// How long results wait for a queue that refuses them.
    patience: Duration,
    reluctant: Mutex<HashMap<String, Reluctant>>,
}

impl ReplySender {
    /// The sender, and what sends its messages: the caller runs it.
    pub(crate) fn new(
        process: Process,
        patience: Duration,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (outbox, sending) =
            Outbox::new(process.publisher.clone(), process.shutdown.clone(), PROMPT);
        let reply_sender = Self {
            process,
            outbox,
            patience,
            reluctant: Mutex::default(),
        };
        (reply_sender, sending)
    }

    /// Delivers a result to the queue that the properties name, if they name one. Ok also if no
    /// queue is bound there, or if the result went to `pool.dead` instead.
    /// `arrived` is the time of its first try.
    pub(crate) async fn deliver(
        &self,
        came_with: &BasicProperties,
        arrived: Instant,
        id: &str,
        body: &[u8],
    ) -> Result<(), NotDelivered> {
        let Some((to, properties)) = addressed(came_with, id) else {
            return Ok(());
        };
        let turn = self.turn(&to, arrived);
        let delivered = match turn {
            None => {
                let message = Message::new(REPLIES, to.clone(), body.to_vec(), properties);
                self.outbox.publish(message).await
            }
            Some(Turn::Try) => {
                let message = Message::new(REPLIES, &to, body, properties);
                self.process.publisher.publish(&message).await
            }
            Some(Turn::Wait) => return Err(NotDelivered::Waits(to)),
            Some(Turn::GiveUp) => return Ok(self.give_up(came_with, id, &to, body).await?),
        };
        self.learn(&to, turn.is_some(), &delivered);
        match delivered {
            Err(BrokerError::Returned { .. }) => {
                tracing::warn!(task_id = id, reply_to = %to, "no queue is bound to pool.results for this reply; the history has the result");
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn turn(&self, to: &str, arrived: Instant) -> Option<Turn> {
        let longest = self.process.publisher.link().endpoint().timeout() * 3;
        let mut reluctant = self
            .reluctant
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        reluctant
            .get_mut(to)
            .map(|queue| queue.turn(arrived, Instant::now(), self.patience, longest))
    }

    /// `tried`: the queue was already throttled; otherwise many results may have been sent at once.
    fn learn(&self, to: &str, tried: bool, delivered: &Result<(), BrokerError>) {
        let now = Instant::now();
        let mut reluctant = self
            .reluctant
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match delivered {
            Err(error) if is_the_queues_fault(error) && self.process.log.is_fresh() => {
                if let Some(queue) = reluctant.get_mut(to) {
                    if tried {
                        queue.refused(now);
                    } else {
                        queue.last_refused = now;
                    }
                } else {
                    reluctant.retain(|_, queue| {
                        now.duration_since(queue.last_refused) < FORGOTTEN_AFTER
                    });
                    reluctant.insert(to.to_owned(), Reluctant::new(now));
                    tracing::warn!(reply_to = %to, %error, "a reply queue refuses its results; trying one at a time");
                }
            }
            Ok(()) if reluctant.get_mut(to).is_some_and(|queue| !queue.took(now)) => {}
            // If the broker is away or silent, that says nothing about one queue.
            Ok(()) | Err(_) => {
                if reluctant.remove(to).is_some() {
                    tracing::info!(reply_to = %to, "the results for this reply queue are no longer held back");
                }
            }
        }
    }

    async fn give_up(
        &self,
        came_with: &BasicProperties,
        id: &str,
        to: &str,
        body: &[u8],
    ) -> Result<(), BrokerError> {
        let reason = format!(
            "{REASON}: {to} has accepted its results too slowly or not at all for {} s; repair or empty the queue, then run `pool dead retry` to send this result",
            self.patience.as_secs()
        );
        let info = DeadLetterInfo::new(reason, RESULTS_QUEUE, wall_clock());
        steps::dead_letter(&self.process, body, came_with, &info).await?;
        point(Point::GaveUp);
        tracing::error!(task_id = id, reply_to = %to, "the result is in pool.dead because its reply queue refuses it (see `pool dead list`)");
        Ok(())
    }
}

/// The destination of a result, if it has one, and its properties.
fn addressed(came_with: &BasicProperties, id: &str) -> Option<(String, BasicProperties)> {
    let Ok(Reply {
        to: Some(to),
        correlation_id,
    }) = Reply::of(came_with)
    else {
        return None;
    };
    let properties = Reply {
        to: None,
        correlation_id,
    }
    .on(json_properties().with_message_id(id.into()));
    Some((to, properties))
}

/// Sends a result from `pool.dead` to its reply queue and returns the queue's address. None if the
/// letter was not put there by [`ReplySender`].
///
/// # Errors
/// When the queue still refuses the result, or does not exist.
pub(crate) async fn send_again(
    process: &Process,
    letter: &Delivery,
) -> Result<Option<String>, BrokerError> {
    let ours = DeadLetterInfo::of(&letter.properties)
        .is_some_and(|obituary| obituary.reason.starts_with(REASON));
    let id = text(letter.properties.message_id()).unwrap_or_default();
    let Some((to, properties)) = addressed(&letter.properties, id).filter(|_| ours) else {
        return Ok(None);
    };
    let message = Message::new(REPLIES, &to, &letter.data, properties);
    process.publisher.publish(&message).await?;
    Ok(Some(to))
}

/// True if the error concerns this queue alone.
fn is_the_queues_fault(error: &BrokerError) -> bool {
    matches!(
        error,
        BrokerError::Nacked { .. } | BrokerError::Timeout { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_result_tries_while_the_others_wait_and_after_a_refusal_beyond_patience_they_are_given_up()
     {
        let began = Instant::now();
        let mut queue = Reluctant {
            pause: LONGEST_PAUSE,
            ..Reluctant::new(began)
        };
        let at = |s| began + Duration::from_secs(s);
        let turn = |queue: &mut Reluctant, arrived, now| {
            queue.turn(
                at(arrived),
                at(now),
                Duration::from_secs(60),
                Duration::from_secs(30),
            )
        };
        assert_eq!(
            turn(&mut queue, 0, 0),
            Turn::Wait,
            "it has just refused a result"
        );
        assert_eq!(turn(&mut queue, 0, 5), Turn::Try, "the first result");
        assert_eq!(turn(&mut queue, 0, 6), Turn::Wait, "the other results");
        queue.refused(at(8));
        assert_eq!(turn(&mut queue, 0, 13), Turn::Try, "after another refusal");
        assert_eq!(turn(&mut queue, 0, 42), Turn::Wait, "a try takes long");
        queue.refused(at(42));
        assert_eq!(turn(&mut queue, 0, 60), Turn::Try, "it may work again");
        assert_eq!(
            turn(&mut queue, 0, 61),
            Turn::GiveUp,
            "the patience is over, and it has refused since"
        );
        assert_eq!(
            turn(&mut queue, 50, 61),
            Turn::Wait,
            "a result that came after the last refusal waits for the next"
        );
        queue.refused(at(62));
        assert_eq!(
            turn(&mut queue, 50, 63),
            Turn::GiveUp,
            "the next refusal has come"
        );
    }

    #[test]
    fn a_queue_that_is_read_slowly_is_tried_as_fast_as_it_takes_and_nothing_waits_longer_than_patience_for_it()
     {
        let began = Instant::now();
        let mut queue = Reluctant::new(began);
        let at = |ms| began + Duration::from_millis(ms);
        let turn = |queue: &mut Reluctant, arrived, now| {
            queue.turn(
                at(arrived),
                at(now),
                Duration::from_secs(3),
                Duration::from_secs(30),
            )
        };
        for round in 1..=10 {
            let now = round * 500;
            assert_eq!(
                turn(&mut queue, now, now),
                Turn::Try,
                "half a second later it accepts one again"
            );
            assert!(!queue.took(at(now)), "one success is not enough");
            assert_eq!(
                turn(&mut queue, now, now),
                Turn::Try,
                "the next result at once"
            );
            queue.refused(at(now));
        }
        assert_eq!(
            turn(&mut queue, 3000, 5001),
            Turn::Wait,
            "it accepted one half a second ago"
        );
        assert_eq!(
            turn(&mut queue, 2000, 5001),
            Turn::GiveUp,
            "a result that has waited for three seconds holds others up"
        );
        for taken in 1..TRUSTED_AFTER {
            assert!(!queue.took(at(6000)), "{taken} of {TRUSTED_AFTER}");
        }
        assert!(queue.took(at(6000)), "now it is no longer throttled");
    }
}
