//! Takes tasks in: into the history, into the log, into their queue; only then is the submitter told yes.

pub mod queue_limits;
pub(crate) mod resubmit;

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt, stream};
use pool_broker::BrokerError;
use pool_broker::event_log::LogError;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{Keeps, Reply, task_properties};
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::TASKS;
use pool_core::event::Decision;
use pool_core::id::TaskId;
use pool_core::routing::{Unroutable, routing_key};
use pool_core::state::{Refusal, TaskState, Verdict};
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;

use crate::history::{History, Kind};
use queue_limits::{QueueFull, QueueLimits, Slot, Wanted};

/// Submissions that are written at the same time.
const AT_ONCE: usize = 64;

/// Why a task was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error(transparent)]
    Unroutable(#[from] Unroutable),
    #[error("the id {0} is taken by a task with another body; use a new id")]
    IdConflict(TaskId),
    #[error("not accepted: {0}; submit it again with the same id")]
    Broker(#[from] BrokerError),
    #[error("not accepted: {0}; submit it again with the same id")]
    Log(#[from] LogError),
    /// Of a list, after the broker did not answer for another one.
    #[error(
        "not tried, because the broker did not answer for another one; submit it again with the same id"
    )]
    NotTried,
}

/// A task that was taken, now or before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub id: TaskId,
    /// The same id with the same body had been taken before: nothing was done.
    pub repeated: bool,
}

/// The door of the dispatcher. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    process: Process,
    history: History,
    limits: QueueLimits,
}

impl Intake {
    /// `max_queue_per_programmer` is the number of tasks that may wait for each programmer of a route; None: any number.
    pub fn new(process: Process, history: History, max_queue_per_programmer: Option<u32>) -> Self {
        Self {
            process,
            history,
            limits: QueueLimits::new(max_queue_per_programmer),
        }
    }

    /// Places for these prepared tasks, all or none. What is known already needs none.
    ///
    /// # Errors
    /// [`QueueFull`]: which routes are full, and which of the tasks would fit.
    pub fn slots(&self, tasks: &[Task]) -> Result<Vec<Option<Slot>>, QueueFull> {
        self.slots_unless(tasks, |_| true)
    }

    /// A slot for a task that is to wait once more. One that waits already has its slot.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn slot_again(&self, task: &Task) -> Result<Option<Slot>, QueueFull> {
        let waits = |known: &TaskState| known.owner.is_none() && known.submitted_at.is_some();
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
                let needs = !fold.tasks.get(&task.id).is_some_and(&has_slot);
                needs.then(|| Wanted {
                    route: route.name.clone(),
                    programmers: route.eligible.len(),
                })
            };
            let wanted: Vec<Option<Wanted>> = tasks.iter().map(wanted).collect();
            self.limits.take(&wanted, |route| fold.tasks.waiting(route))
        })
    }

    /// Gives the task an id if it has none, and checks whether anybody could do it, before anything is written.
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

    /// Takes one prepared task; `reply` says where its result is to go besides the history. Safe to repeat with the same
    /// task. Once it has begun it must not be cut off: whoever calls it for a client that may go away spawns it.
    ///
    /// # Errors
    /// When the broker or the log did not confirm a step, or somebody else took the id meanwhile.
    pub async fn take(
        &self,
        task: Task,
        slot: Option<Slot>,
        reply: &Reply,
    ) -> Result<Taken, NotTaken> {
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
                .map(|state| state.published || state.outcome.is_some())
        });
        if known == Some(true) {
            return Ok(Taken {
                id: task.id,
                repeated: true,
            });
        }
        self.history.add(Kind::Task, Some(&task.id), &body).await?;
        point(Point::TaskKept);
        let submitted = Decision::Submitted {
            task: task.id.clone(),
            body_hash: task.body_hash(),
            route,
            deadline_ms: task.message.limits.deadline.map(|deadline| deadline.0),
        };
        match self.process.log.append(submitted).await? {
            Verdict::Accepted => {}
            // A submission that was cut off before it was published: finish it.
            Verdict::Refused(Refusal::Taken { same_body: true }) => {}
            Verdict::Refused(_) => return Err(NotTaken::IdConflict(task.id)),
        }
        point(Point::Submitted);
        // From here on the log counts it.
        drop(slot);
        self.publish(&task, &body, reply).await?;
        Ok(Taken {
            id: task.id,
            repeated: known.is_some(),
        })
    }

    /// The same for many, without a reply queue. Gathered: one that is not taken does not cut off those that have begun. Others
    /// are not begun any more when the broker does not answer: each would wait for it as long as the first.
    pub async fn take_all(&self, tasks: Vec<(Task, Option<Slot>)>) -> Vec<Result<Taken, NotTaken>> {
        let silent = AtomicBool::new(false);
        let taking = stream::iter(tasks).map(|(task, slot)| async {
            if silent.load(Ordering::Relaxed) {
                return Err(NotTaken::NotTried);
            }
            let taken = self.take(task, slot, &Reply::default()).await;
            if let Err(NotTaken::Broker(_) | NotTaken::Log(_)) = &taken {
                silent.store(true, Ordering::Relaxed);
            }
            taken
        });
        taking.buffered(AT_ONCE).collect().await
    }

    /// A task that was taken before its deadline passed: who repeats it, because no answer came, hears how it stands.
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
        let properties = reply.on(task_properties(
            task.id.as_str(),
            0,
            Keeps::of_task(&task.message, Some(wall_clock())),
        ));
        let message = Message {
            exchange: TASKS,
            key: &key,
            body,
            properties,
            mandatory: true,
        };
        self.process.publisher.publish(message).await?;
        point(Point::Queued);
        self.process
            .log
            .append(Decision::Published {
                task: task.id.clone(),
                generation: 0,
            })
            .await?;
        point(Point::Published);
        tracing::debug!(task_id = %task.id, %key, "a task was taken");
        Ok(())
    }
}

/// An id that sorts by the time it was made.
pub fn new_id() -> TaskId {
    let text = format!("t-{}", uuid::Uuid::now_v7().simple());
    // A UUID in hexadecimal behind `t-` fits the pattern of task ids.
    TaskId::new(text).unwrap_or_else(|_| unreachable!("a UUID is a task id"))
}
