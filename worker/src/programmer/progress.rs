//! Live output of agents and acceptance checks, published in pieces to `pool.history`, which only
//! dispatchers read.
//!
//! It is only for watching, so nothing waits for it. An attempt publishes at most once a second and
//! up to a limit, and a slow broker loses pieces. An attempt that is over within a second publishes
//! nothing: its result has the end of its output.

mod buffer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_broker::fault::{Point, point};
use pool_broker::headers::json_properties;
use pool_broker::publisher::{Message, Publisher};
use pool_broker::topology::{HISTORY_KEY, LOG};
use pool_core::id::{AttemptId, ProgrammerId, TaskId};
use pool_core::progress::{self, Progress};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::buffer::{Buffer, Piece};
use crate::sandbox::OutputListener;

/// The time between two pieces of one attempt.
const EVERY: Duration = Duration::from_secs(1);
/// How many pieces of all programmers of this process may wait for the broker.
const WAITING: usize = 64;

/// Publishes the pieces of one programmer. All programmers share one channel. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OutputReporter {
    pieces: mpsc::Sender<(TaskId, Progress)>,
    programmer: ProgrammerId,
}

/// The sender of a process. Each programmer has a [`OutputReporter`] that feeds it.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<(TaskId, Progress)>);

impl Sender {
    /// The sender and the service that publishes until `shutdown`, which the caller runs.
    pub fn new(
        publisher: Publisher,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut pieces) = mpsc::channel(WAITING);
        let sending = async move {
            while let Some((task, piece)) = pieces.recv().await {
                publish(&publisher, &task, &piece).await;
                point(Point::OutputSent);
            }
        };
        let until_shutdown = async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sending => {}
            }
        };
        (Self(sender), until_shutdown)
    }

    pub fn of(&self, programmer: &ProgrammerId) -> OutputReporter {
        OutputReporter {
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
        mandatory: false,
        ..Message::new(LOG, HISTORY_KEY, body, properties)
    };
    if let Err(error) = publisher.publish(&message).await {
        tracing::debug!(task_id = %task, programmer = %piece.programmer, attempt = %piece.attempt, %error, "a piece of an agent's live output was not published");
    }
}

impl OutputReporter {
    /// Publishes the output of one attempt until the [`OutputStream`] is dropped.
    pub fn stream(&self, task: &TaskId, attempt: AttemptId) -> OutputStream {
        let output = OutputStream {
            buffer: Arc::default(),
            over: Arc::default(),
        };
        let (buffer, over) = (Arc::clone(&output.buffer), Arc::clone(&output.over));
        let (reporter, task) = (self.clone(), task.clone());
        tokio::spawn(async move {
            let mut every = interval(EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every.tick().await;
            let mut any_sent = false;
            loop {
                let end = tokio::select! {
                    _ = every.tick() => false,
                    () = over.notified() => true,
                };
                if any_sent || !end {
                    any_sent |= reporter.send(&buffer, &task, attempt, end);
                }
                if end {
                    return;
                }
            }
        });
        output
    }

    /// Sends what is waiting. True if there was something to send.
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

/// The live output of one attempt.
#[derive(Debug)]
pub struct OutputStream {
    buffer: Arc<Mutex<Buffer>>,
    over: Arc<Notify>,
}

impl OutputStream {
    /// A listener for the output of this check, which starts now, or else of the agent.
    pub fn listener(&self, check: Option<&str>) -> OutputListener {
        lock(&self.buffer).begin(check.map(str::to_owned));
        let buffer = Arc::clone(&self.buffer);
        Arc::new(move |bytes: &[u8]| lock(&buffer).push(bytes))
    }
}

impl Drop for OutputStream {
    fn drop(&mut self) {
        self.over.notify_one();
    }
}

fn lock(buffer: &Mutex<Buffer>) -> std::sync::MutexGuard<'_, Buffer> {
    // The buffer is valid at every instant, so a panic elsewhere does not spoil it.
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}
