//! An observer of the log, for showing people what happened. It decides nothing, and no state depends on it.

use std::sync::{Arc, OnceLock};

use pool_core::event::{Event, EventBatch};
use pool_core::state::Verdict;
use pool_core::time::Timestamp;

/// Receives events in the order of the log. The reader itself calls it, so it must be quick and may not block.
pub trait Observer: Send + Sync {
    /// The log is read from its beginning again: every event comes once more.
    fn starts_over(&self);

    /// An event and its verdict.
    fn hears(&self, at: Timestamp, decision: &Event, verdict: Verdict);
}

/// The observer of this process, if it has one.
#[derive(Default)]
pub(super) struct Observers(OnceLock<Arc<dyn Observer>>);

impl Observers {
    /// A second observer is ignored.
    pub(super) fn set(&self, observer: Arc<dyn Observer>) {
        let _ = self.0.set(observer);
    }

    pub(super) fn start_over(&self) {
        if let Some(observer) = self.0.get() {
            observer.starts_over();
        }
    }

    pub(super) fn report_event(&self, batch: &EventBatch, decision: &Event, verdict: Verdict) {
        if let Some(observer) = self.0.get() {
            observer.hears(batch.at(), decision, verdict);
        }
    }
}
