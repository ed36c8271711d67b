//! The event log as a process sees it: append a decision, learn what it meant at its place, hold the fold.
//!
//! `appender` publishes batches, `reader` folds the stream, `news` wakes who waits for a task. They share nothing but
//! what [`Shared`] holds.

mod appender;
mod news;
mod observer;
mod reader;

use std::collections::HashMap;
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
use pool_core::event::{Decision, EmitterId, EventId};
use pool_core::id::TaskId;
use pool_core::pool::Events;
use pool_core::state::{Fold, Verdict};
use pool_telemetry::catalog::LOG_APPEND;
use pool_telemetry::tasks::Written;

/// How long [`Log::append`] waits for an event to come back.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(30);

/// An event whose place in the log is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("append to the event log: it did not come back within {} s", APPEND_TIMEOUT.as_secs())]
    Timeout,
    #[error("append to the event log: this process is ending")]
    Closed,
}

/// How well this process knows the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The whole log has been read once, and its reader works.
    pub caught_up: bool,
    /// When something was read last.
    pub heard: Instant,
}

/// Who waits for an own event.
#[derive(Debug)]
struct Waiter {
    verdict: oneshot::Sender<Verdict>,
    /// What is told once it is accepted.
    written: Option<Written>,
}

/// Waiters for own events, by sequence number.
#[derive(Debug, Default)]
struct Waiters(Mutex<HashMap<u64, Waiter>>);

impl Waiters {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<u64, Waiter>) -> T) -> T {
        // The map is valid at every instant, so a panic elsewhere does not spoil it.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Shared {
    emitter: EmitterId,
    waiters: Waiters,
    news: News,
    fold: RwLock<Fold>,
    view: watch::Sender<View>,
    /// Somebody was paused or resumed.
    orders: Notify,
    observer: Observers,
    clock: Arc<Clock>,
}

impl Shared {
    /// A log that is read again finds nobody who waits for what was resolved before: it is told once.
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
    decision: Decision,
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
    /// The log, and what reads and appends: the caller runs these services, and they end with `shutdown`. Nothing is
    /// appended while the clock is off.
    pub fn new(
        link: Link,
        publisher: Publisher,
        events: &Events,
        (clock, shutdown): (Arc<Clock>, CancellationToken),
    ) -> (Self, [Service; 3]) {
        let (view_sender, view) = watch::channel(View {
            caught_up: false,
            heard: Instant::now(),
        });
        let shared = Arc::new(Shared {
            emitter: EmitterId::new(),
            waiters: Waiters::default(),
            news: News::default(),
            fold: RwLock::default(),
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

    /// Appends a decision and waits until it has been read back: what it meant at its place.
    ///
    /// # Errors
    /// [`LogError`]: the event may still land later. Ask the fold before deciding anything.
    pub async fn append(&self, decision: Decision) -> Result<Verdict, LogError> {
        let began = Instant::now();
        let verdict = append_to(&self.append, decision, APPEND_TIMEOUT).await?;
        LOG_APPEND.record([], began.elapsed());
        Ok(verdict)
    }

    /// Appends a decision behind another one of this process, whose verdict is not asked for: in the log they have this order,
    /// and most often one message.
    ///
    /// # Errors
    /// As of [`Log::append`], about the second.
    pub async fn append_behind(
        &self,
        first: Option<Decision>,
        second: Decision,
    ) -> Result<Verdict, LogError> {
        match first {
            // They are handed over in the order in which they are polled first.
            Some(first) => {
                future::join(self.append(first), self.append(second))
                    .await
                    .1
            }
            None => self.append(second).await,
        }
    }

    /// Looks at the state of the pool. Keep it short: the reader waits meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Fold) -> T) -> T {
        // The fold is replaced only as a whole or by whole events, so a panic elsewhere does not spoil it.
        look(
            &self
                .shared
                .fold
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Hears of every change of the state or of how well it is known.
    pub fn changes(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Whether the state may be trusted for decisions: the log has been read, and its pulse is felt.
    pub fn is_fresh(&self) -> bool {
        let view = *self.view.borrow();
        view.caught_up && view.heard.elapsed() < self.stale
    }

    /// For how long nothing was heard.
    pub fn silence(&self) -> Duration {
        self.view.borrow().heard.elapsed()
    }

    /// Whether the state is that of a moment ago, by the times of the events themselves: who was frozen first hears what
    /// had been on its way to it, and may take that for news. Nobody can tell whose clock is off.
    pub fn is_current(&self) -> bool {
        let heard = self.read(Fold::now);
        self.is_fresh()
            && self
                .shared
                .clock
                .now()
                .is_ok_and(|now| now.since(heard) <= self.tick * 2)
    }

    /// After so long a silence a view is stale.
    pub fn stale(&self) -> Duration {
        self.stale
    }

    /// Waits until `look` finds something about this task in the state. It looks at once, and again after every event
    /// about the task.
    pub async fn wait_for_task<T>(
        &self,
        task: &TaskId,
        mut look: impl FnMut(&Fold) -> Option<T>,
    ) -> T {
        self.shared
            .news
            .subscribe(task)
            .until(|| self.read(&mut look))
            .await
    }

    /// Waits until somebody has been paused or resumed since the last call. For one caller in each process.
    pub async fn ordered(&self) {
        self.shared.orders.notified().await;
    }

    /// From here on `observer` hears of every event that is read, with what it meant. For one observer in each process.
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

/// Hands an event to the appender and waits for its verdict: one deadline for both, because an appender that cannot
/// publish takes nothing any more.
async fn append_to(
    appender: &mpsc::Sender<Pending>,
    decision: Decision,
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

/// The pool's pulse: whoever has heard nothing for `tick` (jittered, so that one speaks and not all) appends one.
/// Sleeps until then, and not until the next event: there may be thousands a second.
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
                if log.append(Decision::Tick).await.is_err() {
                    tracing::debug!("the tick of this process did not come back");
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
        // Room for one, and nobody takes it out.
        let (appender, _taken) = mpsc::channel(1);
        let append = || append_to(&appender, Decision::Tick, Duration::from_millis(50));
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
