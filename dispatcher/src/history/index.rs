//! The index: where messages and results are in the stream, the words that lists show, and the
//! newest bodies.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use lapin::message::Delivery;
use lapin::types::AMQPValue;
use pool_broker::headers;
use pool_core::id::TaskId;
use pool_core::task::TaskMessage;

use super::EntryKind;
use super::record::ResultSummary;

/// The number of tasks that are listed with their words, newest first.
const LISTED: usize = 50_000;
const SUMMARY_CHARS: usize = 120;
/// Reading a body from the stream takes the broker tens of milliseconds, so the newest bodies are
/// cached up to this size.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

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
}

#[derive(Default)]
pub(super) struct Index {
    entries: HashMap<TaskId, IndexEntry>,
    order: VecDeque<TaskId>,
    newest: Newest,
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
    }
}

impl Index {
    pub(super) fn entries(&self) -> &HashMap<TaskId, IndexEntry> {
        &self.entries
    }

    pub(super) fn get(&self, task: &TaskId) -> Option<&IndexEntry> {
        self.entries.get(task)
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
            let entry = self.entry(&id);
            entry.task_at.get_or_insert(offset);
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
