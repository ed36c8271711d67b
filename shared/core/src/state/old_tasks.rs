//! The rest of a task that finished long ago: its outcome and two hashes.
//!
//! No decision needs more. A process that shows tasks to people also keeps a list of them, with ids, times and costs.

use crate::id::{AttemptId, TaskId};
use crate::id_table::{IdKey, IdTable, ROWS_IN_BLOCK};
use crate::money::MicroUsd;
use crate::result::{ErrorKind, Status};
use crate::task_state::{Outcome, Phase, TaskState};
use crate::time::Timestamp;

/// Stands for an outcome without an attempt.
const NO_ATTEMPT: AttemptId = AttemptId::NIL;
/// Stands for an outcome without a time at which its attempt began.
const NOT_STARTED: u32 = u32::MAX;

/// The bytes of a body hash; as text they are 32 lower-case hexadecimal digits.
type BodyHash = [u8; 16];

/// One row: 42 bytes with the key of the id.
#[derive(Debug, Clone)]
pub(super) struct OldTask {
    status: Status,
    attempt: AttemptId,
    body: BodyHash,
}

/// The values that only people ask for.
#[derive(Debug, Clone)]
struct ShownValues {
    at: Timestamp,
    cost: MicroUsd,
    /// How long the attempt had run by `at`, or [`NOT_STARTED`].
    ran_ms: u32,
    /// Where the id ends in the page's ids.
    id_ends: u32,
    error: Option<ErrorKind>,
}

/// As many tasks of the list as a block of the table has rows.
#[derive(Debug, Clone, Default)]
struct Page {
    listed: Vec<ShownValues>,
    /// One id after the other.
    ids: String,
}

/// A finished task whose details are forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedLongAgo<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its outcome, without programmer and LLM.
    pub outcome: Outcome,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct OldTasks {
    pub(super) table: IdTable<OldTask>,
    /// In the order of the rows.
    list: Option<Vec<Page>>,
}

impl OldTasks {
    /// Keeps the list from now on. Call it before the first task is put.
    pub(super) fn keep_list(&mut self) {
        self.list.get_or_insert_default();
    }

    /// Keeps a finished task. False if its values do not fit: an older version, or a program that is no part of the pool,
    /// appended its events.
    pub(super) fn put(&mut self, id: &TaskId, state: &TaskState) -> bool {
        let key = IdKey::of(id);
        let (Some(outcome), Some(hash)) = (state.outcome(), &state.body_hash) else {
            return false;
        };
        let (Some(body), Some(listed)) = (bytes(hash), ShownValues::of(outcome)) else {
            return false;
        };
        if outcome.attempt == Some(NO_ATTEMPT) || self.table.find(key).is_some() {
            return false;
        }
        if let Some(list) = &mut self.list {
            if self.table.len().is_multiple_of(ROWS_IN_BLOCK) {
                list.push(Page::default());
            }
            if let Some(page) = list.last_mut() {
                page.add(id, listed);
            }
        }
        let (status, attempt) = (outcome.status, outcome.attempt.unwrap_or(NO_ATTEMPT));
        let task = OldTask {
            status,
            attempt,
            body,
        };
        self.table.push(key, task);
        true
    }

    /// The state of this task, as far as it is kept.
    pub(super) fn get(&self, id: &TaskId) -> Option<TaskState> {
        if self.table.is_empty() {
            return None;
        }
        let row = self.table.find(IdKey::of(id))?;
        let task = self.table.get(row)?;
        let pages = self.list.as_ref();
        let listed = pages.and_then(|pages| pages.get(row / ROWS_IN_BLOCK)?.get(row));
        Some(TaskState {
            body_hash: Some(text(task.body)),
            phase: Phase::Finished(task.outcome(listed)),
            ..TaskState::default()
        })
    }

    /// The list, the task that was forgotten first at its beginning. Empty without a list.
    pub(super) fn iter(&self) -> impl Iterator<Item = FinishedLongAgo<'_>> {
        let listed = self.list.iter().flatten().flat_map(Page::iter);
        self.table
            .values()
            .zip(listed)
            .map(|(task, (id, listed))| FinishedLongAgo {
                id,
                outcome: task.outcome(Some(listed)),
            })
    }
}

impl OldTask {
    fn outcome(&self, listed: Option<&ShownValues>) -> Outcome {
        let at = listed.map_or(Timestamp::default(), |listed| listed.at);
        let ran_ms = listed.map_or(NOT_STARTED, |listed| listed.ran_ms);
        Outcome {
            attempt: Some(self.attempt).filter(|attempt| *attempt != NO_ATTEMPT),
            status: self.status,
            cost: listed.map_or(MicroUsd::ZERO, |listed| listed.cost),
            at,
            started_at: (ran_ms != NOT_STARTED)
                .then(|| Timestamp(at.0.saturating_sub(u64::from(ran_ms)))),
            programmer: None,
            llm: None,
            error: listed.and_then(|listed| listed.error),
        }
    }
}

impl ShownValues {
    /// None if the attempt ran too long for the number.
    fn of(outcome: &Outcome) -> Option<Self> {
        let ran_ms = match outcome.started_at {
            None => NOT_STARTED,
            Some(started_at) => outcome
                .at
                .0
                .checked_sub(started_at.0)
                .and_then(|ran| u32::try_from(ran).ok())
                .filter(|ran| *ran != NOT_STARTED)?,
        };
        Some(Self {
            at: outcome.at,
            cost: outcome.cost,
            ran_ms,
            id_ends: 0,
            error: outcome.error,
        })
    }
}

impl Page {
    fn add(&mut self, id: &TaskId, listed: ShownValues) {
        self.ids.push_str(id.as_str());
        // At most 64 bytes for each of the page's ids.
        let id_ends = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        self.listed.push(ShownValues { id_ends, ..listed });
        if self.listed.len() == ROWS_IN_BLOCK {
            self.ids.shrink_to_fit();
        }
    }

    fn get(&self, row: usize) -> Option<&ShownValues> {
        self.listed.get(row % ROWS_IN_BLOCK)
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &ShownValues)> {
        let mut begins = 0;
        self.listed.iter().map(move |listed| {
            let ends = listed.id_ends as usize;
            let id = self.ids.get(begins..ends).unwrap_or_default();
            begins = ends;
            (id, listed)
        })
    }
}

/// The bytes of a hash that the pool has written.
fn bytes(hash: &str) -> Option<BodyHash> {
    let is_ours = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    if hash.len() != 32 || !hash.bytes().all(is_ours) {
        return None;
    }
    u128::from_str_radix(hash, 16).ok().map(u128::to_be_bytes)
}

fn text(hash: BodyHash) -> String {
    format!("{:032x}", u128::from_be_bytes(hash))
}
