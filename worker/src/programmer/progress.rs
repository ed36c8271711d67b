//! What an agent prints, told to whoever watches while it runs: pieces of its output into `pool.history`, from where only
//! dispatchers read.
//!
//! For looking at only. So the agent never waits for it, an attempt tells at most once a second and not without end, and
//! when the broker is slow the pieces are dropped. An attempt that is over within a second tells nothing: its result has
//! the end of its output.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_shared::broker::headers::json_properties;
use pool_shared::broker::publisher::{Message, Publisher};
use pool_shared::broker::topology::{HISTORY_KEY, LOG};
use pool_shared::id::{AttemptId, ProgrammerId, TaskId};
use pool_shared::progress::{self, Progress};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::sandbox::Listener;

/// From one piece to the next.
const EVERY: Duration = Duration::from_secs(1);
/// The most of one piece, and of one attempt.
const PIECE_BYTES: usize = 16 * 1024;
const ATTEMPT_BYTES: usize = 512 * 1024;
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
        Teller { pieces: self.0.clone(), programmer: programmer.clone() }
    }
}

async fn publish(publisher: &Publisher, task: &TaskId, piece: &Progress) {
    let Ok(body) = serde_json::to_vec(piece) else { return };
    let properties = json_properties().with_type(progress::KIND.into()).with_message_id(task.as_str().into());
    let message = Message { exchange: LOG, key: HISTORY_KEY, body: &body, properties, mandatory: false };
    if let Err(error) = publisher.publish(message).await {
        tracing::debug!(task_id = %task, %error, "a piece of the agent's output is lost");
    }
}

impl Teller {
    /// Tells of one attempt until the [`Telling`] is dropped.
    pub fn tell(&self, task: &TaskId, attempt: AttemptId) -> Telling {
        let telling = Telling { buffer: Arc::default(), over: Arc::default() };
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
        let Some((skipped, text)) = lock(buffer).take(end) else { return false };
        let length = text.len() as u64;
        let piece = Progress { attempt, programmer: self.programmer.clone(), skipped, text };
        if self.pieces.try_send((task.clone(), piece)).is_err() {
            lock(buffer).skipped += skipped + length;
        }
        true
    }
}

/// One attempt as it is told of.
#[derive(Debug)]
pub struct Telling {
    buffer: Arc<Mutex<Buffer>>,
    over: Arc<Notify>,
}

impl Telling {
    pub fn listener(&self) -> Listener {
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

/// What was printed and not sent yet.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// What did not fit, since the last piece.
    skipped: u64,
    /// Of the whole attempt.
    sent: usize,
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) {
        let room = PIECE_BYTES.min(ATTEMPT_BYTES - self.sent).saturating_sub(self.bytes.len());
        let kept = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.skipped += (bytes.len() - kept) as u64;
    }

    /// Whole lines where there are some, whole characters always.
    fn take(&mut self, end: bool) -> Option<(u64, String)> {
        if self.bytes.is_empty() {
            return None;
        }
        let whole = match (end, self.bytes.iter().rposition(|byte| *byte == b'\n')) {
            (false, Some(line)) if self.skipped == 0 => line + 1,
            (true | false, _) => whole_characters(&self.bytes, end),
        };
        let rest = self.bytes.split_off(whole);
        let taken = std::mem::replace(&mut self.bytes, rest);
        self.sent += taken.len();
        let skipped = std::mem::take(&mut self.skipped);
        Some((skipped, String::from_utf8_lossy(&taken).into_owned())).filter(|(_, text)| !text.is_empty())
    }
}

/// Without the first bytes of a character whose others are still to come.
fn whole_characters(bytes: &[u8], end: bool) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && !end => error.valid_up_to(),
        Ok(_) | Err(_) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_lines_and_characters() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.take(false), None, "nothing yet");
        buffer.push(b"one\ntw");
        assert_eq!(buffer.take(false), Some((0, "one\n".to_owned())), "a line");
        buffer.push("o ä".as_bytes().split_at(3).0);
        assert_eq!(buffer.take(false), Some((0, "two ".to_owned())), "a character is not split");
        assert_eq!(buffer.take(true), Some((0, "\u{fffd}".to_owned())), "at the end all that there is");
    }

    #[test]
    fn an_attempt_cannot_tell_without_end() {
        let mut buffer = Buffer::default();
        buffer.push(&vec![b'x'; PIECE_BYTES + 10]);
        let (skipped, text) = buffer.take(false).expect("a piece");
        assert_eq!((skipped, text.len()), (10, PIECE_BYTES), "a piece has a limit, and what is left out is counted");
        let mut told = text.len();
        for _ in 0..100 {
            buffer.push(&vec![b'x'; PIECE_BYTES]);
            told += buffer.take(false).map_or(0, |(_, text)| text.len());
        }
        assert_eq!(told, ATTEMPT_BYTES, "and so has an attempt");
    }
}
