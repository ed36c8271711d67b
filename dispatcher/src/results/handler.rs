//! Takes results from `results`, lets the log decide which attempt's result counts, and delivers it
//! to the submitter.
//!
//! A result stays unacknowledged until the log names the winner and its result is in the history
//! and on the reply queue. After a crash in between, the same bytes are delivered again; consumers
//! drop duplicates by `message_id`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use lapin::message::Delivery;
use pool_broker::backoff::Backoff;
use pool_broker::consumer::ConsumerSettings;
use pool_broker::event_log::LogError;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{self, DeadLetterInfo, Reply};
use pool_broker::process::Process;
use pool_broker::service::Service;
use pool_broker::steps::{dead_letter, request_result};
use pool_broker::topology::RESULTS_QUEUE;
use pool_broker::{BrokerError, log_broker_error};
use pool_core::event::{Event, PoolEvent};
use pool_core::id::TaskId;
use pool_core::result::{ResultMessage, Status};
use pool_telemetry::clock::wall_clock;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::acks::acknowledge;
use super::disposition::{Disposition, decide};
use super::reply_sender::{NotDelivered, ReplySender};
use crate::history::{History, NotRead};

/// The most results in progress at once.
const PREFETCH: u16 = 200;
/// How long the history may take to show a result that the log has.
const IN_HISTORY_WITHIN: Duration = Duration::from_secs(2);
/// The total wait for a result in the history when it is requested again.
const IN_HISTORY_AT_ALL: Duration = Duration::from_secs(30);
/// A request for the result of an unfinished task is repeated after 5 s.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The services that consume `results` and send replies until shutdown, which the caller runs. `patience` is the time that a
/// result waits for a reply queue that refuses it.
pub(crate) fn services(process: Process, history: History, patience: Duration) -> [Service; 2] {
    let (reply_sender, sending) = ReplySender::new(process.clone(), patience);
    let handler = ResultHandler {
        process,
        history,
        reply_sender,
        unsent: UnsentResults::default(),
    };
    let handling = async move {
        let words = "failed to consume results; trying again";
        handler
            .process
            .keep_consuming(words, || consume(&handler))
            .await;
    };
    [("results", handling.boxed()), ("replies", sending.boxed())]
}

/// The parts that are needed to handle a result.
struct ResultHandler {
    process: Process,
    history: History,
    reply_sender: ReplySender,
    unsent: UnsentResults,
}

/// Counts the results that have not reached their submitters. Cheap to clone.
#[derive(Clone, Default)]
struct UnsentResults(Arc<AtomicUsize>);

/// One such result; it counts until it is dropped.
struct UnsentResult(UnsentResults);

impl UnsentResults {
    fn add(&self) -> UnsentResult {
        self.0.fetch_add(1, Ordering::Relaxed);
        UnsentResult(self.clone())
    }
}

impl UnsentResult {
    /// Whether there are other such results.
    fn has_others(&self) -> bool {
        self.0.0.load(Ordering::Relaxed) > 1
    }
}

impl Drop for UnsentResult {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn consume(handler: &ResultHandler) -> Result<(), BrokerError> {
    let process = &handler.process;
    let limit = process.consume.endpoint().timeout();
    let consuming = process.consume.on_channel(|channel| async move {
        let deliveries = ConsumerSettings::new(RESULTS_QUEUE, "results")
            .prefetch(PREFETCH)
            .start(&channel, limit)
            .await?;
        let (handled, tags) = mpsc::channel(usize::from(PREFETCH));
        let in_hand = async move {
            let handled = &handled;
            let each = |delivery: Delivery| async move {
                if handle_until_done(handler, &delivery).await {
                    // If the task that acks has ended, this consumer ends too, and the broker
                    // delivers unacknowledged results again.
                    let _ = handled.send(delivery.delivery_tag).await;
                }
            };
            // Ok, so that the results that are handled are still acknowledged.
            Ok(deliveries.handle_each(PREFETCH, each).await)
        };
        let both = async {
            let (ended, ()) = tokio::try_join!(in_hand, acknowledge(&channel, limit, tags))?;
            ended
        };
        // Results in progress are delivered again, so the next channel must not wait for them.
        process.while_useful(&channel, both).await
    });
    consuming.await
}

/// Why a result stays unacknowledged.
#[derive(Debug, thiserror::Error)]
enum NotHandled {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    History(#[from] NotRead),
    #[error("the result of task {0} is not in the history yet")]
    NotYetKept(TaskId),
    #[error(transparent)]
    Reply(#[from] NotDelivered),
}

impl NotHandled {
    fn log_retry(&self) {
        let text = "failed to handle a result; trying again";
        match self {
            Self::Broker(error) | Self::Reply(NotDelivered::Broker(error)) => {
                log_broker_error(error, text)
            }
            Self::Log(_) => tracing::warn!(error = %self, "{text}"),
            // The history's reader and the reply sender report these problems themselves.
            Self::History(_) | Self::NotYetKept(_) | Self::Reply(NotDelivered::Waits(_)) => {
                tracing::debug!(error = %self, "{text}")
            }
        }
    }
}

/// Retries without returning the message: the broker would count a return. If the channel is closed
/// the broker delivers the message again: then returns false.
async fn handle_until_done(handler: &ResultHandler, delivery: &Delivery) -> bool {
    point(Point::ResultTaken);
    let mut backoff = Backoff::default();
    let mut progress = DeliveryProgress {
        arrived: Instant::now(),
        kept: false,
    };
    while let Err(error) = handle(handler, delivery, &mut progress).await {
        if !delivery.acker.usable() || handler.process.shutdown.is_cancelled() {
            return false;
        }
        error.log_retry();
        backoff.wait().await;
    }
    true
}

/// The progress that earlier tries have made.
struct DeliveryProgress {
    arrived: Instant,
    /// The result is in the history.
    kept: bool,
}

async fn handle(
    handler: &ResultHandler,
    delivery: &Delivery,
    progress: &mut DeliveryProgress,
) -> Result<(), NotHandled> {
    if headers::text(delivery.properties.kind()) == Some(headers::REPEAT) {
        return repeat(handler, delivery, progress.arrived).await;
    }
    let process = &handler.process;
    match serde_json::from_slice::<ResultMessage>(&delivery.data) {
        Ok(result) => {
            let unsent = handler.unsent.add();
            let due = decide(process, &result, unsent.has_others()).await?;
            point(Point::OutcomeWritten);
            deliver(handler, delivery, &result, due, progress, unsent).await?;
            point(Point::ResultDelivered);
        }
        Err(error) => {
            tracing::error!(%error, "a message in `results` is not a result; moving it to pool.dead");
            let reason = format!("invalid_result: {error}");
            let info = DeadLetterInfo::new(reason, RESULTS_QUEUE, wall_clock());
            dead_letter(process, &delivery.data, &delivery.properties, &info).await?;
        }
    }
    Ok(())
}

/// A task was published more than once. Each publisher gets the result, at once or when there is
/// one.
async fn repeat(
    handler: &ResultHandler,
    delivery: &Delivery,
    arrived: Instant,
) -> Result<(), NotHandled> {
    point(Point::RepeatTaken);
    let ResultHandler {
        process,
        history,
        reply_sender,
        ..
    } = handler;
    let id = headers::text(delivery.properties.message_id()).and_then(|id| TaskId::new(id).ok());
    let Some(id) = id.filter(|_| delivery.properties.reply_to().is_some()) else {
        return Ok(());
    };
    let known = process.log.read(|fold| {
        fold.tasks
            .get(&id)
            .map(|state| state.outcome().map(|end| end.status))
    });
    if known == Some(None) {
        let later = wall_clock().plus(ASKED_AGAIN_AFTER);
        let reply = Reply::of(&delivery.properties).unwrap_or_default();
        return Ok(request_result(process, id.as_str(), &reply, Some(later)).await?);
    }
    let outcome = known.flatten();
    if outcome == Some(Status::Cancelled) {
        let body = cancelled(process, &id).await?.to_json();
        return Ok(reply_sender
            .deliver(&delivery.properties, arrived, id.as_str(), &body)
            .await?);
    }
    let entry = history.wait_for_result(&id, IN_HISTORY_WITHIN).await?;
    let Some(offset) = entry.and_then(|entry| entry.result_at) else {
        // The log has an outcome before the history does. After the wait, the result is too old for
        // the history.
        if arrived.elapsed() < IN_HISTORY_AT_ALL {
            return Err(NotHandled::NotYetKept(id));
        }
        tracing::warn!(task_id = %id, "the requested result is not in the history");
        return Ok(());
    };
    match history.body(offset).await? {
        Some(body) => Ok(reply_sender
            .deliver(&delivery.properties, arrived, id.as_str(), &body)
            .await?),
        None => Ok(()),
    }
}

/// The result of a cancelled task, made from the log. The worker appends the usage of the stopped
/// attempt before it requests this result. Reading back an event of our own makes sure that the
/// usage has been read too.
async fn cancelled(process: &Process, task: &TaskId) -> Result<ResultMessage, LogError> {
    process.log.append(Event::Pool(PoolEvent::Tick)).await?;
    Ok(ResultMessage::cancelled(
        task.clone(),
        process.log.read(|fold| fold.tasks.usage(task)),
    ))
}

/// Writes the result to the history if it is the outcome, and sends it to the submitter, byte for
/// byte. Both are confirmed before the result is acked; neither waits for the other.
async fn deliver(
    handler: &ResultHandler,
    delivery: &Delivery,
    result: &ResultMessage,
    due: Disposition,
    progress: &mut DeliveryProgress,
    unsent: UnsentResult,
) -> Result<(), NotHandled> {
    let (properties, arrived) = (&delivery.properties, progress.arrived);
    let id = match (due, &result.task_id) {
        (Disposition::Repeat, _) => return repeat(handler, delivery, arrived).await,
        (Disposition::Cancelled, Some(task)) => {
            let body = cancelled(&handler.process, task).await?.to_json();
            return Ok(handler
                .reply_sender
                .deliver(properties, arrived, task.as_str(), &body)
                .await?);
        }
        (Disposition::Reply | Disposition::Outcome | Disposition::Cancelled, id) => {
            id.as_ref().map_or("", TaskId::as_str)
        }
    };
    let keep = async {
        let kept = match due {
            Disposition::Outcome if !progress.kept => {
                handler
                    .history
                    .add_result(result.task_id.as_ref(), &delivery.data)
                    .await
            }
            Disposition::Outcome
            | Disposition::Reply
            | Disposition::Cancelled
            | Disposition::Repeat => Ok(()),
        };
        point(Point::ResultKept);
        kept
    };
    let tell = async {
        let told = handler
            .reply_sender
            .deliver(properties, arrived, id, &delivery.data)
            .await;
        drop(unsent);
        point(Point::ResultReplied);
        told
    };
    // Start with the reply: the submitter waits for it.
    let (told, kept) = tokio::join!(tell, keep);
    progress.kept = kept.is_ok();
    kept?;
    Ok(told?)
}
