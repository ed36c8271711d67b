//! The index: where messages and results are in the stream, the words that lists show, the newest
//! bodies, and how long tasks took.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use pool_broker::headers;
use pool_core::expected::{Durations, Expected, Traits};
use pool_core::id::{LlmName, TaskId};
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
    entries: HashMap<TaskId, IndexEntry>,
    order: VecDeque<TaskId>,
    newest: Newest,
    durations: Durations,
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
    pub(super) fn entries(&self) -> &HashMap<TaskId, IndexEntry> {
        &self.entries
    }

    pub(super) fn get(&self, task: &TaskId) -> Option<&IndexEntry> {
        self.entries.get(task)
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
            self.order.push_back(id.clone());
            if self.order.len() > LISTED
                && let Some(oldest) = self.order.pop_front()
                && let Some(entry) = self.entries.get_mut(&oldest)
            {
                // The bodies can still be found; only the words are dropped.
                *entry = IndexEntry {
                    task_at: entry.task_at,
                    result_at: entry.result_at,
                    ..IndexEntry::default()
                };
            }
        }
        self.entries.entry(id.clone()).or_default()
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

pub(super) fn offset_of(delivery: &Delivery) -> Option<u64> {
    let headers = delivery.properties.headers().as_ref()?;
    let AMQPValue::LongLongInt(offset) = headers.inner().get("x-stream-offset")? else {
        return None;
    };
    u64::try_from(*offset).ok()
}

pub(super) fn id_of(delivery: &Delivery) -> Option<TaskId> {
    headers::text(delivery.properties.message_id()).and_then(|id| TaskId::new(id).ok())
}
