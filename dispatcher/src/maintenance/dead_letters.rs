//! Issues messages again that the broker dead-lettered only because they were returned too often
//! (from RabbitMQ 4.0 on after 20 returns, broker fact 2). Such a message is fine.

use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::BrokerError;
use pool_broker::fault::{Point, point};
use pool_broker::headers;
use pool_broker::process::Process;
use pool_broker::steps::{
    OutgoingTask, ReissuePoints, publish_result_again, publish_task, send_on,
};
use pool_broker::topology::{DEAD_QUEUE, RESULTS_QUEUE, UNROUTABLE};
use tokio::time::Instant;

use crate::dead::letter::{Death, describe};
use crate::dead::{DeadError, DeadLetters};
use crate::queue_depths::{Depth, depth};

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

/// Looks whenever the number of messages has changed, until shutdown.
pub(crate) async fn run(process: Process, dead: DeadLetters) {
    let mut known = (0, Instant::now());
    let mut not_before = Instant::now();
    loop {
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
        if !process.pause(COUNT_EVERY).await {
            return;
        }
    }
}

async fn redrive(process: &Process, dead: &DeadLetters) -> Result<u32, DeadError> {
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
) -> Result<bool, BrokerError> {
    let properties = &delivery.properties;
    if queue == RESULTS_QUEUE {
        publish_result_again(process, delivery).await?;
    } else if queue == UNROUTABLE {
        let again = OutgoingTask::passed_on(delivery, delivery.routing_key.as_str());
        publish_task(process, &again).await?;
    } else if headers::token(properties).generation < MOST_GENERATIONS {
        let points = ReissuePoints::OF_DISPATCHER;
        send_on(process, &delivery.data, properties, points).await?;
    } else {
        return Ok(false);
    }
    Ok(true)
}
