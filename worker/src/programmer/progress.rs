//! What an agent and the acceptance checks print, told to whoever watches while they run: pieces of it into `pool.history`,
//! from where only dispatchers read.
//!
//! For looking at only. So nobody waits for it, an attempt tells at most once a second and not without end, and
//! when the broker is slow the pieces are dropped. An attempt that is over within a second tells nothing: its result has
//! the end of its output.

mod buffer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_broker::headers::json_properties;
use pool_broker::publisher::{Message, Publisher};
use pool_broker::topology::{HISTORY_KEY, LOG};
use pool_core::id::{AttemptId, ProgrammerId, TaskId};
use pool_core::progress::{self, Progress};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::buffer::{Buffer, Piece};
use crate::sandbox::Listener;

/// From one piece to the next.
const EVERY: Duration = Duration::from_secs(1);
/// Pieces of all programmers of this process that wait for the broker.
const WAITING: usize = 64;

/// Publishes pieces, one after another: at most one channel is in use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Teller {
    pieces: mpsc::Sender<(TaskId, Progress)>,
    programmer: ProgrammerId,
}

/// The sender of a process; each programmer gets a [`Teller`] of it.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<(TaskId, Progress)>);

impl Sender {
    /// Sends until `shutdown`.
    pub fn start(publisher: Publisher, shutdown: CancellationToken) -> Self {
        let (sender, mut pieces) = mpsc::channel(WAITING);
        let sending = async move {
            while let Some((task, piece)) = pieces.recv().await {
                publish(&publisher, &task, &piece).await;
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sending => {}
            }
        });
        Self(sender)
    }

    pub fn of(&self, programmer: &ProgrammerId) -> Teller {
        Teller {
            pieces: self.0.clone(),
            programmer: programmer.clone(),
        }
    }
}

async fn publish(publisher: &Publisher, task: &TaskId, piece: &Progress) {
    let Ok(body) = serde_json::to_vec(piece) else {
        return;
    };
    let properties = json_properties()
        .with_type(progress::KIND.into())
        .with_message_id(task.as_str().into());
    let message = Message {
        exchange: LOG,
        key: HISTORY_KEY,
        body: &body,
        properties,
        mandatory: false,
    };
    if let Err(error) = publisher.publish(message).await {
        tracing::debug!(task_id = %task, %error, "a piece of the agent's output is lost");
    }
}

impl Teller {
    /// Tells of one attempt until the [`Telling`] is dropped.
    pub fn tell(&self, task: &TaskId, attempt: AttemptId) -> Telling {
        let telling = Telling {
            buffer: Arc::default(),
            over: Arc::default(),
        };
        let (buffer, over) = (Arc::clone(&telling.buffer), Arc::clone(&telling.over));
        let (teller, task) = (self.clone(), task.clone());
        tokio::spawn(async move {
            let mut every = interval(EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every.tick().await;
            let mut told = false;
            loop {
                let end = tokio::select! {
                    _ = every.tick() => false,
                    () = over.notified() => true,
                };
                if told || !end {
                    told |= teller.send(&buffer, &task, attempt, end);
                }
                if end {
                    return;
                }
            }
        });
        telling
    }

    /// True when there was something to send.
    fn send(&self, buffer: &Mutex<Buffer>, task: &TaskId, attempt: AttemptId, end: bool) -> bool {
        let pieces = lock(buffer).take(end);
        let some = !pieces.is_empty();
        for Piece {
            check,
            skipped,
            text,
            silent,
        } in pieces
        {
            let lost = skipped + text.len() as u64;
            let programmer = self.programmer.clone();
            let progress = Progress {
                attempt,
                programmer,
                check,
                skipped,
                text,
                silent,
            };
            if self.pieces.try_send((task.clone(), progress)).is_err() {
                lock(buffer).lose(lost);
            }
        }
        some
    }
}

/// One attempt as it is told of.
#[derive(Debug)]
pub struct Telling {
    buffer: Arc<Mutex<Buffer>>,
    over: Arc<Notify>,
}

impl Telling {
    /// Hears the agent.
    pub fn agent(&self) -> Listener {
        self.listener(None)
    }

    /// Hears this check, which begins now.
    pub fn check(&self, name: &str) -> Listener {
        self.listener(Some(name.to_owned()))
    }

    fn listener(&self, check: Option<String>) -> Listener {
        lock(&self.buffer).begin(check);
        let buffer = Arc::clone(&self.buffer);
        Arc::new(move |bytes: &[u8]| lock(&buffer).push(bytes))
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.over.notify_one();
    }
}

fn lock(buffer: &Mutex<Buffer>) -> std::sync::MutexGuard<'_, Buffer> {
    // Valid at every instant, so a panic elsewhere does not spoil it.
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}
