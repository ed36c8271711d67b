//! The index: where messages and results are in the stream, the words that lists show, the newest
//! bodies, and how long tasks took.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use pool_broker::consumer::offset_of;
use pool_broker::headers;
use pool_core::expected::{Durations, Expected, Traits};
use pool_core::id::{LlmName, TaskId};
use pool_core::id_table::{IdKey, IdTable};
use pool_core::task::TaskMessage;

use super::EntryKind;
use super::record::ResultSummary;

/// The number of tasks that are listed with their words, newest first.
const LISTED: usize = 50_000;
const SUMMARY_CHARS: usize = 120;
/// Reading a body from the stream takes the broker tens of milliseconds, so the newest bodies are
/// cached up to this size.
const KEPT_BYTES: usize = 16 * 1024 * 1024;
/// Headers of a task's entry: how long the task was expected to take, and which earlier tasks said so.
const EXPECTED_MS: &str = "pool-expected-ms";
const EXPECTED_BY: &str = "pool-expected-by";

/// The index entry of a task.
#[derive(Debug, Clone, Default)]
pub struct IndexEntry {
    pub task_at: Option<u64>,
    pub result_at: Option<u64>,
    /// The beginning of the instruction.
    pub summary: String,
    pub labels: BTreeMap<String, String>,
    /// The task that this one repeats.
    pub retry_of: Option<TaskId>,
    /// The numbers of its result, for reports.
    pub record: Option<Arc<ResultSummary>>,
    /// The duration that decided its place in its submission.
    pub expected: Option<ExpectedAtSubmission>,
    /// The kinds of tasks that it belongs to.
    pub traits: Option<Box<Traits>>,
}

/// How long a task was expected to take when it was submitted together with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedAtSubmission {
    pub duration: Duration,
    /// Which earlier tasks said so, in words.
    pub by: String,
}

#[derive(Default)]
pub(super) struct Index {
    /// The newest [`LISTED`] tasks.
    entries: HashMap<TaskId, IndexEntry>,
    order: VecDeque<TaskId>,
    /// Where the messages and results of all other tasks are.
    old: IdTable<StreamOffsets>,
    newest: Newest,
    durations: Durations,
}

/// Offsets in the stream as bytes, which need no padding in the table. An offset of [`NOWHERE`] is unknown.
struct StreamOffsets {
    task_at: [u8; 8],
    result_at: [u8; 8],
}

const NOWHERE: u64 = u64::MAX;

impl StreamOffsets {
    fn of(entry: &IndexEntry) -> Self {
        let bytes = |offset: Option<u64>| offset.unwrap_or(NOWHERE).to_be_bytes();
        Self {
            task_at: bytes(entry.task_at),
            result_at: bytes(entry.result_at),
        }
    }

    fn entry(&self) -> IndexEntry {
        let offset =
            |bytes: [u8; 8]| Some(u64::from_be_bytes(bytes)).filter(|offset| *offset != NOWHERE);
        IndexEntry {
            task_at: offset(self.task_at),
            result_at: offset(self.result_at),
            ..IndexEntry::default()
        }
    }
}

/// The newest bodies, up to a number of bytes.
#[derive(Default)]
struct Newest {
    bodies: HashMap<u64, Vec<u8>>,
    offsets: VecDeque<u64>,
    bytes: usize,
}

impl Newest {
    fn keep(&mut self, offset: u64, body: &[u8]) {
        if self.bodies.insert(offset, body.to_vec()).is_some() {
            return;
        }
        self.offsets.push_back(offset);
        self.bytes += body.len();
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.offsets.pop_front()
        {
            self.bytes -= self.bodies.remove(&oldest).map_or(0, |body| body.len());
        }
    }
}

impl IndexEntry {
    pub(super) fn lies_at(&self, offset: u64) -> bool {
        self.task_at == Some(offset) || self.result_at == Some(offset)
    }

    fn describe(&mut self, task: &TaskMessage) {
        self.summary = task
            .instruction
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        if let Some((cut, _)) = self.summary.char_indices().nth(SUMMARY_CHARS) {
            self.summary.truncate(cut);
        }
        self.labels.clone_from(&task.labels);
        self.retry_of.clone_from(&task.retry_of);
        self.traits = Some(Box::new(Traits::of(task)));
    }

    /// How long the last attempt took with which LLM; None when none was made.
    fn took(&self) -> Option<(&Traits, Option<&LlmName>, Duration)> {
        let record = self
            .record
            .as_ref()
            .filter(|record| record.timings.run_ms > 0)?;
        let took = Duration::from_millis(record.timings.run_ms);
        Some((self.traits.as_deref()?, record.llm.as_ref(), took))
    }
}

impl Index {
    /// The newest tasks, with their words.
    pub(super) fn entries(&self) -> &HashMap<TaskId, IndexEntry> {
        &self.entries
    }

    pub(super) fn get(&self, task: &TaskId) -> Option<Cow<'_, IndexEntry>> {
        match self.entries.get(task) {
            Some(entry) => Some(Cow::Borrowed(entry)),
            None => self.old_entry(task).map(Cow::Owned),
        }
    }

    fn old_entry(&self, task: &TaskId) -> Option<IndexEntry> {
        let row = self.old.find(IdKey::of(task))?;
        self.old.get(row).map(StreamOffsets::entry)
    }

    /// How long this task will probably take.
    pub(super) fn expect(&self, task: &TaskMessage, llm: Option<&LlmName>) -> Option<Expected> {
        self.durations.expect(&Traits::of(task), llm)
    }

    /// The body of the entry at this offset, if it is one of the newest.
    pub(super) fn body(&self, offset: u64) -> Option<&[u8]> {
        self.newest.bodies.get(&offset).map(Vec::as_slice)
    }

    pub(super) fn learn(&mut self, delivery: &Delivery) {
        let (Some(offset), Some(id)) = (offset_of(delivery), id_of(delivery)) else {
            return;
        };
        let kind = headers::text(delivery.properties.kind());
        self.newest.keep(offset, &delivery.data);
        if kind == Some(EntryKind::Task.as_str()) {
            let words = serde_json::from_slice::<TaskMessage>(&delivery.data).ok();
            let expected = expected_in(delivery);
            let entry = self.entry(&id);
            entry.task_at.get_or_insert(offset);
            if entry.expected.is_none() {
                entry.expected = expected;
            }
            if let Some(task) = words {
                entry.describe(&task);
            }
        } else if kind == Some(EntryKind::Result.as_str()) {
            let entry = self.entry(&id);
            entry.result_at = Some(offset);
            entry.record = ResultSummary::read(&delivery.data).map(Arc::new);
            if entry.summary.is_empty() {
                let result: Option<pool_core::result::ResultMessage> =
                    serde_json::from_slice(&delivery.data).ok();
                if let Some(task) = result.and_then(|result| result.task) {
                    entry.describe(&task);
                }
            }
            self.learn_duration(&id);
        }
    }

    fn learn_duration(&mut self, id: &TaskId) {
        let Self {
            entries, durations, ..
        } = self;
        if let Some((traits, llm, took)) = entries.get(id).and_then(IndexEntry::took) {
            durations.learn(traits, llm, took);
        }
    }

    fn entry(&mut self, id: &TaskId) -> &mut IndexEntry {
        if !self.entries.contains_key(id) {
            // The result of a task that has waited for long makes it one of the newest again.
            let known = self.old_entry(id).unwrap_or_default();
            self.entries.insert(id.clone(), known);
            self.order.push_back(id.clone());
            self.forget_words();
        }
        self.entries.entry(id.clone()).or_default()
    }

    /// Forgets the words of the oldest task. Its bodies can still be found.
    fn forget_words(&mut self) {
        if self.order.len() > LISTED
            && let Some(oldest) = self.order.pop_front()
            && let Some(entry) = self.entries.remove(&oldest)
        {
            let (key, places) = (IdKey::of(&oldest), StreamOffsets::of(&entry));
            match self.old.find(key).and_then(|row| self.old.get_mut(row)) {
                Some(known) => *known = places,
                None => self.old.push(key, places),
            }
        }
    }
}

/// Adds to the properties of a task's entry how long the task was expected to take.
pub(super) fn with_expected(properties: BasicProperties, expected: &Expected) -> BasicProperties {
    let mut headers = FieldTable::default();
    let ms = i64::try_from(expected.duration.as_millis()).unwrap_or(i64::MAX);
    headers.insert(EXPECTED_MS.into(), AMQPValue::LongLongInt(ms));
    let by = AMQPValue::LongString(expected.by.to_string().into());
    headers.insert(EXPECTED_BY.into(), by);
    properties.with_headers(headers)
}

fn expected_in(delivery: &Delivery) -> Option<ExpectedAtSubmission> {
    let headers = delivery.properties.headers().as_ref()?.inner();
    let AMQPValue::LongLongInt(ms) = headers.get(EXPECTED_MS)? else {
        return None;
    };
    let AMQPValue::LongString(by) = headers.get(EXPECTED_BY)? else {
        return None;
    };
    Some(ExpectedAtSubmission {
        duration: Duration::from_millis(u64::try_from(*ms).ok()?),
        by: by.to_string(),
    })
}

pub(super) fn id_of(delivery: &Delivery) -> Option<TaskId> {
    headers::text(delivery.properties.message_id()).and_then(|id| TaskId::new(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::{AMQPValue, FieldTable};
    use pool_broker::headers::json_properties;

    fn id(n: usize) -> TaskId {
        TaskId::new(format!("t{n}")).expect("an id")
    }

    fn read(index: &mut Index, offset: usize, task: usize, kind: EntryKind, body: &str) {
        let mut headers = FieldTable::default();
        let offset = i64::try_from(offset).expect("a small number");
        headers.insert("x-stream-offset".into(), AMQPValue::LongLongInt(offset));
        let properties = json_properties()
            .with_type(kind.as_str().into())
            .with_message_id(id(task).as_str().into())
            .with_headers(headers);
        let (exchange, key) = ("pool.log".into(), "history".into());
        index.learn(&Delivery {
            properties,
            ..Delivery::mock(1, exchange, key, false, body.as_bytes().to_vec())
        });
    }

    fn known(index: &Index, task: usize) -> IndexEntry {
        index.get(&id(task)).expect("it is known").into_owned()
    }

    #[test]
    fn of_old_tasks_only_the_places_are_kept_and_a_late_result_is_found() {
        let mut index = Index::default();
        let message = r#"{"instruction": "four", "repository": "demo"}"#;
        for n in 0..LISTED + 2 {
            read(&mut index, n, n, EntryKind::Task, message);
        }
        assert_eq!(index.entries().len(), LISTED, "the words of the newest");
        let old = known(&index, 1);
        assert_eq!(
            (old.task_at, old.result_at, old.summary.as_str()),
            (Some(1), None, ""),
            "its message can be found"
        );
        read(&mut index, 90_000, 1, EntryKind::Result, "{}");
        let (late, next) = (known(&index, 1), known(&index, 2));
        assert_eq!(
            (late.task_at, late.result_at, late.record.is_some()),
            (Some(1), Some(90_000), true),
            "the result makes it new again"
        );
        assert!(next.summary.is_empty(), "another one is old instead");
        for n in LISTED + 2..2 * LISTED + 4 {
            read(&mut index, n, n, EntryKind::Task, message);
        }
        let old = known(&index, 1);
        assert_eq!(
            (old.task_at, old.result_at),
            (Some(1), Some(90_000)),
            "both places are known"
        );
    }
}
