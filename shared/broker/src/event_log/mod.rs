//! The event log of a process: it appends events, gives their verdicts, and holds the state that the log amounts to.
//!
//! `appender` publishes batches, `reader` folds the stream, `news` wakes the callers that wait for a task. They share only
//! `Shared`.

mod appender;
mod news;
mod observer;
mod reader;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::{FutureExt, future};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::publisher::Publisher;
use super::service::Service;
use crate::clock::Clock;
use news::News;
pub use observer::Observer;
use observer::Observers;
use pool_core::event::{EmitterId, Event, EventId, PoolEvent};
use pool_core::id::TaskId;
use pool_core::pool::Events;
use pool_core::state::{PoolState, Verdict};
use pool_telemetry::catalog::LOG_APPEND;
use pool_telemetry::clock::new_id;
use pool_telemetry::tasks::Written;

/// How long [`Log::append`] waits until its event is read back.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(30);

/// An event whose place in the log is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The event was not read back within [`APPEND_TIMEOUT`]. It may still be in the log, or get there.
    #[error("append to the event log: the event was not read back within {} s", APPEND_TIMEOUT.as_secs())]
    Timeout,
    /// The log of this process has ended.
    #[error("append to the event log: this process is ending")]
    Closed,
}

/// How current the state of this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The reader works and has read the log to its end once.
    pub caught_up: bool,
    /// When the last message was read.
    pub heard: Instant,
}

/// A caller that waits for an event of this process.
#[derive(Debug)]
struct Waiter {
    verdict: oneshot::Sender<Verdict>,
    /// Counted when the event is accepted.
    written: Option<Written>,
}

/// The callers that wait for events of this process, by sequence number.
#[derive(Debug, Default)]
struct Waiters(Mutex<HashMap<u64, Waiter>>);

impl Waiters {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<u64, Waiter>) -> T) -> T {
        // The map is valid at every instant, so a panic in another thread does not spoil it.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Shared {
    emitter: EmitterId,
    waiters: Waiters,
    news: News,
    fold: RwLock<PoolState>,
    /// The state has a list of all finished tasks.
    with_list: AtomicBool,
    view: watch::Sender<View>,
    /// Notified after each `paused` and `resumed`.
    orders: Notify,
    observer: Observers,
    clock: Arc<Clock>,
}

impl Shared {
    /// The state before the first event.
    fn empty_state(&self) -> PoolState {
        if self.with_list.load(Ordering::Relaxed) {
            PoolState::with_list()
        } else {
            PoolState::new()
        }
    }

    /// Gives the verdict to the waiting caller. When the log is read again, no caller waits any more, so nothing is counted
    /// twice.
    fn resolve(&self, event: EventId, verdict: Verdict) {
        let Some(waiter) = self.waiters.with(|waiters| waiters.remove(&event.seq)) else {
            return;
        };
        if let (Verdict::Accepted, Some(written)) = (verdict, &waiter.written) {
            written.emit(&self.fold.read().unwrap_or_else(PoisonError::into_inner));
        }
        // The caller may have given up waiting.
        let _ = waiter.verdict.send(verdict);
    }
}

struct Pending {
    decision: Event,
    verdict: oneshot::Sender<Verdict>,
}

/// The event log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    append: mpsc::Sender<Pending>,
    view: watch::Receiver<View>,
    stale: Duration,
    tick: Duration,
}

impl Log {
    /// The log and the services that read and append, which the caller runs. They end with `shutdown`. Nothing is appended
    /// while the clock is wrong.
    pub fn new(
        link: Link,
        publisher: Publisher,
        events: &Events,
        clock: Arc<Clock>,
        shutdown: CancellationToken,
    ) -> (Self, [Service; 3]) {
        let (view_sender, view) = watch::channel(View {
            caught_up: false,
            heard: Instant::now(),
        });
        let shared = Arc::new(Shared {
            emitter: new_id::<EmitterId>(),
            waiters: Waiters::default(),
            news: News::default(),
            fold: RwLock::default(),
            with_list: AtomicBool::new(false),
            view: view_sender,
            orders: Notify::new(),
            observer: Observers::default(),
            clock,
        });
        let (append, pending) = mpsc::channel(1024);
        let appender = appender::run(
            Arc::clone(&shared),
            publisher.clone(),
            pending,
            shutdown.clone(),
        );
        let reader = reader::run(
            Arc::clone(&shared),
            link,
            publisher,
            events.stale,
            events.age,
            shutdown.clone(),
        );
        let log = Self {
            shared,
            append,
            view,
            stale: events.stale,
            tick: events.tick,
        };
        let pulse = pulse(log.clone(), events.tick, shutdown);
        let services = [
            ("event_log_appender", appender.boxed()),
            ("event_log_reader", reader.boxed()),
            ("event_log_pulse", pulse.boxed()),
        ];
        (log, services)
    }

    /// Appends an event, waits until it has been read back, and gives the verdict at its place.
    ///
    /// # Errors
    /// [`LogError`]. The event may still get into the log later, so ask the fold before deciding anything.
    pub async fn append(&self, decision: Event) -> Result<Verdict, LogError> {
        let began = Instant::now();
        let verdict = append_to(&self.append, decision, APPEND_TIMEOUT).await?;
        LOG_APPEND.record([], began.elapsed());
        Ok(verdict)
    }

    /// Appends two events in this order, usually in one message, and gives the verdict of the second.
    ///
    /// # Errors
    /// Those of [`Log::append`], for the second event.
    pub async fn append_behind(
        &self,
        first: Option<Event>,
        second: Event,
    ) -> Result<Verdict, LogError> {
        match first {
            // `join` polls in this order, so they are handed over in it.
            Some(first) => {
                future::join(self.append(first), self.append(second))
                    .await
                    .1
            }
            None => self.append(second).await,
        }
    }

    /// Reads the state of the pool. `look` must be quick, because the reader waits meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&PoolState) -> T) -> T {
        // The fold changes only by whole events or as a whole, so a panic in another thread does not spoil it.
        look(
            &self
                .shared
                .fold
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Changes whenever the state, or how current it is, changes.
    pub fn changes(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Whether decisions may use the state: the log was read to its end, and a message came within `events.stale_s`.
    pub fn is_fresh(&self) -> bool {
        let view = *self.view.borrow();
        view.caught_up && view.heard.elapsed() < self.stale
    }

    /// The time since the last message.
    pub fn silence(&self) -> Duration {
        self.view.borrow().heard.elapsed()
    }

    /// Whether the newest event was appended a moment ago, by its own time. A process that was frozen first reads old messages
    /// that waited for it, and would take them for new. False while this machine's clock is wrong.
    pub fn is_current(&self) -> bool {
        let heard = self.read(PoolState::now);
        self.is_fresh()
            && self
                .shared
                .clock
                .now()
                .is_ok_and(|now| now.since(heard) <= self.tick * 2)
    }

    /// The longest silence of a fresh log (`events.stale_s`).
    pub fn stale(&self) -> Duration {
        self.stale
    }

    /// Waits until `look` gives Some. It is called immediately, and again after every event about the task.
    pub async fn wait_for_task<T>(
        &self,
        task: &TaskId,
        mut look: impl FnMut(&PoolState) -> Option<T>,
    ) -> T {
        self.shared
            .news
            .subscribe(task)
            .until(|| self.read(&mut look))
            .await
    }

    /// Waits for the next `paused` or `resumed` since the last call. Only one caller in each process may use it.
    pub async fn ordered(&self) {
        self.shared.orders.notified().await;
    }

    /// Keeps a list of all finished tasks, for people to see. Call it before the services run.
    pub fn keep_list(&self) {
        self.shared.with_list.store(true, Ordering::Relaxed);
    }

    /// Calls `observer` for every event that is read from now on. There can be one observer in each process.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.shared.observer.set(observer);
    }

    /// Waits until the log has been read once.
    ///
    /// # Errors
    /// [`LogError::Closed`] when this process is ending.
    pub async fn ready(&self) -> Result<(), LogError> {
        let mut changes = self.changes();
        changes
            .wait_for(|view| view.caught_up)
            .await
            .map(drop)
            .map_err(|_| LogError::Closed)
    }
}

/// Hands an event to the appender and waits for its verdict. Both have one deadline, because an appender that cannot publish
/// accepts no events.
async fn append_to(
    appender: &mpsc::Sender<Pending>,
    decision: Event,
    limit: Duration,
) -> Result<Verdict, LogError> {
    let (verdict, read_back) = oneshot::channel();
    let append = async {
        appender
            .send(Pending { decision, verdict })
            .await
            .map_err(|_| LogError::Closed)?;
        read_back.await.map_err(|_| LogError::Closed)
    };
    tokio::time::timeout(limit, append)
        .await
        .unwrap_or(Err(LogError::Timeout))
}

/// Appends a `tick` whenever no message has come for `tick`. The time is jittered, so that one process appends and not all.
/// It sleeps until that time and is not woken by every event, of which there may be thousands a second.
async fn pulse(log: Log, tick: Duration, shutdown: CancellationToken) {
    let ticking = async {
        let mut spoke = Instant::now();
        loop {
            let wait = tick.mul_f64(1.0 + rand::random::<f64>() / 2.0);
            let heard = log.view.borrow().heard.max(spoke);
            tokio::time::sleep_until(heard + wait).await;
            let silent = log.view.borrow().heard <= heard;
            if silent {
                spoke = Instant::now();
                if log.append(Event::Pool(PoolEvent::Tick)).await.is_err() {
                    tracing::debug!("the tick of this process was not read back");
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = ticking => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future;

    #[tokio::test]
    async fn an_append_has_a_deadline_also_when_the_appender_takes_nothing() {
        // The queue has room for one event, and nothing is taken out of it.
        let (appender, _taken) = mpsc::channel(1);
        let append = || {
            append_to(
                &appender,
                Event::Pool(PoolEvent::Tick),
                Duration::from_millis(50),
            )
        };
        let both = tokio::time::timeout(Duration::from_secs(10), future::join(append(), append()));
        let both = both
            .await
            .expect("both have given up, also the one that was not even taken");
        assert_eq!(
            both,
            (Err(LogError::Timeout), Err(LogError::Timeout)),
            "neither came back"
        );
    }
}
