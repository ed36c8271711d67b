//! Publishes tasks again that have lost their message: the dispatcher died between `submitted` and
//! `published`, the queue was deleted, or the broker lost it.
//!
//! [`due()`] decides, this module acts. Several dispatchers may do so at once: the first `reissued`
//! in the log wins.

pub(crate) mod due;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use pool_broker::BrokerError;
use pool_broker::process::Process;
use pool_broker::steps::{Reissued, reissue};
use pool_broker::topology::RESULTS_QUEUE;
use pool_core::id::TaskId;
use pool_core::pool::Pool;
use pool_core::routing::Route;
use pool_core::time::Timestamp;

use super::configuration;
use crate::history::History;
use crate::queue_depths::{Depth, depth};
use due::{QueueObservation, Repair, RepairCause, due};

pub use due::PresenceTracker;

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How many messages are published at the same time.
const AT_ONCE: usize = 16;

/// Checks and repairs until shutdown.
pub async fn run(
    process: Process,
    pool: Arc<Pool>,
    history: History,
    presence_tracker: Arc<PresenceTracker>,
) {
    let every = LOOK_EVERY.min(pool.dispatcher.repair_after);
    let mut looker = Looker {
        process,
        pool,
        history,
        presence_tracker,
        empty: BTreeMap::new(),
        without_body: HashSet::new(),
    };
    while looker.process.pause(every).await {
        looker.look().await;
    }
}

struct Looker {
    process: Process,
    pool: Arc<Pool>,
    history: History,
    presence_tracker: Arc<PresenceTracker>,
    /// Queues that have been empty at every check since this time.
    empty: BTreeMap<String, Timestamp>,
    /// Tasks that were already reported as lost for good.
    without_body: HashSet<TaskId>,
}

impl Looker {
    async fn look(&mut self) {
        // Before the history has been read, messages would look lost for good.
        let known = self.process.log.is_fresh() && self.history.whole().is_ok();
        let (true, Ok(now)) = (known, self.process.clock.now()) else {
            // Earlier observations say nothing about what happened meanwhile.
            self.empty.clear();
            return;
        };
        self.look_into_queues(now).await;
        let by_route = |(queue, since): (&String, &Timestamp)| {
            queue
                .strip_prefix("tasks.")
                .map(|route| (route.to_owned(), *since))
        };
        let empty_since: BTreeMap<String, Timestamp> =
            self.empty.iter().filter_map(by_route).collect();
        let look = QueueObservation {
            routes: &self.process.routes,
            empty_since: &empty_since,
            results_empty_since: self.empty.get(RESULTS_QUEUE).copied(),
            after: self.pool.dispatcher.repair_after,
        };
        let due = self
            .process
            .log
            .read(|fold| due(fold, &self.presence_tracker, &look, now));
        self.repair(due).await;
    }

    async fn look_into_queues(&mut self, now: Timestamp) {
        let in_use: Vec<String> = self.process.routes.all().iter().map(Route::queue).collect();
        let retired = self
            .process
            .log
            .read(|fold| fold.retired_queues(&self.process.routes));
        let mut missing = Vec::new();
        for queue in in_use.into_iter().chain([RESULTS_QUEUE.to_owned()]) {
            match self.note(&queue, now).await {
                Depth::Missing => missing.push(queue),
                Depth::Ready(_) | Depth::Unknown => {}
            }
        }
        for queue in retired {
            self.note(&queue, now).await;
        }
        if !missing.is_empty() {
            tracing::warn!(
                queues = missing.join(", "),
                "queues are gone; declaring and binding them again"
            );
            configuration::declare_again(&self.process, &self.pool).await;
        }
    }

    async fn note(&mut self, queue: &str, now: Timestamp) -> Depth {
        let depth = depth(&self.process, queue).await;
        match depth {
            Depth::Ready(0) | Depth::Missing => {
                self.empty.entry(queue.to_owned()).or_insert(now);
            }
            Depth::Ready(_) | Depth::Unknown => {
                self.empty.remove(queue);
            }
        }
        depth
    }

    async fn repair(&mut self, due: Vec<Repair>) {
        self.without_body
            .retain(|id| due.iter().any(|repair| repair.task == *id));
        let (process, history) = (&self.process, &self.history);
        let done: Vec<Option<TaskId>> = stream::iter(due)
            .map(|repair| perform(process, history, repair))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for id in done.into_iter().flatten() {
            if !self.without_body.contains(&id) {
                tracing::warn!(task_id = %id, "the message of this task is lost, and the history does not have it: it was published \
                    straight to the broker, or is too old; submit the task again");
                self.without_body.insert(id);
            }
        }
    }
}

/// Returns the task if there is no body to publish.
async fn perform(process: &Process, history: &History, repair: Repair) -> Option<TaskId> {
    let Repair {
        task: id,
        generation,
        cause,
    } = repair;
    let repaired = async {
        let Some(task) = history.task(&id).await? else {
            return Ok(None);
        };
        let known = process.log.read(|fold| {
            fold.tasks
                .get(&id)
                .and_then(|state| state.body_hash.clone())
        });
        if known.is_some_and(|known| known != task.body_hash()) {
            return Ok(None);
        }
        reissue(process, &task, generation).await.map(Some)
    };
    let why = match cause {
        RepairCause::Unpublished => "it was never published",
        RepairCause::Lost => "its message was lost",
    };
    let repaired: Result<Option<Reissued>, BrokerError> = repaired.await;
    match repaired {
        Ok(Some(Reissued::Published(generation))) => {
            tracing::warn!(task_id = %id, generation, why, "a task was published again");
            None
        }
        Ok(Some(Reissued::Overtaken | Reissued::Finished)) => None,
        Ok(None) => Some(id),
        Err(error) => {
            tracing::warn!(task_id = %id, %error, why, "failed to publish a task again; trying later");
            None
        }
    }
}
