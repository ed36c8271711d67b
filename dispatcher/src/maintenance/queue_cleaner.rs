//! Empties queues that no route uses any more: their messages are published to `pool.tasks` again.
//!
//! After a change of the pool file no programmer consumes these queues, and only the event log has
//! their names.

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicGetOptions;
use lapin::protocol::AMQPSoftError;
use pool_broker::acks::ack;
use pool_broker::backoff::Backoff;
use pool_broker::fault::{Point, point};
use pool_broker::process::Process;
use pool_broker::steps::{ReissuePoints, send_on};
use pool_broker::{BrokerError, with_timeout};
use pool_core::pool::Pool;

use super::configuration;

/// Check again: a message that a programmer held when its queue was retired returns later.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Empties all retired queues repeatedly until the process ends.
pub async fn run(process: Process, pool: Arc<Pool>) {
    loop {
        // If another file is in force than this process' own, its idea of the queues in use is
        // outdated.
        if process
            .log
            .read(|fold| configuration::is_in_force(fold, &pool))
        {
            empty_all(&process).await;
        }
        if !process.pause(LOOK_AGAIN).await {
            return;
        }
    }
}

async fn empty_all(process: &Process) {
    let mut backoff = Backoff::default();
    for queue in process
        .log
        .read(|fold| fold.retired_queues(&process.routes))
    {
        while let Err(error) = empty(process, &queue).await {
            tracing::warn!(%queue, %error, "failed to empty a queue that is no longer used; trying again");
            tokio::select! {
                () = process.shutdown.cancelled() => return,
                () = backoff.wait() => {}
            }
        }
        backoff.reset();
    }
}

async fn empty(process: &Process, queue: &str) -> Result<(), BrokerError> {
    let emptying = process
        .consume
        .on_channel(|channel| async move { move_tasks(process, &channel, queue).await });
    match emptying.await {
        Ok(0) => {}
        Ok(moved) => {
            tracing::info!(%queue, moved, "moved the tasks of a queue that is no longer used")
        }
        // The queue is gone, and its tasks with it.
        Err(error) if error.is(AMQPSoftError::NOTFOUND) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn move_tasks(process: &Process, channel: &Channel, queue: &str) -> Result<u32, BrokerError> {
    let limit = process.consume.endpoint().timeout();
    let mut moved = 0;
    loop {
        let get = channel.basic_get(queue.into(), BasicGetOptions::default());
        let Some(message) = with_timeout(limit, format!("empty {queue}"), get).await? else {
            return Ok(moved);
        };
        let delivery = message.delivery;
        point(Point::RetiredTaken);
        let points = ReissuePoints::OF_DISPATCHER;
        send_on(process, &delivery.data, &delivery.properties, points).await?;
        point(Point::RetiredLogged);
        ack(&delivery, limit).await?;
        moved += 1;
    }
}
