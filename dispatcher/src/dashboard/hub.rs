//! The event stream that all open pages share. One producer compares the pool with its last state a
//! few times a second and sends the changes. Pages only receive, so many pages cost little more
//! than one. Without pages the producer does nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_api::events::{Changed, Live};
use pool_core::id::TaskId;
use pool_core::result::Status;
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::queue_depths::{Depths, queue_depths};
use crate::views::Reader;
use crate::views::journal::ChangedSince;

/// The interval between two comparisons.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the broker is asked for the queue lengths.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Above this number of changed tasks, pages are told only that there are many. They request the
/// tasks they show.
const MOST_TASKS: usize = 100;
/// The number of messages kept for pages that reconnect.
const KEPT: usize = 64;

/// One event of the stream. `data` is JSON.
#[derive(Debug, Clone)]
pub struct HubMessage {
    pub number: u64,
    pub name: &'static str,
    pub data: Arc<str>,
}

struct Sent {
    last: VecDeque<HubMessage>,
    number: u64,
    state: Arc<str>,
    looked_at: Option<Instant>,
}

struct Inner {
    sender: broadcast::Sender<HubMessage>,
    sent: Mutex<Sent>,
    counted: Mutex<Counted>,
    counting: AtomicBool,
    /// Identifies this process: another process numbers its messages differently.
    process: String,
}

/// The broker's last answer.
#[derive(Debug, Clone, Default)]
struct Counted {
    depths: Depths,
    dead: Option<u32>,
    at: Option<Instant>,
}

/// The hub. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

/// The beginning of a page's stream.
pub struct Joined {
    /// The state, for a page that is new or has missed too much.
    pub state: Option<HubMessage>,
    pub missed: Vec<HubMessage>,
    pub then: broadcast::Receiver<HubMessage>,
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
    pub fn id(&self, message: &HubMessage) -> String {
        format!("{}.{}", self.0.process, message.number)
    }

    /// Subscribes a page to all further messages. `last` is the id of the last message it received.
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

    /// The state, for a page that fell behind.
    pub fn state(&self) -> HubMessage {
        whole(&self.sent())
    }

    /// Produces messages until the process ends.
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

    /// Takes the pool's state, unless that was done a moment ago, and sends it if it has changed.
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
        let message = HubMessage {
            number: sent.number,
            name,
            data,
        };
        sent.last.push_back(message.clone());
        if sent.last.len() > KEPT {
            sent.last.pop_front();
        }
        // Sent under the lock, so that a page that joins neither misses nor repeats a message. An
        // error means that no page is open.
        let _ = self.0.sender.send(message);
    }

    /// Runs beside the producer, so that the producer never waits for the broker.
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
        // The value is valid at every moment, so a panic elsewhere does not spoil it.
        self.0.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole state with the number of the last message, so that the next messages continue it.
fn whole(sent: &Sent) -> HubMessage {
    HubMessage {
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
        ChangedSince::These(tasks) if tasks.len() <= MOST_TASKS => Changed {
            many: false,
            tasks: tasks.iter().filter_map(|task| reader.task(task)).collect(),
        },
        ChangedSince::These(_) | ChangedSince::Many => Changed {
            many: true,
            tasks: Vec::new(),
        },
    };
    serde_json::to_string(&changed).unwrap_or_default()
}
