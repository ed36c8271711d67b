//! Accepts tasks: writes them to the history, to the event log and into their queue, and only then
//! confirms the submission.

mod order;
pub mod queue_limits;
pub(crate) mod resubmit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt, stream};
use pool_api::problem::QueueFull;
use pool_broker::BrokerError;
use pool_broker::event_log::LogError;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{Keeps, Reply};
use pool_broker::process::Process;
use pool_broker::steps::{OutgoingTask, publish_task};
use pool_core::event::{Event, TaskSubmitted};
use pool_core::expected::Expected;
use pool_core::id::TaskId;
use pool_core::pool::Pool;
use pool_core::routing::{Unroutable, routing_key};
use pool_core::state::{Refusal, TaskState, Verdict};
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;
use pool_telemetry::clock::{new_id, wall_clock};

use crate::history::History;
use order::{PublishPlace, RouteLlms, places, route_llms};
use queue_limits::{QueueLimits, Slot, Wanted};

/// How many tasks are submitted at the same time.
const AT_ONCE: usize = 64;

/// Why a task was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error(transparent)]
    Unroutable(#[from] Unroutable),
    #[error("another task with a different body has the id {0}; use a new id")]
    IdConflict(TaskId),
    #[error("not accepted: {0}; submit it again with the same id")]
    Broker(#[from] BrokerError),
    #[error("not accepted: {0}; submit it again with the same id")]
    Log(#[from] LogError),
    /// The task was in a list in which the broker did not answer for another one.
    #[error(
        "not tried, because the broker did not answer for another task; submit it again with the same id"
    )]
    NotTried,
}

/// An accepted task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedTask {
    pub id: TaskId,
    /// The same id with the same body had been accepted before: nothing was done.
    pub repeated: bool,
}

/// Accepts tasks. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    process: Process,
    history: History,
    limits: QueueLimits,
    route_llms: Arc<RouteLlms>,
}

impl Intake {
    pub fn new(process: Process, history: History, pool: &Pool) -> Self {
        Self {
            route_llms: Arc::new(route_llms(pool, &process.routes)),
            process,
            history,
            limits: QueueLimits::new(pool.load_balancing.max_queue_per_programmer),
        }
    }

    /// Reserves places for these prepared tasks, for all or none. Tasks that are known already need
    /// no place.
    ///
    /// # Errors
    /// [`QueueFull`]: which routes are full, and which of the tasks would fit.
    pub fn slots(&self, tasks: &[Task]) -> Result<Vec<Option<Slot>>, QueueFull> {
        self.slots_unless(tasks, |_| true)
    }

    /// Reserves a slot for a task that will wait once more. A task that waits already has a slot.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn slot_again(&self, task: &Task) -> Result<Option<Slot>, QueueFull> {
        let waits = |known: &TaskState| known.owner().is_none() && known.submitted_at.is_some();
        self.slots_unless(std::slice::from_ref(task), waits)
            .map(|mut slots| slots.pop().flatten())
    }

    /// `has_slot` says whether a known task needs none.
    fn slots_unless(
        &self,
        tasks: &[Task],
        has_slot: impl Fn(&TaskState) -> bool,
    ) -> Result<Vec<Option<Slot>>, QueueFull> {
        self.process.log.read(|fold| {
            let wanted = |task: &Task| {
                let route = self.process.routes.route(&task.message.capabilities).ok()?;
                let needs = !fold.tasks.get(&task.id).as_deref().is_some_and(&has_slot);
                needs.then(|| Wanted {
                    route: route.name.clone(),
                    programmers: route.eligible.len(),
                })
            };
            let wanted: Vec<Option<Wanted>> = tasks.iter().map(wanted).collect();
            self.limits.take(&wanted, |route| fold.tasks.waiting(route))
        })
    }

    /// Gives the task an id if it has none, and checks that a programmer can do it, before anything
    /// is written.
    ///
    /// # Errors
    /// [`NotTaken::Unroutable`] or [`NotTaken::IdConflict`].
    pub fn prepare(&self, message: TaskMessage) -> Result<Task, NotTaken> {
        self.process.routes.route(&message.capabilities)?;
        let id = match &message.id {
            Some(id) => id.clone(),
            None => new_id(),
        };
        let task = Task::new(id, message);
        let hash = task.body_hash();
        let known = self.process.log.read(|fold| {
            fold.tasks
                .get(&task.id)
                .map(|state| state.body_hash.clone())
        });
        match known {
            Some(known) if known.as_ref() != Some(&hash) => Err(NotTaken::IdConflict(task.id)),
            Some(_) | None => Ok(task),
        }
    }

    /// Submits one prepared task; `reply` says where its result goes besides the history. Safe to
    /// repeat with the same task. Must not be cancelled once it has begun: a caller whose client
    /// may disconnect spawns it.
    ///
    /// # Errors
    /// When the broker or the log did not confirm a step, or another task took the id meanwhile.
    pub async fn take(
        &self,
        task: Task,
        slot: Option<Slot>,
        reply: &Reply,
    ) -> Result<AcceptedTask, NotTaken> {
        self.take_expected(task, slot, reply, None).await
    }

    async fn take_expected(
        &self,
        task: Task,
        slot: Option<Slot>,
        reply: &Reply,
        expected: Option<&Expected>,
    ) -> Result<AcceptedTask, NotTaken> {
        let route = self
            .process
            .routes
            .route(&task.message.capabilities)?
            .name
            .clone();
        let body = task.to_json();
        let known = self.process.log.read(|fold| {
            fold.tasks
                .get(&task.id)
                .map(|state| state.is_published() || state.is_finished())
        });
        if known == Some(true) {
            return Ok(AcceptedTask {
                id: task.id,
                repeated: true,
            });
        }
        self.history.add_task(&task.id, &body, expected).await?;
        point(Point::TaskKept);
        let submitted = Event::from(TaskSubmitted {
            task: task.id.clone(),
            body_hash: task.body_hash(),
            route,
            deadline_ms: task.message.limits.deadline.map(|deadline| deadline.0),
        });
        match self.process.log.append(submitted).await? {
            Verdict::Accepted => {}
            // An earlier submission ended before the task was published: finish it.
            Verdict::Refused(Refusal::Taken { same_body: true }) => {}
            Verdict::Refused(_) => return Err(NotTaken::IdConflict(task.id)),
        }
        point(Point::Submitted);
        // From here on the log counts the task.
        drop(slot);
        self.publish(&task, &body, reply).await?;
        Ok(AcceptedTask {
            id: task.id,
            repeated: known.is_some(),
        })
    }

    /// Takes many tasks, without a reply queue; the answers are in the order of `tasks`. Within each route the longest
    /// expected are published first. One failure does not stop the tasks that have begun. After the broker has failed to
    /// answer once, no further tasks are begun: each would wait as long as the first.
    pub async fn take_all(
        &self,
        tasks: Vec<(Task, Option<Slot>)>,
    ) -> Vec<Result<AcceptedTask, NotTaken>> {
        let places = self.places(&tasks);
        let mut tasks: Vec<_> = tasks.into_iter().map(Some).collect();
        let of_place = |place: PublishPlace| {
            let task = tasks.get_mut(place.index)?.take()?;
            Some((place, task))
        };
        let in_order: Vec<_> = places.into_iter().filter_map(of_place).collect();
        let silent = AtomicBool::new(false);
        let taking = stream::iter(in_order).map(|(place, (task, slot))| {
            let silent = &silent;
            async move {
                if silent.load(Ordering::Relaxed) {
                    return (place.index, Err(NotTaken::NotTried));
                }
                let (reply, expected) = (Reply::default(), place.expected.as_ref());
                let taken = self.take_expected(task, slot, &reply, expected).await;
                if let Err(NotTaken::Broker(_) | NotTaken::Log(_)) = &taken {
                    silent.store(true, Ordering::Relaxed);
                }
                (place.index, taken)
            }
        });
        let mut answers: Vec<_> = taking.buffered(AT_ONCE).collect().await;
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// The order in which to publish these tasks. A task alone needs no expectation.
    fn places(&self, tasks: &[(Task, Option<Slot>)]) -> Vec<PublishPlace> {
        let known = tasks.len() > 1;
        let tasks: Vec<&Task> = tasks.iter().map(|(task, _)| task).collect();
        places(&tasks, &self.process.routes, |message, route| {
            let llm = self.route_llms.get(&route.name);
            known.then(|| self.history.expect(message, llm)).flatten()
        })
    }

    /// A task that was taken before its deadline passed. A submitter that got no answer and repeats it
    /// learns its state.
    pub fn taken_before(&self, body: &[u8]) -> Option<TaskMessage> {
        let message = TaskMessage::parse(body, Timestamp::default()).ok()?;
        let task = Task::new(message.id.clone()?, message.clone());
        let known = self
            .process
            .log
            .read(|fold| fold.tasks.get(&task.id)?.body_hash.clone())?;
        (known == task.body_hash()).then_some(message)
    }

    async fn publish(&self, task: &Task, body: &[u8], reply: &Reply) -> Result<(), NotTaken> {
        let key = routing_key(&task.message.capabilities);
        let outgoing = OutgoingTask {
            id: task.id.as_str(),
            generation: 0,
            keeps: Keeps::of_task(&task.message, Some(wall_clock())),
            reply: reply.clone(),
            key: &key,
            body,
        };
        publish_task(&self.process, &outgoing).await?;
        point(Point::Queued);
        self.process
            .log
            .append(Event::published(task.id.clone(), 0))
            .await?;
        point(Point::Published);
        tracing::debug!(task_id = %task.id, %key, "a task was submitted");
        Ok(())
    }
}
