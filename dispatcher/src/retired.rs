//! Empties queues that no route leads to any more: what waits there is sent on through `pool.tasks`.
//!
//! After the pool file has changed, nobody consumes these queues, and only the log remembers that they exist.

use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use pool_shared::broker::backoff::Backoff;
use pool_shared::broker::headers::{self, Reply};
use pool_shared::broker::link::discard;
use pool_shared::broker::log::LogError;
use pool_shared::broker::process::Process;
use pool_shared::broker::publisher::Message;
use pool_shared::broker::topology::TASKS;
use pool_shared::broker::{BrokerError, within};
use pool_shared::event::Decision;
use pool_shared::fault::{Point, point};
use pool_shared::fold::{Refusal, Verdict};
use pool_shared::id::TaskId;
use pool_shared::routing::routing_key;
use pool_shared::task::TaskMessage;
use pool_shared::time::Timestamp;

#[derive(Debug, thiserror::Error)]
enum NotMoved {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What was in a programmer's hands when its queue was retired comes back later.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Empties every retired queue, again and again until the process ends.
pub async fn run(process: Process) {
    while !process.shutdown.is_cancelled() {
        empty_all(&process).await;
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn empty_all(process: &Process) {
    let mut backoff = Backoff::default();
    for queue in process.log.read(|fold| fold.retired_queues(&process.routes)) {
        while let Err(error) = empty(process, &queue).await {
            tracing::warn!(%queue, %error, "a queue that is no longer in use is not empty yet; trying again");
            tokio::select! {
                () = process.shutdown.cancelled() => return,
                () = backoff.wait() => {}
            }
        }
        backoff.reset();
    }
}

async fn empty(process: &Process, queue: &str) -> Result<(), NotMoved> {
    let limit = process.consume.endpoint().timeout();
    let channel = process.consume.channel().await?;
    // Asking for a queue that is gone would close the channel with an error.
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let exists =
        within(limit, format!("look for {queue}"), channel.queue_declare(queue.into(), options, FieldTable::default()));
    if exists.await.is_err() {
        return Ok(());
    }
    let mut moved = 0;
    loop {
        let get = channel.basic_get(queue.into(), BasicGetOptions::default());
        let Some(message) = within(limit, format!("empty {queue}"), get).await? else { break };
        point(Point::RetiredTaken);
        send_on(process, &message.delivery).await?;
        point(Point::RetiredLogged);
        within(limit, "ack a moved task", message.delivery.ack(BasicAckOptions::default())).await?;
        moved += 1;
    }
    if moved > 0 {
        tracing::info!(%queue, moved, "tasks of a queue that is no longer in use were sent on");
    }
    discard(&channel, process.consume.endpoint()).await;
    Ok(())
}

/// `reissued` first; only who is accepted publishes.
async fn send_on(process: &Process, delivery: &Delivery) -> Result<(), NotMoved> {
    let message = TaskMessage::parse(&delivery.data, Timestamp::default()).ok();
    let property = headers::text(delivery.properties.message_id()).and_then(|id| TaskId::new(id).ok());
    let id = message.as_ref().and_then(|message| message.id.clone()).or(property);
    let token = headers::token(&delivery.properties);
    let mut generation = token.generation;
    if let Some(task) = id.clone() {
        loop {
            let known = process.log.read(|fold| fold.tasks.get(&task).map_or(0, |state| state.generation));
            generation = generation.max(known) + 1;
            match process.log.append(Decision::reissued(&task, generation)).await? {
                Verdict::Accepted => break,
                // Somebody else was first, and has published it; if he has not, this message is all there is.
                Verdict::Refused(Refusal::OldGeneration)
                    if process.log.read(|fold| fold.tasks.get(&task).is_some_and(|state| !state.published)) => {}
                Verdict::Refused(Refusal::Finished | Refusal::OldGeneration) => return Ok(()),
                Verdict::Refused(_) => return Err(LogError::Closed.into()),
            }
        }
    }
    point(Point::RetiredReissued);
    // What cannot be read is for a programmer to refuse; any will do.
    let key = message.map_or_else(|| "any".to_owned(), |message| routing_key(&message.capabilities));
    let text = id.as_ref().map_or("", TaskId::as_str);
    let to = headers::text(delivery.properties.reply_to()).map(str::to_owned);
    let reply = Reply { to, ..Reply::without_address(&delivery.properties) };
    let submitted = headers::submitted_at(&delivery.properties);
    let properties = reply.on(headers::task_properties(text, generation, submitted));
    let again = Message { exchange: TASKS, key: &key, body: &delivery.data, properties, mandatory: true };
    process.publisher.publish(again).await?;
    point(Point::RetiredSentOn);
    if let Some(task) = id {
        process.log.append(Decision::Published { task, generation }).await?;
    }
    Ok(())
}
