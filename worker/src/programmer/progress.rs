//! What an agent and the acceptance checks print, told to whoever watches while they run: pieces of it into `pool.history`,
//! from where only dispatchers read.
//!
//! For looking at only. So nobody waits for it, an attempt tells at most once a second and not without end, and
//! when the broker is slow the pieces are dropped. An attempt that is over within a second tells nothing: its result has
//! the end of its output.

use std::collections::VecDeque;
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
        let pieces = lock(buffer).take(end);
        let some = !pieces.is_empty();
        for Piece { check, skipped, text } in pieces {
            let lost = skipped + text.len() as u64;
            let progress = Progress { attempt, programmer: self.programmer.clone(), check, skipped, text };
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

/// What was printed and not sent yet.
#[derive(Debug, Default)]
struct Buffer {
    /// Who has printed it, one after another; only the last one goes on.
    parts: VecDeque<Part>,
    /// Bytes of all parts.
    waiting: usize,
    /// Of the whole attempt.
    sent: usize,
}

#[derive(Debug, Default)]
struct Part {
    check: Option<String>,
    bytes: Vec<u8>,
    /// What did not fit, since the last piece.
    skipped: u64,
    /// A check is told of before it has printed anything.
    untold: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Piece {
    check: Option<String>,
    skipped: u64,
    text: String,
}

impl Buffer {
    fn begin(&mut self, check: Option<String>) {
        self.parts.push_back(Part { untold: check.is_some(), check, ..Part::default() });
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = PIECE_BYTES.min(ATTEMPT_BYTES - self.sent).saturating_sub(self.waiting);
        let kept = bytes.len().min(room);
        let Some(part) = self.parts.back_mut() else { return };
        part.bytes.extend_from_slice(&bytes[..kept]);
        part.skipped += (bytes.len() - kept) as u64;
        self.waiting += kept;
    }

    /// So many bytes will not be seen.
    fn lose(&mut self, bytes: u64) {
        if let Some(part) = self.parts.back_mut() {
            part.skipped += bytes;
        }
    }

    /// Whole lines where there are some, whole characters always.
    fn take(&mut self, end: bool) -> Vec<Piece> {
        let (mut pieces, before) = (Vec::new(), self.waiting);
        while let Some(mut part) = self.parts.pop_front() {
            let goes_on = self.parts.is_empty() && !end;
            pieces.extend(part.take(!goes_on));
            if goes_on {
                self.parts.push_front(part);
                break;
            }
        }
        self.waiting = self.parts.iter().map(|part| part.bytes.len()).sum();
        self.sent += before - self.waiting;
        pieces
    }
}

impl Part {
    fn take(&mut self, end: bool) -> Option<Piece> {
        let whole = match (end, self.bytes.iter().rposition(|byte| *byte == b'\n')) {
            (false, Some(line)) if self.skipped == 0 => line + 1,
            (true | false, _) => whole_characters(&self.bytes, end),
        };
        let rest = self.bytes.split_off(whole);
        let taken = std::mem::replace(&mut self.bytes, rest);
        if taken.is_empty() && !self.untold {
            return None;
        }
        self.untold = false;
        let text = String::from_utf8_lossy(&taken).into_owned();
        Some(Piece { check: self.check.clone(), skipped: std::mem::take(&mut self.skipped), text })
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

    fn of_agent() -> Buffer {
        let mut buffer = Buffer::default();
        buffer.begin(None);
        buffer
    }

    fn texts(pieces: Vec<Piece>) -> Vec<String> {
        pieces.into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn pieces_are_whole_lines_and_characters() {
        let mut buffer = of_agent();
        assert!(buffer.take(false).is_empty(), "nothing yet");
        buffer.push(b"one\ntw");
        assert_eq!(texts(buffer.take(false)), ["one\n"], "a line");
        buffer.push("o ä".as_bytes().split_at(3).0);
        assert_eq!(texts(buffer.take(false)), ["two "], "a character is not split");
        assert_eq!(texts(buffer.take(true)), ["\u{fffd}"], "at the end all that there is");
    }

    #[test]
    fn each_piece_says_who_has_printed_it_and_a_check_is_told_of_before_it_prints() {
        let mut buffer = of_agent();
        buffer.push(b"edits, and no line end");
        buffer.begin(Some("tests".to_owned()));
        let piece = |check: Option<&str>, text: &str| Piece {
            check: check.map(ToOwned::to_owned),
            skipped: 0,
            text: text.to_owned(),
        };
        let begun = [piece(None, "edits, and no line end"), piece(Some("tests"), "")];
        assert_eq!(buffer.take(false), begun, "all of the agent, and the check has begun");
        assert!(buffer.take(false).is_empty(), "that is told once");
        buffer.push(b"1 passed\n");
        buffer.begin(Some("lint".to_owned()));
        buffer.begin(None);
        buffer.push(b"again\n");
        let rest = [piece(Some("tests"), "1 passed\n"), piece(Some("lint"), ""), piece(None, "again\n")];
        assert_eq!(buffer.take(false), rest, "one after another");
    }

    #[test]
    fn an_attempt_cannot_tell_without_end() {
        let mut buffer = of_agent();
        buffer.push(&vec![b'x'; PIECE_BYTES + 10]);
        let [piece] = &buffer.take(false)[..] else { panic!("a piece") };
        assert_eq!(
            (piece.skipped, piece.text.len()),
            (10, PIECE_BYTES),
            "it has a limit, and what is left out is counted"
        );
        let mut told = piece.text.len();
        for _ in 0..100 {
            buffer.push(&vec![b'x'; PIECE_BYTES]);
            told += texts(buffer.take(false)).concat().len();
        }
        assert_eq!(told, ATTEMPT_BYTES, "and so has an attempt");
    }
}
