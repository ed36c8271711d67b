//! The recent events of each task, recorded as the log is read: the dashboard's timelines, and
//! which tasks have changed.
//!
//! The fold keeps states but not their history, because no decision needs it. The journal is a
//! bounded memory of that history. It keeps all events of a task or none; [`older`](super::older)
//! reads forgotten tasks from the stream.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, PoisonError, RwLock};

use pool_broker::event_log::Observer;
use pool_core::event::{Event, TaskEvent};
use pool_core::id::{AttemptId, TaskId};
use pool_core::result::Status;
use pool_core::state::Verdict;
use pool_core::time::Timestamp;

/// The number of events that are kept: a few dozen megabytes.
const EVENTS: usize = 60_000;
/// The number of latest changes that can be queried.
const CHANGES: usize = 2_000;

/// One event about a task.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    pub at: Timestamp,
    pub decision: Event,
    pub verdict: Verdict,
}

#[derive(Debug, Default)]
struct Track {
    entries: Vec<JournalEntry>,
    version: u64,
    /// Its attempts since it is tracked.
    attempts: Vec<AttemptId>,
    /// Events since it is tracked.
    events: usize,
    /// The task's beginning was forgotten: it has a version, so that its page learns of news, but
    /// no entries.
    partial: bool,
}

#[derive(Debug, Default)]
struct Memory {
    tracks: HashMap<TaskId, Track>,
    /// Tasks by their first event, oldest first.
    order: VecDeque<TaskId>,
    /// Hashes of forgotten tasks. They are short, because there are millions. A collision is
    /// harmless: that timeline is read from the stream instead.
    forgotten: HashSet<u32>,
    /// The task of each attempt: some events name only the attempt.
    attempts: HashMap<AttemptId, TaskId>,
    events: usize,
    version: u64,
    changes: VecDeque<(u64, TaskId)>,
    ended: HashMap<Status, u64>,
}

/// The journal. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<RwLock<Memory>>);

/// The tasks that have changed since a version.
#[derive(Debug, PartialEq, Eq)]
pub enum ChangedSince {
    These(Vec<TaskId>),
    /// More changes than the journal remembers.
    Many,
}

impl Journal {
    /// The number of events about tasks so far.
    pub fn version(&self) -> u64 {
        self.look(|memory| memory.version)
    }

    /// The version at the last event of this task; 0 if none is kept.
    pub fn version_of(&self, task: &TaskId) -> u64 {
        self.look(|memory| memory.tracks.get(task).map_or(0, |track| track.version))
    }

    /// The kept events of this task, oldest first.
    pub fn entries(&self, task: &TaskId) -> Vec<JournalEntry> {
        self.look(|memory| {
            memory
                .tracks
                .get(task)
                .map(|track| track.entries.clone())
                .unwrap_or_default()
        })
    }

    /// The tasks that have changed since `version`, each once.
    pub fn changed_since(&self, version: u64) -> ChangedSince {
        self.look(|memory| {
            let remembered = memory
                .changes
                .front()
                .map_or(memory.version, |(oldest, _)| oldest - 1);
            if version < remembered || version > memory.version {
                return ChangedSince::Many;
            }
            let mut tasks: Vec<TaskId> = Vec::new();
            let newer = memory
                .changes
                .iter()
                .rev()
                .take_while(|(at, _)| *at > version);
            let mut seen = HashSet::new();
            newer
                .filter(|(_, task)| seen.insert(task))
                .for_each(|(_, task)| tasks.push(task.clone()));
            ChangedSince::These(tasks)
        })
    }

    /// The number of finished tasks by outcome.
    pub fn ended(&self) -> HashMap<Status, u64> {
        self.look(|memory| memory.ended.clone())
    }

    fn look<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        // Entries are valid one by one, so a panic elsewhere does not spoil them.
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Journal {
    fn starts_over(&self) {
        let mut memory = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Versions keep growing, so a client that asks for changes learns that there are many.
        let version = memory.version + 1;
        *memory = Memory {
            version,
            ..Memory::default()
        };
    }

    fn hears(&self, at: Timestamp, decision: &Event, verdict: Verdict) {
        let mut memory = self.0.write().unwrap_or_else(PoisonError::into_inner);
        memory.hear(&JournalEntry {
            at,
            decision: decision.clone(),
            verdict,
        });
    }
}

impl Memory {
    fn hear(&mut self, entry: &JournalEntry) {
        if let Event::Task(TaskEvent::Used(used)) = &entry.decision
            && used.so_far
        {
            // There is one for each paid call, and the next one supersedes it.
            return;
        }
        let task_of = |attempt: &AttemptId| self.attempts.get(attempt).cloned();
        let Some(task) = entry.decision.part_of(task_of) else {
            return;
        };
        let accepted = entry.verdict == Verdict::Accepted;
        if accepted && let Some(status) = entry.decision.ends_as() {
            *self.ended.entry(status).or_default() += 1;
        }
        self.version += 1;
        let track = match self.tracks.entry(task.clone()) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                self.order.push_back(task.clone());
                let partial = self.forgotten.contains(&hash(&task));
                new.insert(Track {
                    partial,
                    ..Track::default()
                })
            }
        };
        track.version = self.version;
        if accepted && let Event::Task(TaskEvent::Started(started)) = &entry.decision {
            track.attempts.push(started.attempt);
            self.attempts.insert(started.attempt, task.clone());
        }
        if !track.partial {
            track.entries.push(entry.clone());
        }
        // A task without entries counts too, or their number would be unbounded.
        self.events += 1;
        track.events += 1;
        self.changes.push_back((self.version, task));
        if self.changes.len() > CHANGES {
            self.changes.pop_front();
        }
        self.forget();
    }

    /// Forgets the oldest tasks as a whole.
    fn forget(&mut self) {
        while self.events > EVENTS
            && let Some(oldest) = self.order.pop_front()
            && let Some(track) = self.tracks.remove(&oldest)
        {
            self.forgotten.insert(hash(&oldest));
            self.events -= track.events;
            for attempt in &track.attempts {
                self.attempts.remove(attempt);
            }
        }
    }
}

fn hash(task: &TaskId) -> u32 {
    let mut hasher = DefaultHasher::new();
    task.hash(&mut hasher);
    (hasher.finish() >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::{BudgetSettled, PoolEvent, TaskCancelled, TaskPublished, TaskStarted};
    use pool_telemetry::clock::new_id;

    fn task(n: usize) -> TaskId {
        TaskId::new(format!("t{n}")).expect("an id")
    }

    fn published(n: usize) -> Event {
        Event::from(TaskPublished {
            task: task(n),
            generation: 0,
        })
    }

    fn hear(journal: &Journal, decision: &Event) {
        journal.hears(Timestamp(1), decision, Verdict::Accepted);
    }

    #[test]
    fn changes_are_told_once_for_each_task_and_not_without_end() {
        let journal = Journal::default();
        for n in [1, 2, 1] {
            hear(&journal, &published(n));
        }
        hear(&journal, &Event::Pool(PoolEvent::Tick));
        assert_eq!(
            journal.changed_since(0),
            ChangedSince::These(vec![task(1), task(2)]),
            "newest first, each once"
        );
        assert_eq!(
            journal.changed_since(2),
            ChangedSince::These(vec![task(1)]),
            "since the version"
        );
        assert_eq!(
            journal.changed_since(3),
            ChangedSince::These(vec![]),
            "a tick concerns no task"
        );
        for n in 0..CHANGES {
            hear(&journal, &published(n));
        }
        assert_eq!(
            journal.changed_since(2),
            ChangedSince::Many,
            "more changes than are remembered"
        );
        let before = journal.version();
        journal.starts_over();
        assert_eq!(
            journal.changed_since(before),
            ChangedSince::Many,
            "anything may have changed"
        );
        assert!(
            journal.entries(&task(1)).is_empty(),
            "everything comes again"
        );
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_whole_tasks() {
        let journal = Journal::default();
        for _ in 0..10 {
            hear(&journal, &published(1));
        }
        for n in 2..EVENTS {
            hear(&journal, &published(n));
        }
        assert_eq!(
            journal.entries(&task(1)).len(),
            0,
            "the oldest task is gone as a whole"
        );
        assert_eq!(
            journal.entries(&task(EVENTS - 1)).len(),
            1,
            "the newest task is kept"
        );
        assert!(
            journal.look(|memory| memory.events) <= EVENTS,
            "only the oldest task is gone"
        );
        hear(&journal, &published(1));
        assert_eq!(
            journal.entries(&task(1)).len(),
            0,
            "a late event does not pass for a whole timeline"
        );
        assert!(
            journal.version_of(&task(1)) > 0,
            "but its page learns that there is news"
        );
        assert_eq!(
            journal.entries(&task(EVENTS - 1)).len(),
            1,
            "other tasks are unaffected"
        );
    }

    fn started(n: usize, attempt: AttemptId) -> Event {
        Event::from(TaskStarted {
            task: task(n),
            attempt,
            programmer: pool_core::id::ProgrammerId::new("001").expect("an id"),
            token: pool_core::id::Token {
                generation: 0,
                count: 0,
            },
            route: "any".to_owned(),
            body_hash: String::new(),
        })
    }

    #[test]
    fn no_attempt_outlives_its_task_also_when_the_beginning_was_forgotten() {
        let journal = Journal::default();
        hear(&journal, &published(1));
        for n in 2..EVENTS + 2 {
            hear(&journal, &published(n));
        }
        hear(&journal, &started(1, new_id::<AttemptId>()));
        assert_eq!(journal.look(|memory| memory.attempts.len()), 1, "it runs");
        for n in 2..EVENTS + 2 {
            hear(&journal, &published(n));
        }
        assert_eq!(
            journal.look(|memory| memory.attempts.len()),
            0,
            "it is forgotten with its task"
        );
    }

    #[test]
    fn what_names_only_the_attempt_is_in_its_tasks_timeline() {
        let journal = Journal::default();
        let attempt = new_id::<AttemptId>();
        hear(&journal, &started(1, attempt));
        let cost_usd = pool_core::money::MicroUsd::ZERO;
        hear(
            &journal,
            &Event::from(BudgetSettled {
                attempt,
                cost_usd,
                by_llm: std::collections::BTreeMap::new(),
            }),
        );
        hear(&journal, &Event::from(TaskCancelled { task: task(1) }));
        assert_eq!(journal.entries(&task(1)).len(), 3, "all three");
        assert_eq!(
            journal.ended(),
            HashMap::from([(Status::Cancelled, 1)]),
            "one task has ended"
        );
    }
}
