//! What all open pages hear. One producer looks at the pool a few times a second and says what has changed; pages only
//! listen, so many of them cost hardly more than one, and while there is none nobody looks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_core::id::TaskId;
use pool_core::result::Status;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::queue_depths::{Depths, queue_depths};
use crate::views::Reader;
use crate::views::journal::Changes;
use crate::views::pool_status::PoolStatus;
use crate::views::tasks::TaskView;

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Queues are counted by asking the broker.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Of more changed tasks it is only said that they are many: pages ask for what they show.
const MOST_TASKS: usize = 100;
/// Messages that a page may have missed and still get.
const KEPT: usize = 64;

/// One event of the stream. `data` is JSON.
#[derive(Debug, Clone)]
pub struct Message {
    pub number: u64,
    pub name: &'static str,
    pub data: Arc<str>,
}

/// The state of the pool as pages and `pool watch` show it: the event `state`.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Live {
    pub status: PoolStatus,
    /// Tasks by status.
    pub counts: BTreeMap<String, u64>,
    /// What is worked on, in its first words.
    pub running: BTreeMap<TaskId, String>,
    /// Messages in `pool.dead`, as far as that is known.
    pub dead: Option<u32>,
}

/// Tasks that have changed: the event `tasks`.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Changed {
    /// They are too many to be told one by one: whoever shows them asks for them.
    pub many: bool,
    pub tasks: Vec<TaskView>,
}

struct Sent {
    last: VecDeque<Message>,
    number: u64,
    state: Arc<str>,
    looked_at: Option<Instant>,
}

struct Inner {
    sender: broadcast::Sender<Message>,
    sent: Mutex<Sent>,
    counted: Mutex<Counted>,
    counting: AtomicBool,
    /// Numbers of another process mean other messages.
    process: String,
}

/// What the broker said last.
#[derive(Debug, Clone, Default)]
struct Counted {
    depths: Depths,
    dead: Option<u32>,
    at: Option<Instant>,
}

/// The hub. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

/// What a page gets when it connects.
pub struct Joined {
    /// The state, for one that is new or has missed too much.
    pub state: Option<Message>,
    pub missed: Vec<Message>,
    pub then: broadcast::Receiver<Message>,
}

impl Hub {
    pub fn new(process: String) -> Self {
        let (sender, _) = broadcast::channel(KEPT);
        let sent = Sent {
            last: VecDeque::new(),
            number: 0,
            state: "{}".into(),
            looked_at: None,
        };
        let (sent, counted) = (Mutex::new(sent), Mutex::default());
        Self(Arc::new(Inner {
            sender,
            sent,
            counted,
            counting: AtomicBool::new(false),
            process,
        }))
    }

    /// The id of a message in the stream.
    pub fn id(&self, message: &Message) -> String {
        format!("{}.{}", self.0.process, message.number)
    }

    /// From here on a page hears everything; `last` is the id of the last message that it had.
    pub fn join(&self, reader: &Reader, last: Option<&str>) -> Joined {
        let number = last
            .and_then(|id| id.split_once('.'))
            .filter(|(process, _)| *process == self.0.process);
        let number: Option<u64> = number.and_then(|(_, number)| number.parse().ok());
        self.refresh(reader);
        let sent = self.sent();
        let then = self.0.sender.subscribe();
        let oldest = sent
            .last
            .front()
            .map_or(sent.number + 1, |message| message.number);
        match number.filter(|number| *number + 1 >= oldest && *number <= sent.number) {
            Some(number) => {
                let missed = sent
                    .last
                    .iter()
                    .filter(|message| message.number > number)
                    .cloned()
                    .collect();
                Joined {
                    state: None,
                    missed,
                    then,
                }
            }
            None => Joined {
                state: Some(whole(&sent)),
                missed: Vec::new(),
                then,
            },
        }
    }

    /// The state, for a page that was too slow.
    pub fn state(&self) -> Message {
        whole(&self.sent())
    }

    /// Looks until the process ends.
    pub async fn run(self, reader: Reader) {
        let mut every = interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut version = reader.journal.version();
        loop {
            tokio::select! {
                () = reader.process.shutdown.cancelled() => return,
                _ = every.tick() => {}
            }
            if self.0.sender.receiver_count() == 0 {
                continue;
            }
            self.count_queues(&reader);
            self.refresh(&reader);
            let now = reader.journal.version();
            if now != version {
                self.say("tasks", changed_tasks(&reader, version).into());
                version = now;
            }
        }
    }

    /// Looks at the pool, unless that was done a moment ago, and says so if it is another.
    fn refresh(&self, reader: &Reader) {
        let fresh = |at: Instant| at.elapsed() < LOOK_EVERY / 2;
        if self.sent().looked_at.is_some_and(fresh) {
            return;
        }
        let counted = self.counted().clone();
        let state: Arc<str> = serde_json::to_string(&look(reader, &counted))
            .unwrap_or_default()
            .into();
        let mut sent = self.sent();
        sent.looked_at = Some(Instant::now());
        if sent.state != state {
            sent.state = Arc::clone(&state);
            drop(sent);
            self.say("state", state);
        }
    }

    fn say(&self, name: &'static str, data: Arc<str>) {
        let mut sent = self.sent();
        sent.number += 1;
        let message = Message {
            number: sent.number,
            name,
            data,
        };
        sent.last.push_back(message.clone());
        if sent.last.len() > KEPT {
            sent.last.pop_front();
        }
        // Under the lock, so that whoever joins misses nothing and hears nothing twice. Without pages nobody hears it.
        let _ = self.0.sender.send(message);
    }

    /// Beside the producer, which never waits for the broker.
    fn count_queues(&self, reader: &Reader) {
        if self
            .counted()
            .at
            .is_some_and(|at| at.elapsed() < COUNT_EVERY)
            || self.0.counting.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let (hub, process) = (self.clone(), reader.process.clone());
        tokio::spawn(async move {
            let (depths, dead) = (
                queue_depths(&process).await,
                crate::dead::count(&process).await,
            );
            let mut counted = hub.counted();
            *counted = Counted {
                depths,
                dead: dead.or(counted.dead),
                at: Some(Instant::now()),
            };
            drop(counted);
            hub.0.counting.store(false, Ordering::Release);
        });
    }

    fn counted(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.0
            .counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, Sent> {
        // Valid at every instant, so a panic elsewhere does not spoil it.
        self.0.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With the number of the last message, so that what follows follows it.
fn whole(sent: &Sent) -> Message {
    Message {
        number: sent.number,
        name: "state",
        data: Arc::clone(&sent.state),
    }
}

fn look(reader: &Reader, counted: &Counted) -> Live {
    let heard = reader.heard();
    let tasks: Vec<TaskId> = reader.process.log.read(|fold| {
        let running = fold
            .tasks
            .running()
            .filter(|(_, owner)| !heard.has_lost(fold, owner));
        running.map(|(task, _)| task.clone()).collect()
    });
    let running = tasks.len() as u64;
    let status = reader.pool_status_with(&counted.depths);
    let named = |(status, count): (Status, u64)| (status.as_str().to_owned(), count);
    let mut counts: BTreeMap<String, u64> = reader.journal.ended().into_iter().map(named).collect();
    counts.insert(
        "queued".to_owned(),
        (status.open_tasks as u64).saturating_sub(running),
    );
    counts.insert("running".to_owned(), running);
    let words = |task: TaskId| {
        (
            reader.history.entry(&task).unwrap_or_default().summary,
            task,
        )
    };
    let running = tasks
        .into_iter()
        .map(words)
        .map(|(summary, task)| (task, summary))
        .collect();
    Live {
        status,
        counts,
        running,
        dead: counted.dead,
    }
}

fn changed_tasks(reader: &Reader, version: u64) -> String {
    let changed = match reader.journal.changed_since(version) {
        Changes::These(tasks) if tasks.len() <= MOST_TASKS => Changed {
            many: false,
            tasks: tasks.iter().filter_map(|task| reader.task(task)).collect(),
        },
        Changes::These(_) | Changes::Many => Changed {
            many: true,
            tasks: Vec::new(),
        },
    };
    serde_json::to_string(&changed).unwrap_or_default()
}
