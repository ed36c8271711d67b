//! Writes events into a state, as the processes of a pool do. For tests, with the feature `testing`.

use super::{PoolState, Verdict};
use crate::event::{EmitterId, Event, EventBatch};
use crate::time::Timestamp;

impl PoolState {
    /// The state after these events, which a process appended at one moment.
    pub fn of_events(at: Timestamp, events: impl IntoIterator<Item = Event>) -> Self {
        let mut state = Self::new();
        for event in events {
            state.append(at, event);
        }
        state
    }

    /// Appends the next event of a process, always the same one.
    pub fn append(&mut self, at: Timestamp, event: Event) -> Verdict {
        self.append_as(EmitterId::from_u128(1), at, event)
    }

    /// Appends the next event of this process.
    pub fn append_as(&mut self, emitter: EmitterId, at: Timestamp, event: Event) -> Verdict {
        let batch = self.next_batch(emitter, at, event);
        let mut seen = Verdict::Accepted;
        self.apply(&batch, |_, _, verdict| seen = verdict);
        seen
    }

    /// The message with the next event of this process.
    pub fn next_batch(&self, emitter: EmitterId, at: Timestamp, event: Event) -> EventBatch {
        EventBatch {
            v: 1,
            emitter,
            first: self.next_seq.get(&emitter).copied().unwrap_or_default(),
            at_ms: at.0,
            events: vec![event],
        }
    }
}
