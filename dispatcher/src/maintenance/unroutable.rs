//! Consumes `pool.unroutable`: tasks whose routing key leads nowhere. The capabilities in the
//! message and in the key decide where it goes. If no programmer offers them all, the task gets a
//! `rejected` result.

use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::BrokerError;
use pool_broker::acks::ack;
use pool_broker::consumer::ConsumerSettings;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{self, Reply};
use pool_broker::process::Process;
use pool_broker::steps::{OutgoingTask, publish_result, publish_task};
use pool_broker::topology::{TASKS, UNROUTABLE};
use pool_core::event::{Event, TaskStarted};
use pool_core::id::{AttemptId, Capability, TaskId};
use pool_core::pool::Pool;
use pool_core::result::{ErrorKind, ResultMessage, Status, TaskFailure};
use pool_core::routing::{CapabilitySet, Routes, parse_routing_key, queue_name, routing_key};
use pool_core::state::{PoolState, Verdict};
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;
use tokio::time::Instant;

use super::configuration;

/// The wait for a key that has a route and came here all the same: its bindings are being changed.
const BINDING_GAP: Duration = Duration::from_secs(1);
const PREFETCH: u16 = 10;
/// Within this time after a declaration nothing is declared again.
const DECLARED_FOR: Duration = Duration::from_secs(5);

/// The way to handle an unroutable message.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// Publish the message with this key; `same` if it came with this key.
    Publish {
        key: String,
        same: bool,
    },
    Reject(TaskFailure),
}

/// `own` are the capabilities that the task itself requires.
fn remedy(routes: &Routes, key: &str, own: &CapabilitySet) -> Remedy {
    let reject = |problem: String| Remedy::Reject(TaskFailure::new(ErrorKind::Unroutable, problem));
    let publish = |required: &CapabilitySet| {
        let sorted = routing_key(required);
        let same = sorted == key;
        Remedy::Publish { key: sorted, same }
    };
    // A key may contain anything, so the task's own requirements are checked and reported first.
    if let Err(unroutable) = routes.route(own) {
        return reject(unroutable.to_string());
    }
    let mut missing = None;
    for of_the_key in [parse_routing_key(key), meant_by(key)]
        .into_iter()
        .flatten()
    {
        let required = &of_the_key | own;
        match routes.route(&required) {
            Ok(_) => return publish(&required),
            Err(unroutable) => missing = Some(unroutable),
        }
    }
    match missing {
        Some(unroutable) => reject(format!(
            "{unroutable}, which its routing key {key:?} requires"
        )),
        None if !own.is_empty() => publish(own),
        None => reject(format!(
            "the routing key {key:?} is not a set of capabilities: publish to {TASKS} with the required capabilities, \
             sorted and joined with `.`, or `any`"
        )),
    }
}

/// Reads the capabilities from a key with capitals, blanks or commas, from the name of a queue, or
/// from an empty key.
fn meant_by(key: &str) -> Option<CapabilitySet> {
    let key = key.trim().to_lowercase();
    let key = key.strip_prefix(&queue_name("")).unwrap_or(&key);
    let words = key.split(|c: char| c == '.' || c == ',' || c.is_whitespace());
    words
        .filter(|word| !word.is_empty() && *word != "any")
        .map(|word| Capability::new(word).ok())
        .collect()
}

/// Consumes until shutdown.
pub async fn run(process: Process, pool: Arc<Pool>) {
    let words = "failed to consume unroutable tasks; trying again";
    process
        .keep_consuming(words, || consume(&process, &pool))
        .await;
}

async fn consume(process: &Process, pool: &Pool) -> Result<(), BrokerError> {
    let limit = process.consume.endpoint().timeout();
    let consuming = process.consume.on_channel(|channel| async move {
        let mut deliveries = ConsumerSettings::new(UNROUTABLE, "unroutable")
            .prefetch(PREFETCH)
            .start(&channel, limit)
            .await?;
        let mut declared = None;
        loop {
            let delivery = deliveries.receive().await?;
            point(Point::UnroutableTaken);
            handle(process, pool, &delivery, &mut declared).await?;
            point(Point::UnroutableHandled);
            ack(&delivery, limit).await?;
        }
    });
    consuming.await
}

/// `declared` is when such a message last made this process declare the topology.
async fn handle(
    process: &Process,
    pool: &Pool,
    delivery: &Delivery,
    declared: &mut Option<Instant>,
) -> Result<(), BrokerError> {
    let message = TaskMessage::parse(&delivery.data, Timestamp::default());
    // The file in force may be another one than this process' own.
    let routes = process
        .log
        .read(|fold| fold.configuration().map(|c| Routes::new(&c.capabilities)));
    let routes = routes.as_ref().unwrap_or(&process.routes);
    let key = delivery.routing_key.as_str();
    let remedy = match &message {
        Ok(message) => remedy(routes, key, &message.capabilities),
        // Any programmer can refuse a message that cannot be read.
        Err(_) => remedy(routes, "", &CapabilitySet::new()),
    };
    match remedy {
        Remedy::Publish { key, same } => {
            // Wait once for all messages of a burst.
            if same && declared.is_none_or(|at| at.elapsed() > DECLARED_FOR) {
                tokio::time::sleep(BINDING_GAP).await;
                // The bindings may also be gone, with a queue that was deleted.
                configuration::declare_again(process, pool).await;
                *declared = Some(Instant::now());
            }
            tracing::info!(%key, "publishing an unroutable task again");
            publish_task(process, &OutgoingTask::passed_on(delivery, &key)).await
        }
        Remedy::Reject(failure) => reject(process, delivery, message.ok(), failure).await,
    }
}

/// A task that was started can only be ended by its owner. That owner is gone, or its message would
/// not be here. So this takes the task over as the next owner would.
async fn inherit(
    process: &Process,
    delivery: &Delivery,
    task: Task,
) -> Result<Option<AttemptId>, BrokerError> {
    let owned = |fold: &PoolState| {
        let state = fold.tasks.get(&task.id)?;
        Some((state.owner()?.programmer.clone(), state.route.clone()))
    };
    let Some((programmer, route)) = process.log.read(owned) else {
        return Ok(None);
    };
    let (attempt, token) = (AttemptId::new(), headers::token(&delivery.properties));
    let body_hash = task.body_hash();
    let started = Event::from(TaskStarted {
        task: task.id,
        attempt,
        programmer,
        token,
        route,
        body_hash,
    });
    match process.log.append(started).await {
        Ok(Verdict::Accepted) => Ok(Some(attempt)),
        // The owner has another message of the task, or an outcome.
        Ok(Verdict::Refused(_)) => Ok(None),
        Err(error) => Err(BrokerError::Log {
            what: "take a task over".to_owned(),
            error,
        }),
    }
}

/// The result takes the way of all results: `results` decides and delivers.
async fn reject(
    process: &Process,
    delivery: &Delivery,
    message: Option<TaskMessage>,
    failure: TaskFailure,
) -> Result<(), BrokerError> {
    let from_property =
        || headers::text(delivery.properties.message_id()).and_then(|id| TaskId::new(id).ok());
    let id = message
        .as_ref()
        .and_then(|message| message.id.clone())
        .or_else(from_property);
    tracing::info!(task_id = id.as_ref().map(TaskId::as_str), reason = %failure.message, "rejected a task");
    let mut result = ResultMessage::without_attempt(id.clone(), Status::Rejected, failure);
    if let (Some(id), Some(message)) = (&id, &message) {
        result.attempt = inherit(process, delivery, Task::new(id.clone(), message.clone())).await?;
        if result.attempt.is_some() {
            result.usage = process.log.read(|fold| fold.tasks.usage(id));
        }
    }
    result.task = message.map(Box::new);
    let reply = Reply::of(&delivery.properties)
        .unwrap_or_else(|_| Reply::without_address(&delivery.properties));
    publish_result(process, &mut result, &reply).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::id::ProgrammerId;
    use std::collections::BTreeMap;

    fn routes() -> Routes {
        let offered = ["fast", "local"]
            .iter()
            .map(|word| Capability::new(*word).expect("a capability"))
            .collect();
        Routes::new(&BTreeMap::from([(
            ProgrammerId::new("001").expect("an id"),
            offered,
        )]))
    }

    #[test]
    fn an_unsorted_key_is_put_right() {
        let expected = Remedy::Publish {
            key: "fast.local".to_owned(),
            same: false,
        };
        assert_eq!(
            remedy(&routes(), "local.fast", &CapabilitySet::new()),
            expected,
            "sorted"
        );
    }

    #[test]
    fn what_nobody_offers_is_rejected_by_name() {
        let own = CapabilitySet::from(
            ["fast", "gpu"].map(|word| Capability::new(word).expect("a capability")),
        );
        let Remedy::Reject(failure) = remedy(&routes(), "fast.gpu", &own) else {
            panic!("nobody offers gpu")
        };
        assert_eq!(
            failure.message, "no programmer offers `gpu`",
            "it names the missing capability"
        );
    }

    #[test]
    fn what_the_task_requires_is_named_and_its_key_only_when_that_is_the_reason() {
        let reason = |capability: &str, key| {
            let own = CapabilitySet::from([Capability::new(capability).expect("a capability")]);
            let Remedy::Reject(failure) = remedy(&routes(), key, &own) else {
                panic!("{key} leads nowhere")
            };
            failure.message
        };
        assert_eq!(
            reason("nosuch", "nosuch.route"),
            "no programmer offers `nosuch`",
            "the task does not require `route`"
        );
        assert_eq!(
            reason("fast", "route"),
            "no programmer offers `route`, which its routing key \"route\" requires",
            "the task alone is routable"
        );
    }

    #[test]
    fn a_key_that_is_no_set_of_capabilities_is_explained() {
        let Remedy::Reject(failure) = remedy(&routes(), "Fast!", &CapabilitySet::new()) else {
            panic!("no capability")
        };
        assert!(
            failure.message.contains("sorted and joined"),
            "{}",
            failure.message
        );
    }
}
