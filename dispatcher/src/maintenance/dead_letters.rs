//! Issues messages again that the broker dead-lettered only because they were returned too often
//! (from RabbitMQ 4.0 on after 20 returns, broker fact 2). Such a message is fine.

use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{self, Keeps, Reply, json_properties};
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::{DEAD_QUEUE, REPLIES, RESULTS_KEY, RESULTS_QUEUE, TASKS, UNROUTABLE};
use tokio::time::Instant;

use crate::dead::letter::{Death, describe};
use crate::dead::{DeadError, DeadLetters};
use crate::queue_depths::{Depth, depth};
use crate::reissue::{NotReissued, Reissued, send_on};

const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Also look when the number of messages is unchanged: one may have left and another arrived.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// A look takes all messages, so it may use at most one part in this many of the time.
const SHARE: u32 = 20;
/// How many messages are searched: the broker's letters may be behind letters that wait for people.
/// All are in memory during a look.
const MOST: u16 = 5_000;
/// A message that was returned this often would only come back again.
const MOST_GENERATIONS: u32 = 50;

#[derive(Debug, thiserror::Error)]
enum NotRedriven {
    #[error(transparent)]
    Dead(#[from] DeadError),
    #[error(transparent)]
    NotReissued(#[from] NotReissued),
}

/// Looks whenever the number of messages has changed, until shutdown.
pub(crate) async fn run(process: Process, dead: DeadLetters) {
    let mut known = (0, Instant::now());
    let mut not_before = Instant::now();
    while !process.shutdown.is_cancelled() {
        if process.log.is_fresh()
            && Instant::now() >= not_before
            && let Depth::Ready(count) = depth(&process, DEAD_QUEUE).await
            && count > 0
            && (count != known.0 || known.1.elapsed() > LOOK_EVERY)
        {
            let began = Instant::now();
            let redriven = redrive(&process, &dead).await;
            not_before = Instant::now() + began.elapsed() * SHARE;
            match redriven {
                Ok(redriven) => known = (count.saturating_sub(redriven), Instant::now()),
                Err(error) => {
                    tracing::warn!(%error, "failed to read {DEAD_QUEUE}; trying again")
                }
            }
        }
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            () = tokio::time::sleep(COUNT_EVERY) => {}
        }
    }
}

async fn redrive(process: &Process, dead: &DeadLetters) -> Result<u32, NotRedriven> {
    let mut look = dead.scan(MOST).await?;
    let mut redriven = 0;
    while let Some(delivery) = look.next().await? {
        let Some(death) = Death::of(&delivery.properties).filter(Death::is_of_returns) else {
            continue;
        };
        if issue_again(process, &delivery, &death.queue).await? {
            point(Point::RescueIssued);
            let letter = describe(&delivery);
            tracing::warn!(task_id = letter.task_id, queue = %death.queue, "issued a message again that had been returned too often");
            look.take_out(&delivery).await?;
            redriven += 1;
        }
    }
    look.end().await;
    Ok(redriven)
}

/// Sends the message back to where it was; false if it must stay.
async fn issue_again(
    process: &Process,
    delivery: &Delivery,
    queue: &str,
) -> Result<bool, NotReissued> {
    let properties = &delivery.properties;
    if queue == RESULTS_QUEUE {
        // The headers are those of the pool; headers that the broker added are not passed on.
        let id = headers::text(properties.message_id()).unwrap_or_default();
        let attempt = headers::attempt(properties);
        let mut again = Reply::as_it_came(properties).on(headers::result_properties(id, attempt));
        if let Some(kind) = headers::text(properties.kind()) {
            again = again.with_type(kind.into());
        }
        let message = Message {
            exchange: REPLIES,
            key: RESULTS_KEY,
            body: &delivery.data,
            properties: again,
            mandatory: true,
        };
        process.publisher.publish(message).await?;
        return Ok(true);
    }
    if queue == UNROUTABLE {
        let key = delivery.routing_key.as_str();
        let again =
            Reply::as_it_came(properties).on(match headers::text(properties.message_id()) {
                Some(id) => headers::task_properties(
                    id,
                    headers::token(properties).generation,
                    Keeps::of(properties),
                ),
                None => json_properties(),
            });
        let message = Message {
            exchange: TASKS,
            key,
            body: &delivery.data,
            properties: again,
            mandatory: true,
        };
        process.publisher.publish(message).await?;
        return Ok(true);
    }
    if headers::token(properties).generation >= MOST_GENERATIONS {
        return Ok(false);
    }
    match send_on(process, &delivery.data, properties).await? {
        Reissued::Published(_) | Reissued::Overtaken | Reissued::Finished => Ok(true),
    }
}
