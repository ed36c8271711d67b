//! How long a task will probably take, learned from earlier tasks, and the order that follows from it. Pure.
//!
//! Long tasks that start last keep one programmer busy while all others are idle. So the tasks of one submission are
//! published with the longest expected first. [`longest_first`] bounds how much later that starts a task.
//!
//! ```
//! use std::time::Duration;
//! use pool_core::expected::{Basis, Durations, Traits};
//!
//! let task = serde_json::from_str(r#"{"instruction": "add a test", "repository": "app"}"#).unwrap();
//! let mut durations = Durations::default();
//! assert!(durations.expect(&Traits::of(&task), None).is_none(), "nothing has been learned");
//! durations.learn(&Traits::of(&task), None, Duration::from_secs(40));
//! let expected = durations.expect(&Traits::of(&task), None).unwrap();
//! assert_eq!((expected.duration, expected.by), (Duration::from_secs(40), Basis::SameTask));
//! ```

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::id::LlmName;
use crate::task::TaskMessage;

/// How many kinds of tasks are remembered. When so many new ones have come, those that have not come again are forgotten.
const KINDS: usize = 20_000;
/// A new duration changes the average by one part in this many, so that old durations count less and less.
const WEIGHT: u32 = 4;
/// A kind that is not the very same task needs so many durations before its average counts.
const ENOUGH: u32 = 3;

/// Identifies tasks that probably take equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct TaskKind(u64);

impl TaskKind {
    // Only this process sees the value, so it need not be the same in another version.
    fn of(parts: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        parts.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The kinds that one task belongs to, small enough to keep for every task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traits {
    same_task: TaskKind,
    repository: TaskKind,
    labels: Box<[LabelKind]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelKind {
    kind: TaskKind,
    /// `key=value`.
    words: Box<str>,
}

impl Traits {
    /// The kinds of this task.
    pub fn of(task: &TaskMessage) -> Self {
        let repository = task.repository.as_str();
        let label = |(key, value): (&String, &String)| LabelKind {
            kind: TaskKind::of(("label", repository, key, value)),
            words: format!("{key}={value}").into(),
        };
        Self {
            same_task: TaskKind::of(("task", repository, &task.instruction, &task.files)),
            repository: TaskKind::of(("repository", repository)),
            labels: task.labels.iter().map(label).collect(),
        }
    }

    fn with_llm(&self, llm: &LlmName) -> TaskKind {
        TaskKind::of(("llm", self.repository, llm.as_str()))
    }
}

/// How long a task will probably take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// From its start to its end.
    pub duration: Duration,
    /// Which earlier tasks say so.
    pub by: Basis,
}

/// The earlier tasks from which a duration is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Basis {
    /// The same instruction for the same files of the same repository.
    SameTask,
    /// Tasks of the repository with this label, `key=value`.
    Label(String),
    /// Tasks of the repository with this LLM.
    Llm(LlmName),
    /// Tasks of the repository.
    Repository,
    /// All tasks.
    AllTasks,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameTask => f.write_str("earlier runs of the same task"),
            Self::Label(label) => {
                write!(f, "earlier tasks of its repository with the label {label}")
            }
            Self::Llm(llm) => write!(f, "earlier tasks of its repository with {llm}"),
            Self::Repository => f.write_str("earlier tasks of its repository"),
            Self::AllTasks => f.write_str("all earlier tasks"),
        }
    }
}

/// The average duration of one kind, and how far durations are from it on average.
#[derive(Debug, Clone, Copy, Default)]
struct Average {
    mean_ms: u32,
    deviation_ms: u32,
    durations: u32,
}

impl Average {
    /// The first durations count equally.
    fn learn(&mut self, ms: u32) {
        self.durations = self.durations.saturating_add(1);
        let weight = i64::from(self.durations.min(WEIGHT));
        let (mean, deviation) = (i64::from(self.mean_ms), i64::from(self.deviation_ms));
        let off = if self.durations == 1 {
            0
        } else {
            (i64::from(ms) - mean).abs()
        };
        self.mean_ms = u32::try_from(mean + (i64::from(ms) - mean) / weight).unwrap_or(u32::MAX);
        self.deviation_ms =
            u32::try_from(deviation + (off - deviation) / weight).unwrap_or(u32::MAX);
    }

    /// The deviation in thousandths of the average.
    fn spread(&self) -> u64 {
        u64::from(self.deviation_ms) * 1000 / u64::from(self.mean_ms.max(1))
    }
}

/// The durations of earlier tasks, by kind. Its memory is bounded.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    young: HashMap<TaskKind, Average>,
    old: HashMap<TaskKind, Average>,
    all: Average,
}

impl Durations {
    /// Learns how long a task with these traits took with this LLM.
    pub fn learn(&mut self, traits: &Traits, llm: Option<&LlmName>, took: Duration) {
        let ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        let llm = llm.map(|llm| traits.with_llm(llm));
        let labels = traits.labels.iter().map(|label| label.kind);
        let kinds = [traits.same_task, traits.repository]
            .into_iter()
            .chain(llm)
            .chain(labels);
        for kind in kinds {
            let known = self.get(kind).unwrap_or_default();
            self.young.entry(kind).or_insert(known).learn(ms);
        }
        self.all.learn(ms);
        if self.young.len() > KINDS {
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// How long a task with these traits will probably take; None when no task has finished yet. `llm` is the LLM that all
    /// programmers of its route ask first, if it is one.
    ///
    /// The answer is the average of the most similar tasks that are known: the same task, or else the label whose tasks
    /// differ least, the LLM, the repository, all tasks.
    pub fn expect(&self, traits: &Traits, llm: Option<&LlmName>) -> Option<Expected> {
        let enough = |kind: TaskKind| self.get(kind).filter(|average| average.durations >= ENOUGH);
        let same = || Some((self.get(traits.same_task)?, Basis::SameTask));
        let label = || {
            let known = traits
                .labels
                .iter()
                .filter_map(|label| Some((enough(label.kind)?, label)));
            let (average, label) = known.min_by_key(|(average, _)| average.spread())?;
            Some((average, Basis::Label(label.words.to_string())))
        };
        let with_llm = || Some((enough(traits.with_llm(llm?))?, Basis::Llm(llm?.clone())));
        let repository = || Some((enough(traits.repository)?, Basis::Repository));
        let all = || Some((self.all, Basis::AllTasks)).filter(|(all, _)| all.durations > 0);
        let (average, by) = same()
            .or_else(label)
            .or_else(with_llm)
            .or_else(repository)
            .or_else(all)?;
        Some(Expected {
            duration: Duration::from_millis(average.mean_ms.into()),
            by,
        })
    }

    fn get(&self, kind: TaskKind) -> Option<Average> {
        self.young
            .get(&kind)
            .or_else(|| self.old.get(&kind))
            .copied()
    }
}

/// A task of one submission, for its place among the tasks of the same route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToOrder {
    /// The submitter wants it before tasks of normal priority.
    pub high: bool,
    /// No task behind it goes before it, because it has a deadline.
    pub keeps_place: bool,
    /// How long it will probably take.
    pub expected: Duration,
}

/// The order in which to publish tasks of one route that were submitted together: their indices. `programmers` is how many
/// programmers can do them.
///
/// High priority goes first, then the longest. So that nobody waits much longer for that than first come, first served
/// would take, only tasks that follow each other change places, and only as many as these programmers can do in
/// `most_delay`. A task with a deadline keeps its place. If the tasks take as long as expected and all these programmers work,
/// none starts later than first come, first served by more than `most_delay` and the longest task.
pub fn longest_first(tasks: &[ToOrder], programmers: usize, most_delay: Duration) -> Vec<usize> {
    let programmers = u32::try_from(programmers.max(1)).unwrap_or(u32::MAX);
    let most = most_delay.saturating_mul(programmers);
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    let mut begin = 0;
    while begin < tasks.len() {
        let mut work = Duration::ZERO;
        let fits = |task: &&ToOrder| {
            work = work.saturating_add(task.expected);
            work <= most && !task.keeps_place
        };
        // One task alone may take longer.
        let end = begin + tasks[begin..].iter().take_while(fits).count().max(1);
        order[begin..end].sort_by_key(|index| {
            let ToOrder { high, expected, .. } = tasks[*index];
            (Reverse(high), Reverse(expected))
        });
        begin = end;
    }
    order
}

#[cfg(test)]
#[path = "expected_tests.rs"]
mod tests;
