//! Empties queues that no route uses any more: their messages are published to `pool.tasks` again.
//!
//! After a change of the pool file no programmer consumes these queues, and only the event log has
//! their names.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use pool_broker::backoff::Backoff;
use pool_broker::fault::{Point, point};
use pool_broker::link::discard;
use pool_broker::process::Process;
use pool_broker::with_timeout;
use pool_core::pool::Pool;

use super::configuration;
use crate::reissue::{NotReissued, send_on};

/// Check again: a message that a programmer held when its queue was retired returns later.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Empties all retired queues repeatedly until the process ends.
pub async fn run(process: Process, pool: Arc<Pool>) {
    while !process.shutdown.is_cancelled() {
        // If another file is in force than this process' own, its idea of the queues in use is
        // outdated.
        if process
            .log
            .read(|fold| configuration::is_in_force(fold, &pool))
        {
            empty_all(&process).await;
        }
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
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

async fn empty(process: &Process, queue: &str) -> Result<(), NotReissued> {
    let limit = process.consume.endpoint().timeout();
    let channel = process.consume.channel().await?;
    // Asking for a missing queue without `passive` would close the channel with an error.
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let exists = with_timeout(
        limit,
        format!("look for {queue}"),
        channel.queue_declare(queue.into(), options, FieldTable::default()),
    );
    if exists.await.is_err() {
        return Ok(());
    }
    let mut moved = 0;
    loop {
        let get = channel.basic_get(queue.into(), BasicGetOptions::default());
        let Some(message) = with_timeout(limit, format!("empty {queue}"), get).await? else {
            break;
        };
        point(Point::RetiredTaken);
        send_on(
            process,
            &message.delivery.data,
            &message.delivery.properties,
        )
        .await?;
        point(Point::RetiredLogged);
        with_timeout(
            limit,
            "ack a moved task",
            message.delivery.ack(BasicAckOptions::default()),
        )
        .await?;
        moved += 1;
    }
    if moved > 0 {
        tracing::info!(%queue, moved, "moved the tasks of a queue that is no longer used");
    }
    discard(&channel, process.consume.endpoint()).await;
    Ok(())
}
