//! Takes tasks in: into the history, into the log, into their queue; only then is the submitter told yes.

use pool_shared::broker::BrokerError;
use pool_shared::broker::headers::task_properties;
use pool_shared::broker::log::LogError;
use pool_shared::broker::process::Process;
use pool_shared::broker::publisher::Message;
use pool_shared::broker::topology::TASKS;
use pool_shared::event::Decision;
use pool_shared::fault::{Point, point};
use pool_shared::fold::{Refusal, Verdict};
use pool_shared::id::TaskId;
use pool_shared::routing::{Unroutable, routing_key};
use pool_shared::task::{Task, TaskMessage};
use pool_shared::time::wall_clock;

use crate::history::{History, Kind};

/// Why a task was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error(transparent)]
    Unroutable(#[from] Unroutable),
    #[error("the id {0} is taken by a task with another body; use a new id")]
    IdConflict(TaskId),
    #[error("the task is not accepted: {0}; submit it again with the same id")]
    Broker(#[from] BrokerError),
    #[error("the task is not accepted: {0}; submit it again with the same id")]
    Log(#[from] LogError),
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
}

impl Intake {
    pub fn new(process: Process, history: History) -> Self {
        Self { process, history }
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
        let known = self.process.log.read(|fold| fold.tasks.get(&task.id).map(|state| state.body_hash.clone()));
        match known {
            Some(known) if known.as_ref() != Some(&hash) => Err(NotTaken::IdConflict(task.id)),
            Some(_) | None => Ok(task),
        }
    }

    /// Takes one prepared task. Safe to repeat with the same task.
    ///
    /// # Errors
    /// When the broker or the log did not confirm a step, or somebody else took the id meanwhile.
    pub async fn take(&self, task: Task) -> Result<Taken, NotTaken> {
        let route = self.process.routes.route(&task.message.capabilities)?.name.clone();
        let body = task.to_json();
        let known = self
            .process
            .log
            .read(|fold| fold.tasks.get(&task.id).map(|state| state.published || state.outcome.is_some()));
        if known == Some(true) {
            return Ok(Taken { id: task.id, repeated: true });
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
        self.publish(&task, &body).await?;
        Ok(Taken { id: task.id, repeated: known.is_some() })
    }

    async fn publish(&self, task: &Task, body: &[u8]) -> Result<(), NotTaken> {
        let key = routing_key(&task.message.capabilities);
        let properties = task_properties(task.id.as_str(), 0, Some(wall_clock()));
        let message = Message { exchange: TASKS, key: &key, body, properties, mandatory: true };
        self.process.publisher.publish(message).await?;
        point(Point::Queued);
        self.process.log.append(Decision::Published { task: task.id.clone(), generation: 0 }).await?;
        point(Point::Published);
        tracing::debug!(task_id = %task.id, %key, "a task was taken");
        Ok(())
    }
}

/// An id that sorts by the time it was made.
fn new_id() -> TaskId {
    let text = format!("t-{}", uuid::Uuid::now_v7().simple());
    // A UUID in hexadecimal behind `t-` fits the pattern of task ids.
    TaskId::new(text).unwrap_or_else(|_| unreachable!("a UUID is a task id"))
}
