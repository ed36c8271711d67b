//! Appends events: one batch at a time. Events that arrive meanwhile go together into the next batch.
//!
//! A batch without a confirm is published again, byte for byte, until it is confirmed. The fold recognises the double by its
//! sequence numbers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Pending, Shared, Waiter};
use crate::clock::Clock;
use crate::headers::json_properties;
use crate::publisher::{Message, Publisher};
use crate::topology::{EVENTS_KEY, LOG};
use pool_core::event::{EmitterId, Event, EventBatch, PoolEvent};
use pool_core::time::Timestamp;
use pool_telemetry::tasks::Written;

/// The most events in one message, so that a batch stays far below every limit on messages.
const MOST_EVENTS: usize = 128;
/// An appender with the next event within this time is busy: more events will follow soon.
const BUSY: Duration = Duration::from_millis(4);
/// How long a busy appender waits for more events. Every process reads every batch, so fewer and larger batches cost less. An
/// appender that is not busy does not wait.
const LINGER: Duration = Duration::from_millis(1);

pub(super) async fn run(
    shared: Arc<Shared>,
    publisher: Publisher,
    mut pending: mpsc::Receiver<Pending>,
    shutdown: CancellationToken,
) {
    let mut first = 0;
    let mut left = None;
    loop {
        let mut taken = Vec::new();
        tokio::select! {
            () = shutdown.cancelled() => return,
            count = pending.recv_many(&mut taken, MOST_EVENTS) => if count == 0 { return },
        }
        if left.is_some_and(|left: Instant| left.elapsed() < BUSY) {
            tokio::time::sleep(LINGER).await;
            while taken.len() < MOST_EVENTS
                && let Ok(more) = pending.try_recv()
            {
                taken.push(more);
            }
        }
        left = Some(Instant::now());
        let at = tokio::select! {
            () = shutdown.cancelled() => return,
            at = right_time(&shared.clock) => at,
        };
        let batch = batch(&shared, first, taken, at);
        first += batch.events.len() as u64;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = publish(&publisher, &batch) => {}
        }
    }
}

/// Makes the message and registers the waiter of each event.
fn batch(shared: &Shared, first: u64, taken: Vec<Pending>, at: Timestamp) -> EventBatch {
    let mut events = Vec::with_capacity(taken.len());
    shared.waiters.with(|waiters| {
        waiters.retain(|_, waiter| !waiter.verdict.is_closed());
        for (seq, pending) in (first..).zip(taken) {
            let written = Written::of(&pending.decision);
            waiters.insert(
                seq,
                Waiter {
                    verdict: pending.verdict,
                    written,
                },
            );
            events.push(pending.decision);
        }
    });
    EventBatch {
        v: 1,
        emitter: shared.emitter,
        first,
        at_ms: at.0,
        events,
    }
}

/// The time, once the clock is right. An event from a wrong clock would move the time of the whole pool.
async fn right_time(clock: &Clock) -> Timestamp {
    clock.compared().await;
    clock.right().await
}

/// A batch of one event with its own emitter: the mark that shows a reader where the log ended when it began to read. It
/// carries no time, because a process with a wrong clock must be able to read too.
pub(super) fn mark(emitter: EmitterId) -> EventBatch {
    EventBatch {
        v: 1,
        emitter,
        first: 0,
        at_ms: 0,
        events: vec![Event::Pool(PoolEvent::Tick)],
    }
}

/// Publishes until it is confirmed.
pub(super) async fn publish(publisher: &Publisher, batch: &EventBatch) {
    let body = batch.to_json();
    let message = Message::new(LOG, EVENTS_KEY, body, json_properties());
    let words = "events are not confirmed; publishing them again";
    publisher.publish_until_confirmed(&message, words).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use pool_core::heartbeat::Heartbeat;
    use pool_telemetry::clock::{new_id, wall_clock};

    #[test]
    fn nobody_writes_before_his_clock_was_compared_with_others() {
        let clock = Clock::new();
        assert!(
            right_time(&clock).now_or_never().is_none(),
            "no other process has sent its time yet"
        );
        clock.heard(&Heartbeat::greeting(
            new_id::<EmitterId>(),
            "another",
            wall_clock(),
            false,
        ));
        assert!(
            right_time(&clock).now_or_never().is_some(),
            "another one has the same time"
        );
        let clock = Clock::new();
        clock.is_alone();
        assert!(
            right_time(&clock).now_or_never().is_some(),
            "no other process answers"
        );
    }
}
