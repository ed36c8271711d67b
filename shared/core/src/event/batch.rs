//! The messages of the stream.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{EmitterId, Event, PoolEvent};
use crate::time::Timestamp;

/// One message of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventBatch {
    /// The version of this format: 1.
    pub v: u32,
    /// The process that appended the batch.
    pub emitter: EmitterId,
    /// The sequence number of the first event; the others follow without a gap.
    pub first: u64,
    /// When the batch was appended, by the clock of its emitter: milliseconds since 1970.
    pub at_ms: u64,
    /// The events in their order.
    pub events: Vec<Event>,
}

#[derive(Deserialize)]
struct LenientBatch<'a> {
    emitter: EmitterId,
    first: u64,
    at_ms: u64,
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

impl EventBatch {
    /// `at_ms` as a time.
    pub fn at(&self) -> Timestamp {
        Timestamp(self.at_ms)
    }

    /// The body of the message.
    pub fn to_json(&self) -> Vec<u8> {
        // Structs of strings and numbers with string keys always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a message of the stream. An event that cannot be read becomes [`PoolEvent::Unknown`], so that every
    /// reader, old or new, counts the same sequence numbers.
    ///
    /// # Errors
    /// When even the frame cannot be read. Every reader skips such a message.
    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        if let Ok(batch) = serde_json::from_slice(body) {
            return Ok(batch);
        }
        let lenient: LenientBatch<'_> = serde_json::from_slice(body)?;
        let read = |raw: &&RawValue| {
            serde_json::from_str(raw.get()).unwrap_or(Event::Pool(PoolEvent::Unknown))
        };
        Ok(Self {
            v: 1,
            emitter: lenient.emitter,
            first: lenient.first,
            at_ms: lenient.at_ms,
            events: lenient.events.iter().map(read).collect(),
        })
    }
}
