//! Somebody who reads along: for showing people what happened. Decides nothing, and no state depends on it.

use std::sync::{Arc, OnceLock};

use pool_core::event::{Batch, Decision};
use pool_core::state::Verdict;
use pool_core::time::Timestamp;

/// Hears of events in the order of the log, from the reader itself: it must be quick and may not wait for anything.
pub trait Observer: Send + Sync {
    /// The log is read from its beginning again: everything comes once more.
    fn starts_over(&self);

    /// An event, and what it meant at its place.
    fn hears(&self, at: Timestamp, decision: &Decision, verdict: Verdict);
}

/// None, or one for as long as the process lives.
#[derive(Default)]
pub(super) struct Observers(OnceLock<Arc<dyn Observer>>);

impl Observers {
    /// A second one is not heard.
    pub(super) fn set(&self, observer: Arc<dyn Observer>) {
        let _ = self.0.set(observer);
    }

    pub(super) fn start_over(&self) {
        if let Some(observer) = self.0.get() {
            observer.starts_over();
        }
    }

    pub(super) fn tell(&self, batch: &Batch, decision: &Decision, verdict: Verdict) {
        if let Some(observer) = self.0.get() {
            observer.hears(batch.at(), decision, verdict);
        }
    }
}
